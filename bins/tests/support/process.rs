//! Processes of which what they say is read line by line.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::wait::PATIENCE;

/// A process that runs, and what it says to either output.
pub(crate) struct Running {
    pub(crate) child: Child,
    lines: Receiver<String>,
    pub(crate) seen: Vec<String>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        Self { child, lines, seen: Vec::new() }
    }

    /// The first line with this text, which it has said or will say.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        if let Some(line) = self.seen.iter().find(|line| line.contains(text)) {
            return line.clone();
        }
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(error) => panic!("{text:?} was never said ({error}): {:#?}", self.seen),
            }
        }
    }

    /// Once it is ready.
    #[track_caller]
    pub(crate) fn ready(mut self) -> Self {
        self.wait_for("** IPFS Cluster is READY **");
        self
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Waits for its end, and for all that it said; -1 where a signal ended it.
    #[track_caller]
    pub(crate) fn exit_code(&mut self) -> i32 {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.seen.extend(self.lines.iter());
                return status.code().unwrap_or(-1);
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end: {:#?}", self.seen);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it as an operator does.
    #[track_caller]
    pub(crate) fn stop(&mut self) -> i32 {
        self.signal("TERM");
        self.exit_code()
    }

    /// In how many lines it said this.
    pub(crate) fn said(&self, text: &str) -> usize {
        self.seen.iter().filter(|line| line.contains(text)).count()
    }

    /// The port that the REST API listens on, which it says while it starts.
    #[track_caller]
    pub(crate) fn api_port(&mut self) -> u16 {
        port(&self.wait_for("REST API (HTTP): "))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            self.seen.extend(self.lines.iter());
            eprintln!("what process {} said: {:#?}", self.child.id(), self.seen);
        }
    }
}

/// The port in a line with an address.
pub(crate) fn port(line: &str) -> u16 {
    let digits = line.split("/tcp/").nth(1).unwrap();
    digits.split(|character: char| !character.is_ascii_digit()).next().unwrap().parse().unwrap()
}
