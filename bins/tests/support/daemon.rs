//! A daemon of whoever's program, and its log.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::wait::wait_until;

/// Bytes of a log that are shown when a test fails: what was said last.
const SHOWN_BYTES: usize = 16_000;

/// What a daemon says goes to one file, over all its runs.
pub(crate) struct Daemon {
    name: String,
    log: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    /// One that does not run, with its log in this folder.
    pub(crate) fn new(name: &str, folder: &Path) -> Self {
        Self { name: name.to_owned(), log: folder.join("daemon.log"), child: None }
    }

    /// Starts it (again) and waits until it answers.
    #[track_caller]
    pub(crate) fn start(&mut self, command: &mut Command, mut answers: impl FnMut() -> bool) {
        assert!(self.child.is_none(), "it runs already");
        let log = std::fs::File::options().create(true).append(true).open(&self.log).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = self.child.insert(command.spawn().unwrap());
        let name = &self.name;
        wait_until(&format!("the daemon of {name} answers"), || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the daemon of {name} ended: {status}");
            }
            answers()
        });
    }

    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Ends it as an operator does, and waits until it did.
    #[track_caller]
    pub(crate) fn stop(&mut self) -> ExitStatus {
        terminate(&format!("the daemon of {}", self.name), self.child.take().expect("it does not run"))
    }

    /// Ends it without a chance to do anything.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it does not run");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("it does not run");
        let mut status = None;
        wait_until(&format!("the daemon of {} ends by itself", self.name), || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        self.child = None;
        status.unwrap()
    }

    /// Everything that it said.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let start = log.floor_char_boundary(log.len().saturating_sub(SHOWN_BYTES));
            eprintln!("--- log of the daemon of {} ---\n{}", self.name, &log[start..]);
        }
    }
}

/// Asks a process to end, as an operator does, and waits until it did.
#[track_caller]
pub(crate) fn terminate(what: &str, mut child: Child) -> ExitStatus {
    assert!(Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap().success());
    let mut status = None;
    wait_until(&format!("{what} stops"), || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}
