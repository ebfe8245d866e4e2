//! Plans for people.

use std::fmt;
use std::time::Duration;

use super::{Plan, What};
use crate::testing::cluster::DiskTrouble;

const KEPT: &str = ", some of the unsynced is kept";

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Pin { peer, cid, factors: (min, max), direct, expires_in } => {
                write!(f, "peer {peer}: pin c{cid}, factors {min} to {max}")?;
                if direct {
                    f.write_str(", direct")?;
                }
                expires_in.map_or(Ok(()), |time| write!(f, ", for {time:?}"))
            }
            Self::Burst { peer, cid, pins } => write!(f, "peer {peer}: {pins} pins at once from c{cid} on"),
            Self::Unpin { peer, cid } => write!(f, "peer {peer}: unpin c{cid}"),
            Self::Update { peer, from, to } => write!(f, "peer {peer}: update c{from} to c{to}"),
            Self::Recover { peer } => write!(f, "peer {peer}: recover everything"),
            Self::Partition { one, other } => write!(f, "cut {one} off from {other}"),
            Self::Heal => f.write_str("heal the network"),
            Self::Crash { peer, keep_some: false } => write!(f, "crash {peer}"),
            Self::Crash { peer, keep_some: true } => write!(f, "crash {peer}{KEPT}"),
            Self::Stop { peer } => write!(f, "stop {peer}"),
            Self::Start { peer } => write!(f, "start {peer}"),
            Self::DaemonDown { peer } => write!(f, "daemon {peer} goes down"),
            Self::DaemonUp { peer } => write!(f, "daemon {peer} comes up"),
            Self::Loss { percent } => write!(f, "lose {percent} % of gossip"),
            Self::Disk { peer, trouble: DiskTrouble::None } => write!(f, "disk {peer} works"),
            Self::Disk { peer, trouble: DiskTrouble::Full } => write!(f, "disk {peer} is full"),
            Self::Disk { peer, trouble: DiskTrouble::FailingWrites(writes) } => {
                write!(f, "{writes} writes on disk {peer} fail")
            }
            Self::Disk { peer, trouble: DiskTrouble::Unreachable } => {
                write!(f, "disk {peer} does not answer")
            }
            Self::SlowDisk { peer, latency } => write!(f, "disk {peer} takes up to {latency:?}"),
            Self::SlowLeader { latency } => write!(f, "the leader's disk takes up to {latency:?}"),
            Self::Read { peer, cid } => write!(f, "peer {peer}: read c{cid}"),
            Self::Isolate { peer } => write!(f, "cut {peer} off from all others"),
            Self::IsolateLeader => f.write_str("cut the leader off from all others"),
            Self::CrashLeader { keep_some } => {
                write!(f, "crash the leader{}", if keep_some { KEPT } else { "" })
            }
            Self::CrashVoter { after, keep_some } => {
                let kept = if keep_some { KEPT } else { "" };
                write!(
                    f,
                    "crash the next one that votes, {after:?} later, and cut off who got the vote{kept}"
                )
            }
            Self::CrashAll { keep_some } => write!(f, "crash everybody{}", if keep_some { KEPT } else { "" }),
            Self::Join { peer, through } => write!(f, "peer {through}: add peer {peer}"),
            Self::Remove { peer, through } => write!(f, "peer {through}: remove peer {peer}"),
            Self::Skew { peer, milliseconds } => write!(f, "clock {peer} is {milliseconds} ms ahead"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {} peers ({} follow), trust {}, blocks by {}, batching {:?}, factors {:?}, repinning {}, {} CIDs",
            self.seed,
            self.peers,
            self.followers,
            if self.trust_everybody { "everybody" } else { "by name" },
            if self.bitswap { "bitswap" } else { "streams" },
            self.batching,
            self.factors,
            self.repinning,
            self.cids,
        )?;
        writeln!(
            f,
            "  {} % of gossip lost, delays {:?}, daemons take up to {:?}, {} % fail",
            self.loss_percent, self.delays, self.daemon_latency, self.daemon_failures_percent
        )?;
        #[cfg(feature = "consensus-raft")]
        if let Some(raft) = &self.raft {
            writeln!(f, "  by raft: {raft:?}")?;
        }
        if let Some(late) = self.late {
            writeln!(f, "  peer {late} is not there until it is started")?;
        }
        if let Some(walker) = self.walker {
            writeln!(f, "  peer {walker} only walks")?;
        }
        let mut time = Duration::ZERO;
        for (place, step) in self.steps.iter().enumerate() {
            time += step.after;
            writeln!(f, "  {place:3} {:9.3} s  {}", time.as_secs_f64(), step.what)?;
        }
        Ok(())
    }
}
