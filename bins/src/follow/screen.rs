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
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{debug, info};

use super::shown;
use crate::service::logging;

/// How often the terminal shows how things are.
const SHOWN_EVERY: Duration = Duration::from_secs(1);
/// How often the log says so, if there is no terminal and something changed.
const LOGGED_EVERY: Duration = Duration::from_secs(60);
/// How long before that it is asked, so that what is looked at in the background is new by then.
const LOOKED_BEFORE: Duration = Duration::from_secs(5);
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
        if place.is_none() && cluster.summary().await.is_ok() {
            sleep(LOOKED_BEFORE).await;
        }
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
            line += &format!(" {}", shown(&name));
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
        // What is left below its limit is of no use then.
        Some(repo) if summary.operations.waiting_for_space > 0 => {
            format!("; repo {}, no space left", HumanBytes(repo.stat.repo_size))
        }
        Some(repo) => {
            format!("; repo {}, {} free", HumanBytes(repo.stat.repo_size), HumanBytes(repo.stat.free_bytes()))
        }
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
        let screen =
            Arc::new(Self { lines: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()), style });
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

#[cfg(test)]
mod tests {
    use ipfs_cluster::cluster::{PinInProgress, PinsHere, RepoSummary};
    use ipfs_cluster::types::{RepoStat, parse_cid};

    use super::*;

    type Change = fn(&mut Summary);

    /// A summary of which some of the figures are these.
    fn summary(changes: &[Change]) -> Summary {
        let mut summary = Summary::default();
        (summary.peers, summary.pins) = (4, 1_000_000);
        for change in changes {
            change(&mut summary);
        }
        summary
    }

    fn here(allocated: u64, pinned: u64, lost: u64) -> Option<PinsHere> {
        let mut here = PinsHere::default();
        (here.allocated, here.pinned, here.unexpectedly_unpinned) = (allocated, pinned, lost);
        Some(here)
    }

    fn repo(repo_size: u64, storage_max: u64) -> Option<RepoSummary> {
        let mut repo = RepoSummary::default();
        repo.stat = RepoStat { repo_size, storage_max };
        Some(repo)
    }

    #[test]
    fn a_line_says_what_there_is_to_say_and_no_more() {
        use PinsetStanding::{Behind, InSync, Unknown};
        let all: Change = |summary| summary.here = here(1_000_000, 1_000_000, 0);
        let cases: &[(&[Change], PinsetStanding, &str)] = &[
            (&[], Unknown, "4 peers, 1,000,000 pins: counting those that are pinned"),
            (&[all], Unknown, "4 peers, 1,000,000 pins: 1,000,000 pinned"),
            (&[all], InSync, "4 peers, 1,000,000 pins: 1,000,000 pinned; in sync"),
            (
                &[|summary| (summary.peers, summary.pins) = (1, 1), |summary| summary.here = here(1, 0, 1)],
                Unknown,
                "1 peer, 1 pin: 0 pinned, 1 unexpectedly unpinned",
            ),
            (
                &[
                    |summary| summary.here = here(900, 500, 0),
                    |summary| summary.operations.pinning = 10,
                    |summary| summary.operations.pin_queued = 387,
                    |summary| summary.operations.pin_error = 3,
                    |summary| (summary.operations.unpin_queued, summary.operations.unpinning) = (4, 1),
                    |summary| summary.operations.unpin_error = 2,
                    |summary| summary.repo = repo(13 << 30, 100 << 30),
                ],
                Behind(120),
                "4 peers, 1,000,000 pins (900 for this peer): 500 pinned, 10 being pinned, 387 queued, 3 in error, \
                 5 to be unpinned, 2 failed to be unpinned; about 120 behind; repo 13.00 GiB, 87.00 GiB free",
            ),
            (
                &[
                    all,
                    |summary| summary.operations.pin_queued = 9,
                    |summary| summary.operations.waiting_for_space = 9,
                    |summary| summary.repo = repo(11, 10),
                ],
                Unknown,
                "4 peers, 1,000,000 pins: 1,000,000 pinned, 9 waiting for space on the IPFS daemon; repo 11 B, no space left",
            ),
            (
                &[all, |summary| summary.error = "the daemon\n\u{1b}[2J is down".to_owned()],
                Unknown,
                "4 peers, 1,000,000 pins: 1,000,000 pinned; the daemon\\n\\u{1b}[2J is down",
            ),
        ];
        for (changes, standing, expected) in cases {
            assert_eq!(lines("news", &summary(changes), *standing), [format!("news: {expected}")]);
        }
    }

    #[test]
    fn a_few_of_the_pins_in_progress_are_shown_by_name_and_blocks() {
        let cid = parse_cid("QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o").unwrap();
        let mut busy = summary(&[]);
        busy.in_progress = vec![
            PinInProgress::new(cid, "", 0),
            PinInProgress::new(cid, "films\r", 1),
            PinInProgress::new(cid, "x".repeat(1000), 12_345),
            PinInProgress::new(cid, "one too many", 1),
        ];
        let long = "x".repeat(NAME_CHARACTERS_MAX);
        assert_eq!(
            lines("news", &busy, PinsetStanding::Unknown)[1..],
            [
                format!("  pinning {cid}"),
                format!("  pinning {cid} films\\r, 1 block"),
                format!("  pinning {cid} {long}, 12,345 blocks"),
            ]
        );
    }

    #[test]
    fn we_are_as_far_behind_as_the_trusted_peer_that_is_furthest_ahead() {
        use PinsetStanding::{Ahead, Behind, Diverged, InSync, Unknown};
        let cases: &[(&[PinsetStanding], PinsetStanding)] = &[
            (&[], Unknown),
            (&[Unknown], Unknown),
            (&[InSync, Unknown], InSync),
            (&[Behind(7)], InSync),
            (&[Ahead(3), InSync, Ahead(9), Behind(1)], Behind(9)),
            (&[Ahead(9), Ahead(3)], Behind(9)),
            (&[Diverged, InSync], InSync),
            (&[Unknown, Diverged], Diverged),
        ];
        for (standings, expected) in cases {
            let standings: BTreeMap<PeerId, PinsetStanding> =
                standings.iter().map(|standing| (PeerId::random(), *standing)).collect();
            assert_eq!(own_standing(&standings, |_| true), *expected, "{standings:?}");
            assert_eq!(own_standing(&standings, |_| false), Unknown);
        }
    }
}
