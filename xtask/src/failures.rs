//! What failed in a run of tests, read from what it prints.

use std::fmt;

/// Lines that all failures together are told in, names not counted.
const LINES_MAX: usize = 40;
/// Lines that each of them has at least, and so how many of them are told.
const LINES_MIN: usize = 4;
/// Characters of a line.
const LINE_MAX: usize = 600;
/// Lines kept of what a test printed that failed without a panic.
const LAST_KEPT: usize = 4;

/// Tests that failed, with their panics.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    failed: Vec<Failure>,
    place: Place,
}

#[derive(Debug)]
struct Failure {
    name: String,
    /// Messages of its panics, with where they were.
    panics: Vec<String>,
    /// What it printed last.
    last: Vec<String>,
}

/// Where in the output we are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Elsewhere,
    /// In what a test printed that failed.
    Output,
    /// In the message of its panic.
    Panic,
}

impl Failures {
    /// Looks at the next line, without its end.
    pub(crate) fn see(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            self.failed.push(Failure::new(name));
            self.place = Place::Output;
            return;
        }
        if self.place == Place::Elsewhere {
            // A program that was killed, or that aborted, says nothing of its tests.
            if line.contains("process didn't exit successfully") && line.contains("(signal: ") {
                self.failed.push(Failure::new(line.trim()));
            }
            return;
        }
        let is_end = line == "failures:" || line.starts_with("test result: ");
        let Some(failure) = self.failed.last_mut().filter(|_| !is_end) else {
            self.place = Place::Elsewhere;
            return;
        };
        if line.starts_with("thread '") && line.contains(" panicked at ") {
            self.place = Place::Panic;
        } else if line.starts_with("note: run with `RUST_BACKTRACE=") || line == "stack backtrace:" {
            self.place = Place::Output;
            return;
        }
        let kept = cut(line);
        if self.place == Place::Panic {
            if failure.panics.len() <= LINES_MAX {
                failure.panics.push(kept);
            }
        } else if !kept.is_empty() {
            if failure.last.len() == LAST_KEPT {
                failure.last.remove(0);
            }
            failure.last.push(kept);
        }
    }
}

impl Failure {
    fn new(name: &str) -> Self {
        Self { name: cut(name), panics: Vec::new(), last: Vec::new() }
    }
}

/// The line, without its middle where it is too long.
fn cut(line: &str) -> String {
    let line = line.trim_end();
    let count = line.chars().count();
    if count <= LINE_MAX {
        return line.to_owned();
    }
    let half = |take: &mut dyn Iterator<Item = char>| take.collect::<String>();
    let begin = half(&mut line.chars().take(LINE_MAX / 2));
    let end = half(&mut line.chars().skip(count - LINE_MAX / 2));
    format!("{begin} … {end}")
}

impl fmt::Display for Failures {
    /// Nothing, or lines that follow the one that says that something failed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = self.failed.len().min(LINES_MAX / LINES_MIN);
        for failure in &self.failed[..told] {
            write!(f, "\n--- {}", failure.name)?;
            let lines = if failure.panics.is_empty() { &failure.last } else { &failure.panics };
            let most = lines.len().min(LINES_MAX / told);
            for line in &lines[..most] {
                write!(f, "\n    {line}")?;
            }
            if most < lines.len() {
                write!(f, "\n    …")?;
            }
        }
        match self.failed.len() - told {
            0 => Ok(()),
            more => write!(f, "\n--- and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        let mut failures = Failures::default();
        text.lines().for_each(|line| failures.see(line));
        failures.to_string()
    }

    #[test]
    fn the_panics_of_tests_that_failed_are_told_once_more() {
        let text = "\
running 3 tests
test good ... ok
test bad ... FAILED
thread 'printed by a test that passes' panicked at x
error: not one of ours

failures:

---- group::bad stdout ----
it printed this
thread 'group::bad' (42) panicked at tests/a.rs:7:5:
assertion `left == right` failed: why
  left: 1
 right: 2
stack backtrace:
   0: __rustc::rust_begin_unwind
thread 'tokio-rt-worker' (43) panicked at tests/a.rs:9:5:
second
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace

---- worse stdout ----
Error: \"it returned this\"


failures:
    group::bad
    worse

test result: FAILED. 1 passed; 2 failed
error: test failed, to rerun pass `--lib`
";
        assert_eq!(
            told(text),
            "
--- group::bad
    thread 'group::bad' (42) panicked at tests/a.rs:7:5:
    assertion `left == right` failed: why
      left: 1
     right: 2
    thread 'tokio-rt-worker' (43) panicked at tests/a.rs:9:5:
    second
--- worse
    Error: \"it returned this\""
        );
        assert_eq!(told("test good ... ok\n\ntest result: ok. 1 passed"), "");
    }

    #[test]
    fn a_program_that_a_signal_ended_is_told() {
        let line =
            "  process didn't exit successfully: `target/x` (signal: 6, SIGABRT: process abort signal)";
        assert_eq!(told(line), format!("\n--- {}", line.trim()));
    }

    #[test]
    fn what_is_told_is_bounded_in_lines_and_their_length() {
        let panic = format!("thread 'x' panicked at y:\n{}\n", "long ".repeat(1_000));
        let one = format!("---- x stdout ----\n{panic}{}", "line\n".repeat(100));
        assert_eq!(told(&one).lines().count(), 1 + 1 + LINES_MAX + 1);
        let many = told(&one.repeat(50));
        assert!(many.lines().count() <= 1 + LINES_MAX / LINES_MIN * (LINES_MIN + 2) + 1, "{many}");
        assert!(many.ends_with("--- and 40 more"), "{many}");
        assert!(many.lines().all(|line| line.chars().count() < LINE_MAX + 20));
    }
}
