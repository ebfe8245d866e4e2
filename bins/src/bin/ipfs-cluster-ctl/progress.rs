//! How far long work is, on stderr and only for a person who watches: never where stderr is no terminal, and gone
//! without a trace when the work is done or has failed.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

/// Work that is done sooner shows nothing.
const QUIET: Duration = Duration::from_secs(1);
/// How often work that says nothing itself shows that it is still going on.
const TICK: Duration = Duration::from_millis(250);
/// How many items pass between two looks at the clock.
const ITEMS_BETWEEN: u64 = 64;

/// Where progress is of use.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Audience {
    watches: bool,
    /// Whether the results go to the same screen.
    reads_along: bool,
}

impl Audience {
    /// Looks at the terminal. With --debug the log tells how things go, and the two would overwrite each other.
    pub(crate) fn of_this_process(debug: bool) -> Self {
        let can_overwrite = std::env::var_os("TERM").is_some_and(|term| term != "dumb");
        Self {
            watches: !debug && can_overwrite && io::stderr().is_terminal(),
            reads_along: io::stdout().is_terminal(),
        }
    }

    /// Progress of work whose results come at its end.
    pub(crate) fn progress(self) -> Progress {
        Progress::new(self.watches)
    }

    /// Progress of a listing, which itself shows how far it is where it goes to the screen.
    pub(crate) fn listing(self) -> Progress {
        Progress::new(self.watches && !self.reads_along)
    }
}

/// One line on the terminal, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    is_shown: bool,
    items: u64,
}

impl Progress {
    fn new(is_shown: bool) -> Self {
        Self { bar: None, started: Instant::now(), is_shown, items: 0 }
    }

    /// Shows a state in place of the one before.
    pub(crate) fn say(&mut self, state: impl FnOnce() -> String) {
        let elapsed = self.started.elapsed();
        if !self.is_shown || elapsed < QUIET {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            // Without this the bar keeps its own form, which is no worse than none.
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        bar.set_message(format!("{}, {}", state(), HumanDuration(Duration::from_secs(elapsed.as_secs()))));
        bar.tick();
    }

    /// Counts an item of a listing, and shows from time to time how many came how fast.
    pub(crate) fn item(&mut self) {
        self.items += 1;
        if self.is_shown && self.items.is_multiple_of(ITEMS_BETWEEN) {
            self.say_items();
        }
    }

    /// Shows how many came, where a listing pauses.
    pub(crate) fn say_items(&mut self) {
        let (items, seconds) = (self.items, self.started.elapsed().as_secs_f64());
        self.say(|| {
            let rate = (items as f64 / seconds.max(f64::MIN_POSITIVE)) as u64;
            format!("{} items, {} a second", HumanCount(items), HumanCount(rate))
        });
    }

    /// Shows that work is going on until it is done.
    pub(crate) async fn during<F: Future>(&mut self, what: &str, work: F) -> F::Output {
        tokio::pin!(work);
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                biased;
                result = &mut work => return result,
                _ = ticks.tick(), if self.is_shown => self.say(|| what.to_owned()),
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
