//! Questions to the person at the terminal.

use std::io::{self, BufRead, Write};

/// How often an answer that is none is asked for again.
const TRIES: u32 = 3;

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 4096;

/// Asks until there is an answer, three times at most. Nothing, the end of the input and three answers that are
/// none mean no.
///
/// # Errors
/// Of the input or output.
pub fn confirm(question: &str, input: &mut impl BufRead, output: &mut impl Write) -> io::Result<bool> {
    for _ in 0..TRIES {
        write!(output, "{question} Continue? [y/n]: ")?;
        output.flush()?;
        match answer(input)?.as_str() {
            "y" | "Y" => return Ok(true),
            "n" | "N" | "" => return Ok(false),
            _ => writeln!(output, "Please press either 'y' or 'n'")?,
        }
    }
    Ok(false)
}

/// Asks for one line.
///
/// # Errors
/// Of the input or output.
pub fn ask(question: &str, input: &mut impl BufRead, output: &mut impl Write) -> io::Result<String> {
    write!(output, "{question}")?;
    output.flush()?;
    answer(input)
}

/// One line, with the blanks it has.
///
/// # Errors
/// Of the input; `InvalidData` for a line that is too long or not UTF-8.
pub fn line(input: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    io::Read::take(input, ANSWER_BYTES_MAX).read_line(&mut line)?;
    if line.len() as u64 == ANSWER_BYTES_MAX {
        let text = format!("the line is longer than {ANSWER_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Asks for one line that the terminal does not show. A signal that ends the program while it waits leaves the terminal
/// as it was, and the exit code 128 and the number of the signal.
///
/// # Errors
/// Of the terminal, and of waiting for signals.
#[cfg(unix)]
pub fn ask_unseen(question: &str) -> io::Result<String> {
    unseen::ask(question)
}

/// Asks for one line.
///
/// # Errors
/// Of the terminal.
#[cfg(not(unix))]
pub fn ask_unseen(question: &str) -> io::Result<String> {
    eprint!("{question}");
    line(&mut io::stdin().lock())
}

/// The terminal that shows nothing for a while.
#[cfg(unix)]
mod unseen {
    use std::future::poll_fn;
    use std::io::{self, Write as _};
    use std::process;
    use std::sync::mpsc;
    use std::sync::{Mutex, MutexGuard, PoisonError};
    use std::task::Poll;
    use std::thread;

    use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
    use tokio::signal::unix::{Signal, SignalKind, signal};

    /// What shells add to the number of the signal that ended a program.
    const ENDED_BY_SIGNAL: i32 = 128;

    static TERMINAL: Mutex<Terminal> = Mutex::new(Terminal { shown: None, is_watched: false });

    struct Terminal {
        /// How it was before it was told to show nothing.
        shown: Option<Termios>,
        /// Whether signals find it.
        is_watched: bool,
    }

    fn terminal() -> MutexGuard<'static, Terminal> {
        TERMINAL.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows again, whatever happens.
    struct Shown;

    impl Drop for Shown {
        fn drop(&mut self) {
            show();
        }
    }

    fn show() {
        let shown = terminal().shown.take();
        // A terminal that is gone needs nothing.
        let _ = shown.map(|shown| tcsetattr(io::stdin(), OptionalActions::Now, &shown));
    }

    pub(super) fn ask(question: &str) -> io::Result<String> {
        let shown = tcgetattr(io::stdin())?;
        let mut unseen = shown.clone();
        unseen.local_modes.remove(LocalModes::ECHO);
        unseen.local_modes.insert(LocalModes::ECHONL);
        let mut terminal = terminal();
        if !terminal.is_watched {
            watch()?;
            terminal.is_watched = true;
        }
        terminal.shown = Some(shown);
        drop(terminal);
        let _shown = Shown;
        tcsetattr(io::stdin(), OptionalActions::Flush, &unseen)?;
        eprint!("{question}");
        super::line(&mut io::stdin().lock())
    }

    /// From when this returns, and for as long as the program lives, signals that end it go through [`end`]: handlers
    /// cannot be taken back.
    fn watch() -> io::Result<()> {
        let (tell, told) = mpsc::channel();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return tell.send(Err(error)).unwrap_or(()),
            };
            runtime.block_on(async {
                let kinds = [
                    SignalKind::hangup(),
                    SignalKind::interrupt(),
                    SignalKind::quit(),
                    SignalKind::terminate(),
                ];
                let signals = kinds.into_iter().map(|kind| Ok((kind, signal(kind)?)));
                match signals.collect::<io::Result<Vec<_>>>() {
                    Err(error) => tell.send(Err(error)).unwrap_or(()),
                    Ok(signals) => {
                        tell.send(Ok(())).unwrap_or(());
                        end(signals).await;
                    }
                }
            });
        })?;
        told.recv().unwrap_or_else(|_| Err(io::Error::other("the thread for signals ended")))
    }

    /// Ends the program with the first signal that comes.
    async fn end(mut signals: Vec<(SignalKind, Signal)>) {
        let kind = poll_fn(|cx| {
            let mut came = signals.iter_mut().filter_map(|(kind, signal)| {
                matches!(signal.poll_recv(cx), Poll::Ready(Some(()))).then_some(*kind)
            });
            came.next().map_or(Poll::Pending, Poll::Ready)
        });
        let kind = kind.await;
        show();
        // The line of the question is still open.
        let _ = writeln!(io::stderr());
        process::exit(ENDED_BY_SIGNAL + kind.as_raw_value());
    }
}

fn answer(input: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    io::Read::take(input, ANSWER_BYTES_MAX).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(input: &str) -> (bool, String) {
        let mut output = Vec::new();
        let yes = confirm("Really?", &mut input.as_bytes(), &mut output).unwrap();
        (yes, String::from_utf8(output).unwrap())
    }

    #[test]
    fn answers_are_those_of_the_reference() {
        for (input, yes) in
            [("y\n", true), ("Y", true), ("n\n", false), ("N\n", false), ("\n", false), ("", false)]
        {
            assert_eq!(answered(input), (yes, "Really? Continue? [y/n]: ".to_owned()), "{input:?}");
        }
    }

    #[test]
    fn an_answer_that_is_none_is_asked_for_again_twice() {
        let hint = "Please press either 'y' or 'n'\n";
        let question = "Really? Continue? [y/n]: ";
        assert_eq!(answered("yes\nno\ny\n"), (true, format!("{question}{hint}{question}{hint}{question}")));
        assert!(!answered("a\nb\nc\ny\n").0);
    }
}
