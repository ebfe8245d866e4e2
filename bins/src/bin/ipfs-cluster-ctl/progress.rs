//! How far long work is, on stderr and only for a person who watches: never where stderr is no terminal, and gone
//! without a trace when the work is done or has failed.

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use indicatif::{
    HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle,
};
use ipfs_cluster::client::Sent;
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

    /// Progress of an upload, which may go on where another one was.
    pub(crate) fn upload(self, from: u64) -> UploadBar {
        UploadBar {
            bar: None,
            from,
            started: Instant::now(),
            is_shown: self.watches,
            reads_along: self.reads_along,
        }
    }

    /// Whether anybody sees progress.
    pub(crate) fn watches(self) -> bool {
        self.watches
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

/// How much of an upload was sent how fast, and how long the rest will take. Gone as [`Progress`] is.
#[derive(Debug)]
pub(crate) struct UploadBar {
    bar: Option<ProgressBar>,
    /// Bytes that were sent before.
    from: u64,
    started: Instant,
    is_shown: bool,
    reads_along: bool,
}

impl UploadBar {
    /// How often it should be shown.
    pub(crate) const TICK: Duration = TICK;

    /// Shows how far it is; how much there is may become known later, or never.
    pub(crate) fn show(&mut self, sent: &Sent, total: Option<u64>) {
        if !self.is_shown || self.started.elapsed() < QUIET {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.with_elapsed(QUIET).with_position(self.from)
        });
        let form = match (sent.is_all(), total.filter(|total| *total > 0)) {
            (true, _) => "{spinner} {bytes} sent, waiting for the cluster, {elapsed}",
            (false, Some(_)) => "{spinner} [{bar:24}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
            (false, None) => "{spinner} {bytes}, {bytes_per_sec}, {elapsed}",
        };
        if let Ok(style) = ProgressStyle::with_template(form) {
            bar.set_style(if self.from > 0 { counting_from(style, self.from) } else { style });
        }
        let position = self.from + sent.bytes();
        if let Some(total) = total {
            bar.set_length((self.from + total).max(position));
        }
        bar.set_position(position);
        bar.tick();
    }

    /// Takes it away for as long as something is printed, if that goes to the same screen.
    pub(crate) fn beside<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) if self.reads_along => bar.suspend(print),
            _ => print(),
        }
    }

    /// Whether what is printed goes to the same screen, and so has to be written before the bar is drawn again.
    pub(crate) fn reads_along(&self) -> bool {
        self.bar.is_some() && self.reads_along
    }
}

/// The same with a rate that does not count what was sent before.
fn counting_from(style: ProgressStyle, from: u64) -> ProgressStyle {
    let rate = move |state: &ProgressState| {
        state.pos().saturating_sub(from) as f64 / state.elapsed().as_secs_f64().max(f64::MIN_POSITIVE)
    };
    style
        .with_key("bytes_per_sec", move |state: &ProgressState, text: &mut dyn fmt::Write| {
            // Where it cannot be shown there is nothing to be done.
            let _ = write!(text, "{}/s", HumanBytes(rate(state) as u64));
        })
        .with_key("eta", move |state: &ProgressState, text: &mut dyn fmt::Write| {
            let left = state.len().unwrap_or_default().saturating_sub(state.pos());
            let seconds = (left as f64 / rate(state).max(1.0)) as u64;
            let _ = write!(text, "{:#}", HumanDuration(Duration::from_secs(seconds)));
        })
}

impl Drop for UploadBar {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
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
