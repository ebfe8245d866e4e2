//! A headline and the elapsed time for each step, and a summary at the end.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;

#[derive(Debug)]
pub(crate) struct Steps {
    started: Instant,
    done: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    name: String,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    Passed(Duration),
    Failed(Duration),
    Skipped(&'static str),
}

impl Steps {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now(), done: Vec::new() }
    }

    /// Runs one step under its headline. Its error is the caller's to pass on: the first failure ends the run.
    pub(crate) fn run<T>(&mut self, name: impl Into<String>, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let name = name.into();
        eprintln!("\n=== {name}");
        let started = Instant::now();
        let result = work();
        let took = started.elapsed();
        eprintln!("=== {name}: {} in {}", if result.is_ok() { "passed" } else { "FAILED" }, clock(took));
        let outcome = if result.is_ok() { Outcome::Passed(took) } else { Outcome::Failed(took) };
        self.done.push(Step { name, outcome });
        result
    }

    /// A step that did not run is said aloud and stays in the summary: silence would look like a pass.
    pub(crate) fn skip(&mut self, name: impl Into<String>, why: &'static str) {
        let name = name.into();
        eprintln!("\n=== {name}: SKIPPED, {why}");
        self.done.push(Step { name, outcome: Outcome::Skipped(why) });
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// What became of the steps, and of the whole: work between two steps can fail as well.
    pub(crate) fn summary(&self, passed: bool) -> String {
        let mut text = String::from("\n=== summary\n");
        for Step { name, outcome } in &self.done {
            // Writing to a String cannot fail.
            let _ = match outcome {
                Outcome::Passed(took) => writeln!(text, "  passed   {:>7}  {name}", clock(*took)),
                Outcome::Failed(took) => writeln!(text, "  FAILED   {:>7}  {name}", clock(*took)),
                Outcome::Skipped(why) => writeln!(text, "  SKIPPED  {:>7}  {name}: {why}", "-"),
            };
        }
        let verdict = if passed { "passed" } else { "FAILED" };
        let _ = writeln!(text, "  {verdict} after {}", clock(self.elapsed()));
        text
    }
}

/// Minutes and seconds, as a stopwatch shows them.
pub(crate) fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_what_passed_what_failed_and_what_was_skipped() {
        let mut steps = Steps::start();
        steps.run("good", || Ok(())).unwrap();
        steps.skip("absent", "not there yet");
        assert!(steps.summary(true).ends_with("passed after 0:00\n"));
        steps.run("bad", || anyhow::bail!("no") as Result<()>).unwrap_err();
        let summary = steps.summary(false);
        assert!(summary.contains("passed      0:00  good\n"), "{summary}");
        assert!(summary.contains("SKIPPED        -  absent: not there yet\n"), "{summary}");
        assert!(summary.contains("FAILED      0:00  bad\n"), "{summary}");
        assert!(summary.ends_with("FAILED after 0:00\n"), "{summary}");
    }

    #[test]
    fn a_clock_shows_minutes_and_seconds() {
        assert_eq!(clock(Duration::from_secs(3_725)), "62:05");
    }
}
