//! How followers are, while they run: a few lines below the log on a terminal, elsewhere a line of the log now and then.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use ipfs_cluster::ErrorKind;
use ipfs_cluster::cluster::{Cluster, Summary};
use ipfs_cluster::types::{PeerId, PinsetStanding};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, info};

use super::shown;
use crate::service::logging;

/// How often the terminal shows how things are.
const SHOWN_EVERY: Duration = Duration::from_secs(1);
/// How often the log says so, if there is no terminal and something changed.
const LOGGED_EVERY: Duration = Duration::from_secs(60);
/// How often the peers are asked how their pinsets stand to ours.
const STANDING_EVERY: Duration = Duration::from_secs(60);
/// In a cluster of more peers nobody is asked that.
const STANDING_PEERS_MAX: u64 = 64;
/// Pins in progress that are shown of each follower.
const PINS_SHOWN_MAX: usize = 3;
/// Most characters of a name that are shown.
const NAME_CHARACTERS_MAX: usize = 60;

/// Shows how a follower is, for as long as this future lives; it ends when the peer stops.
pub async fn show(name: String, cluster: Cluster) {
    let mut place = Screen::get().map(|screen| Place { screen, bars: Vec::new() });
    let mut ticks = interval(if place.is_some() { SHOWN_EVERY } else { LOGGED_EVERY });
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asking: JoinSet<PinsetStanding> = JoinSet::new();
    let (mut standing, mut asked) = (PinsetStanding::Unknown, None::<Instant>);
    let mut logged = String::new();
    loop {
        ticks.tick().await;
        let summary = match cluster.summary().await {
            Ok(summary) => summary,
            Err(error) if error.kind() == ErrorKind::ShutDown => return,
            Err(error) => {
                debug!(%error, "cannot say how this peer is");
                continue;
            }
        };
        if let Some(Ok(answer)) = asking.try_join_next() {
            standing = answer;
        }
        let is_due = asked.is_none_or(|asked| asked.elapsed() >= STANDING_EVERY);
        if is_due && asking.is_empty() && (2..=STANDING_PEERS_MAX).contains(&summary.peers) {
            asked = Some(Instant::now());
            asking.spawn(ask_standing(cluster.clone()));
        }
        match &mut place {
            Some(place) => place.draw(&lines(&name, &summary, standing)),
            None => {
                let pins = pins_text(&summary, standing);
                if pins != logged {
                    info!("{name}: {pins}{}", repo_text(&summary));
                    logged = pins;
                }
            }
        }
    }
}

/// How our pinset stands to those of the peers that may change it.
async fn ask_standing(cluster: Cluster) -> PinsetStanding {
    let standings = cluster.pinset_standings().await.unwrap_or_default();
    let consensus = cluster.consensus();
    own_standing(&standings, |peer| consensus.is_trusted(peer))
}

/// How our pinset stands to others, of which is known how they stand to ours. Whoever is not trusted may say anything.
fn own_standing(
    standings: &BTreeMap<PeerId, PinsetStanding>,
    is_trusted: impl Fn(&PeerId) -> bool,
) -> PinsetStanding {
    use PinsetStanding::{Ahead, Behind, Diverged, InSync, Unknown};
    let trusted = standings.iter().filter(|(peer, _)| is_trusted(peer));
    trusted.fold(Unknown, |ours, (_, theirs)| match (ours, theirs) {
        (Behind(pins), Ahead(more)) => Behind(pins.max(*more)),
        (_, Ahead(pins)) => Behind(*pins),
        (Behind(pins), _) => Behind(pins),
        (_, InSync | Behind(_)) => InSync,
        (Unknown, Diverged) => Diverged,
        (ours, Diverged | Unknown) => ours,
    })
}

/// What a terminal shows of a follower.
fn lines(name: &str, summary: &Summary, standing: PinsetStanding) -> Vec<String> {
    let mut lines = vec![format!("{name}: {}{}", pins_text(summary, standing), repo_text(summary))];
    for pin in summary.in_progress.iter().take(PINS_SHOWN_MAX) {
        let mut line = format!("  pinning {}", pin.cid);
        if !pin.name.is_empty() {
            let name: String = pin.name.chars().take(NAME_CHARACTERS_MAX).collect();
            line += &format!(" {:?}", shown(&name));
        }
        if pin.blocks > 0 {
            line += &format!(", {}", count(pin.blocks, "block"));
        }
        lines.push(line);
    }
    lines
}

fn count(number: u64, what: &str) -> String {
    format!("{} {what}{}", HumanCount(number), if number == 1 { "" } else { "s" })
}

/// Peers and pins, and why the rest is not known.
fn pins_text(summary: &Summary, standing: PinsetStanding) -> String {
    let mut text = format!("{}, {}", count(summary.peers, "peer"), count(summary.pins, "pin"));
    let operations = &summary.operations;
    match &summary.here {
        Some(here) if here.allocated < summary.pins => {
            text += &format!(" ({} for this peer)", HumanCount(here.allocated));
        }
        _ => {}
    }
    match &summary.here {
        Some(here) => text += &format!(": {} pinned", HumanCount(here.pinned)),
        None => text += ": counting those that are pinned",
    }
    let lost = summary.here.map_or(0, |here| here.unexpectedly_unpinned);
    let queued = operations.pin_queued.saturating_sub(operations.waiting_for_space);
    for (number, what) in [
        (operations.pinning, "being pinned"),
        (queued, "queued"),
        (operations.waiting_for_space, "waiting for space on the IPFS daemon"),
        (operations.pin_error, "in error"),
        (lost, "unexpectedly unpinned"),
        (operations.unpin_queued + operations.unpinning, "to be unpinned"),
        (operations.unpin_error, "failed to be unpinned"),
    ] {
        if number > 0 {
            text += &format!(", {} {what}", HumanCount(number));
        }
    }
    if !standing.is_unknown() {
        text += &format!("; {standing}");
    }
    if !summary.error.is_empty() {
        text += &format!("; {}", shown(&summary.error));
    }
    text
}

fn repo_text(summary: &Summary) -> String {
    match &summary.repo {
        Some(repo) => format!(
            "; repo {}, {} free",
            HumanBytes(repo.stat.repo_size),
            HumanBytes(repo.stat.free_bytes())
        ),
        None => String::new(),
    }
}

/// The lines below the log, of all followers of this process.
struct Screen {
    lines: MultiProgress,
    style: ProgressStyle,
}

impl Screen {
    /// The terminal of this process, if it has one that can be overwritten.
    fn get() -> Option<Arc<Self>> {
        static SCREEN: OnceLock<Option<Arc<Screen>>> = OnceLock::new();
        SCREEN.get_or_init(Self::open).clone()
    }

    fn open() -> Option<Arc<Self>> {
        let can_overwrite = std::env::var_os("TERM").is_some_and(|term| term != "dumb");
        // A line that is cut where the terminal ends.
        let style = ProgressStyle::with_template("{wide_msg}").ok()?;
        if !can_overwrite || !io::stderr().is_terminal() {
            return None;
        }
        let screen = Arc::new(Self {
            lines: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            style,
        });
        let aside = screen.lines.clone();
        logging::write_aside(move |write| aside.suspend(write));
        Some(screen)
    }
}

/// The lines of one follower. They go when this is dropped.
struct Place {
    screen: Arc<Screen>,
    bars: Vec<ProgressBar>,
}

impl Place {
    fn draw(&mut self, lines: &[String]) {
        let Screen { lines: all, style } = &*self.screen;
        for bar in self.bars.drain(lines.len().min(self.bars.len())..) {
            all.remove(&bar);
        }
        for (place, line) in lines.iter().enumerate() {
            if place == self.bars.len() {
                let bar = ProgressBar::new_spinner().with_style(style.clone());
                // Below the lines of the same follower, whatever others are shown.
                let bar = match self.bars.last() {
                    Some(last) => all.insert_after(last, bar),
                    None => all.add(bar),
                };
                self.bars.push(bar);
            }
            self.bars[place].set_message(line.clone());
            self.bars[place].tick();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for bar in &self.bars {
            bar.finish_and_clear();
            self.screen.lines.remove(bar);
        }
    }
}
