//! What happens in a simulation, decided from the seed before anything runs.

#[cfg(feature = "consensus-raft")]
mod raft;
mod shown;

use std::time::Duration;

use crate::testing::cluster::DiskTrouble;
use crate::testing::random::Random;

/// Choices for all of a run, and what is done in it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where all of this came from.
    pub seed: u64,
    /// How many peers.
    pub peers: usize,
    /// How many of them, the last ones, only follow: nobody trusts them and they take no writes.
    pub followers: usize,
    /// Whether everybody trusts everybody, or only whom they name.
    pub trust_everybody: bool,
    /// Whether blocks travel by bitswap, or as they do between our own peers.
    pub bitswap: bool,
    /// How many operations and how much time make a batch; none without batching.
    pub batching: Option<(usize, Duration)>,
    /// The replication factors of pins that do not say.
    pub factors: (i32, i32),
    /// Whether pins of dead peers move.
    pub repinning: bool,
    /// A peer that is not there until it is started.
    pub late: Option<usize>,
    /// A peer that catches up only by walking.
    pub walker: Option<usize>,
    /// How many CIDs there are.
    pub cids: usize,
    /// Delays between pairs of peers.
    pub delays: Vec<(usize, usize, Duration)>,
    /// Gossip messages lost on each hop, of a hundred.
    pub loss_percent: usize,
    /// Longest time that a daemon takes to pin.
    pub daemon_latency: Duration,
    /// Pins and unpins that fail, of a hundred.
    pub daemon_failures_percent: usize,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// How the peers agree by Raft, where they do; otherwise by the CRDT.
    #[cfg(feature = "consensus-raft")]
    pub raft: Option<RaftChoices>,
}

/// One thing that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// How long after the step before.
    pub after: Duration,
    /// What.
    pub what: What,
}

/// What a step does. Peers and CIDs are indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are what their names say.
pub enum What {
    Pin {
        peer: usize,
        cid: usize,
        factors: (i32, i32),
        direct: bool,
        expires_in: Option<Duration>,
    },
    /// Pins so many CIDs at once, from `cid` on.
    Burst {
        peer: usize,
        cid: usize,
        pins: usize,
    },
    Unpin {
        peer: usize,
        cid: usize,
    },
    /// Pin `to` as `from` is pinned.
    Update {
        peer: usize,
        from: usize,
        to: usize,
    },
    Recover {
        peer: usize,
    },
    Partition {
        one: usize,
        other: usize,
    },
    Heal,
    Crash {
        peer: usize,
        keep_some: bool,
    },
    Stop {
        peer: usize,
    },
    Start {
        peer: usize,
    },
    DaemonDown {
        peer: usize,
    },
    DaemonUp {
        peer: usize,
    },
    Loss {
        percent: usize,
    },
    Skew {
        peer: usize,
        milliseconds: i64,
    },
    Disk {
        peer: usize,
        trouble: DiskTrouble,
    },
    /// Each piece of work on a disk takes up to this long from now on.
    SlowDisk {
        peer: usize,
        latency: Duration,
    },
    /// The same of the leader's disk.
    SlowLeader {
        latency: Duration,
    },
    /// Reads what everybody agreed on.
    Read {
        peer: usize,
        cid: usize,
    },
    /// Cuts a peer off from all others.
    Isolate {
        peer: usize,
    },
    /// Cuts the leader off from all others.
    IsolateLeader,
    /// The power goes under the leader.
    CrashLeader {
        keep_some: bool,
    },
    /// Waits until a peer votes for another one, for a while at most. So long after, the power goes under who voted; who got
    /// the vote is cut off from all others, and all others reach each other.
    CrashVoter {
        after: Duration,
        keep_some: bool,
    },
    /// The power goes under everybody.
    CrashAll {
        keep_some: bool,
    },
    /// Lets a member add a peer, with an empty disk if it was removed before.
    Join {
        peer: usize,
        through: usize,
    },
    /// Lets a member remove a peer.
    Remove {
        peer: usize,
        through: usize,
    },
}

/// Least and most steps of a run.
const STEPS: (usize, usize) = (10, 100);
/// How wrong clocks get, in milliseconds either way: less than metrics live.
const SKEW_MAX_MILLISECONDS: usize = 5_000;

impl Plan {
    /// The plan of a seed.
    pub fn from_seed(seed: u64) -> Self {
        let random = &mut Random::new(seed);
        let peers = random.between(2, 5);
        let followers = if peers > 2 && random.percent(25) { random.between(1, peers - 2) } else { 0 };
        let mut delays = Vec::new();
        let slowest = *random.one_of(&[1, 20, 200, 1_000]);
        for one in 0..peers {
            for other in one + 1..peers {
                let delay = random.time(Duration::ZERO, Duration::from_millis(slowest));
                delays.push((one, other, delay));
            }
        }
        let mut plan = Self {
            seed,
            peers,
            followers,
            trust_everybody: followers == 0 && random.percent(50),
            bitswap: random.percent(50),
            batching: random.percent(50).then(|| {
                (random.between(2, 12), random.time(Duration::from_millis(100), Duration::from_secs(8)))
            }),
            factors: factors(random, peers),
            repinning: random.percent(20),
            late: None,
            walker: None,
            cids: random.between(1, 8),
            delays,
            loss_percent: if random.percent(40) { random.below(60) } else { 0 },
            daemon_latency: random.time(Duration::ZERO, Duration::from_secs(3)),
            daemon_failures_percent: if random.percent(40) { random.below(50) } else { 0 },
            steps: Vec::new(),
            #[cfg(feature = "consensus-raft")]
            raft: None,
        };
        let weights = Weights::choose(random, USUAL);
        let mut up = Up::all(&plan);
        let count = random.between(STEPS.0, STEPS.1);
        let patient = random.percent(50);
        plan.steps = (0..count)
            .map(|_| Step {
                after: pause(random, patient),
                what: what(weights.kind(random), random, &plan, &mut up),
            })
            .collect();
        if random.percent(70) {
            // They have time to hear of each other.
            plan.steps[0].after += Duration::from_secs(20);
        }
        // Choices of their own, so that more of them change nothing else.
        let random = &mut Random::new(seed ^ 0x6c61_7465_7220_6f6e);
        if random.percent(10) {
            plan.walker = Some(random.below(peers));
        }
        if peers > 2 && random.percent(15) {
            plan.add_late_branch(random);
        }
        if random.percent(25) {
            plan.add_disk_troubles(random);
        }
        plan
    }

    /// A plan in which a peer joins by what another one gives it at once, and then an old branch turns up: pins, pins
    /// changed and unpins of the CIDs that the joining peer got, made by a peer that was cut off from all others.
    pub fn late_branch(seed: u64) -> Self {
        let mut plan = Self::from_seed(seed);
        let random = &mut Random::new(seed ^ 0x6272_616e_6368);
        if plan.peers < 3 {
            plan.peers = 3;
            plan.factors = (-1, -1);
        }
        (plan.followers, plan.walker, plan.late) = (0, None, None);
        // Only what this is about, among the steps that anything may do.
        plan.steps.retain(|step| {
            matches!(
                step.what,
                What::Pin { .. }
                    | What::Burst { .. }
                    | What::Unpin { .. }
                    | What::Update { .. }
                    | What::Loss { .. }
            )
        });
        while plan.steps.len() < 9 {
            let (peer, cid) = (random.below(plan.peers), random.below(plan.cids));
            let what = if random.percent(60) { pin(peer, cid) } else { What::Unpin { peer, cid } };
            plan.steps.push(Step { after: pause(random, false), what });
        }
        plan.add_late_branch(random);
        plan
    }

    /// Cuts a peer off, lets another one join, and heals the network later.
    fn add_late_branch(&mut self, random: &mut Random) {
        let writers = self.peers - self.followers;
        let old = random.below(writers);
        let late = (old + random.between(1, self.peers - 1)) % self.peers;
        let others: Vec<usize> = (0..writers).filter(|peer| *peer != old && *peer != late).collect();
        let cut = random.between(1, self.steps.len() / 3);
        let join = random.between(cut, self.steps.len() * 2 / 3);
        let heal = random.between(join, self.steps.len());
        let rest: Vec<Step> = std::mem::take(&mut self.steps);
        let add = |steps: &mut Vec<Step>, after: Duration, what: What| steps.push(Step { after, what });
        for (place, step) in rest.into_iter().enumerate() {
            if place == cut {
                for other in (0..self.peers).filter(|other| *other != old) {
                    add(&mut self.steps, Duration::ZERO, What::Partition { one: old, other });
                }
                // Both sides say something of the same CIDs.
                for _ in 0..random.between(2, 8) {
                    let among =
                        if others.is_empty() || random.percent(50) { old } else { *random.one_of(&others) };
                    let cid = random.below(self.cids);
                    let what =
                        if random.percent(60) { pin(among, cid) } else { What::Unpin { peer: among, cid } };
                    add(&mut self.steps, pause(random, false), what);
                }
            }
            if place == join {
                add(
                    &mut self.steps,
                    random.time(Duration::ZERO, Duration::from_secs(5)),
                    What::Start { peer: late },
                );
                // It has some time to catch up.
                add(
                    &mut self.steps,
                    random.time(Duration::ZERO, Duration::from_secs(10)),
                    What::Recover { peer: late },
                );
            }
            if place == heal {
                add(&mut self.steps, pause(random, true), What::Heal);
            }
            let is_early = match step.what {
                What::Heal => (cut..heal).contains(&place),
                What::Start { peer } => peer == late && place < join,
                _ => false,
            };
            if is_early {
                continue;
            }
            self.steps.push(step);
        }
        self.late = Some(late);
    }

    /// Lets disks fail, and most of them work again.
    fn add_disk_troubles(&mut self, random: &mut Random) {
        for _ in 0..random.between(1, 4) {
            let peer = random.below(self.peers);
            let trouble = match random.below(10) {
                0..4 => DiskTrouble::Full,
                4..9 => DiskTrouble::FailingWrites(random.between(1, 4)),
                _ => DiskTrouble::Unreachable,
            };
            let place = random.below(self.steps.len());
            let end = random.between(place + 1, self.steps.len());
            if random.percent(70) {
                let what = What::Disk { peer, trouble: DiskTrouble::None };
                self.steps.insert(end, Step { after: pause(random, true), what });
            }
            self.steps
                .insert(place, Step { after: pause(random, false), what: What::Disk { peer, trouble } });
        }
    }

    /// The same plan with these steps alone, by their places. The steps that stay happen when they did.
    #[must_use]
    pub fn keeping(&self, places: &[usize]) -> Self {
        let mut kept = Self { steps: Vec::new(), ..self.clone() };
        let mut skipped = Duration::ZERO;
        for (place, step) in self.steps.iter().enumerate() {
            if places.contains(&place) {
                kept.steps.push(Step { after: skipped + step.after, what: step.what });
                skipped = Duration::ZERO;
            } else {
                skipped += step.after;
            }
        }
        kept
    }
}

impl Plan {
    /// The same plan for one peer alone, who gets everything that was asked of any.
    #[must_use]
    pub fn alone(&self) -> Self {
        let mut plan = Self {
            peers: 1,
            followers: 0,
            late: None,
            walker: None,
            factors: self.factors.clamp((-1, -1), (1, 1)),
            repinning: false,
            delays: Vec::new(),
            ..self.clone()
        };
        if plan.factors.0 != plan.factors.1 {
            plan.factors = (1, 1);
        }
        plan.steps.retain(|step| !matches!(step.what, What::Partition { .. }));
        for step in &mut plan.steps {
            match &mut step.what {
                What::Pin { peer, factors, .. } => {
                    *peer = 0;
                    *factors = (0, 0);
                }
                What::Burst { peer, .. }
                | What::Unpin { peer, .. }
                | What::Update { peer, .. }
                | What::Recover { peer }
                | What::Crash { peer, .. }
                | What::Stop { peer }
                | What::Start { peer }
                | What::DaemonDown { peer }
                | What::DaemonUp { peer }
                | What::Skew { peer, .. }
                | What::Disk { peer, .. }
                | What::SlowDisk { peer, .. }
                | What::Read { peer, .. }
                | What::Isolate { peer }
                | What::Join { peer, .. }
                | What::Remove { peer, .. } => *peer = 0,
                What::Partition { .. }
                | What::Heal
                | What::Loss { .. }
                | What::SlowLeader { .. }
                | What::IsolateLeader
                | What::CrashLeader { .. }
                | What::CrashVoter { .. }
                | What::CrashAll { .. } => {}
            }
        }
        plan
    }
}

fn pin(peer: usize, cid: usize) -> What {
    What::Pin { peer, cid, factors: (0, 0), direct: false, expires_in: None }
}

fn factors(random: &mut Random, peers: usize) -> (i32, i32) {
    if random.percent(40) {
        return (-1, -1);
    }
    let max = random.between(1, peers);
    let min = random.between(1, max);
    // There are at most five.
    (min as i32, max as i32)
}

fn pause(random: &mut Random, patient: bool) -> Duration {
    pause_up_to(random, patient, (8_000, 60_000))
}

/// Most pauses are short. The longest of the others are given in milliseconds: of long ones, and of those that only the
/// patient make.
fn pause_up_to(random: &mut Random, patient: bool, (long, longest): (usize, usize)) -> Duration {
    let milliseconds = match random.below(if patient { 10 } else { 8 }) {
        0 => 0,
        1..4 => random.below(50),
        4..7 => random.below(1_500),
        7 | 8 => random.below(long),
        _ => random.below(longest),
    };
    Duration::from_millis(milliseconds as u64)
}

#[cfg(feature = "consensus-raft")]
pub use raft::RaftChoices;

/// How often each kind of thing is done, by its number (see [`what`]).
const USUAL: [usize; 14] = [30, 14, 5, 3, 5, 4, 5, 3, 8, 3, 3, 1, 3, 1];

/// How often each kind of thing is done in a run. Runs differ: what never happens together with something else hides bugs.
struct Weights<const KINDS: usize>([usize; KINDS]);

/// Which peers run, so that most steps find whom they need.
struct Up {
    peers: Vec<bool>,
    writers: usize,
}

impl Up {
    fn all(plan: &Plan) -> Self {
        Self { peers: vec![true; plan.peers], writers: plan.peers - plan.followers }
    }

    /// One of the first so many peers, one that runs (or not) if there is one.
    fn choose(&self, random: &mut Random, among: usize, runs: bool) -> usize {
        let fitting: Vec<usize> = (0..among).filter(|peer| self.peers[*peer] == runs).collect();
        if fitting.is_empty() { random.below(among) } else { *random.one_of(&fitting) }
    }
}

impl<const KINDS: usize> Weights<KINDS> {
    /// The first kind stays as it is.
    fn choose(random: &mut Random, usual: [usize; KINDS]) -> Self {
        let mut weights = usual;
        for weight in &mut weights[1..] {
            match random.below(4) {
                0 => *weight = 0,
                1 => *weight *= 3,
                _ => {}
            }
        }
        Self(weights)
    }

    /// What is next.
    fn kind(&self, random: &mut Random) -> usize {
        let mut left = random.below(self.0.iter().sum());
        let mut kind = 0;
        while left >= self.0[kind] {
            left -= self.0[kind];
            kind += 1;
        }
        kind
    }
}

fn what(kind: usize, random: &mut Random, plan: &Plan, up: &mut Up) -> What {
    let writer = up.choose(random, up.writers, true);
    let peer = up.choose(random, plan.peers, kind != 8);
    let cid = random.below(plan.cids);
    match kind {
        6 | 7 => up.peers[peer] = false,
        8 => up.peers[peer] = true,
        _ => {}
    }
    match kind {
        0 => What::Pin {
            peer: writer,
            cid,
            factors: if random.percent(50) { (0, 0) } else { factors(random, plan.peers) },
            direct: random.percent(10),
            expires_in: random
                .percent(12)
                .then(|| random.time(Duration::from_secs(1), Duration::from_secs(90))),
        },
        1 => What::Unpin { peer: writer, cid },
        2 => What::Update { peer: writer, from: cid, to: random.below(plan.cids) },
        3 => What::Recover { peer },
        4 => What::Partition { one: peer, other: (peer + random.between(1, plan.peers - 1)) % plan.peers },
        5 => What::Heal,
        6 => What::Crash { peer, keep_some: random.percent(50) },
        7 => What::Stop { peer },
        8 => What::Start { peer },
        9 => What::DaemonDown { peer },
        10 => What::DaemonUp { peer },
        11 => What::Loss { percent: random.below(100) },
        12 => What::Burst { peer: writer, cid, pins: random.between(2, 20) },
        _ => {
            let milliseconds = random.below(2 * SKEW_MAX_MILLISECONDS) as i64;
            What::Skew { peer, milliseconds: milliseconds - SKEW_MAX_MILLISECONDS as i64 }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_one_plan_and_its_steps_can_be_left_out() {
        let plan = Plan::from_seed(7);
        assert_eq!(plan.to_string(), Plan::from_seed(7).to_string());
        assert_ne!(plan.to_string(), Plan::from_seed(8).to_string());
        let last = plan.steps.len() - 1;
        let kept = plan.keeping(&[1, last]);
        let time = |plan: &Plan| plan.steps.iter().map(|step| step.after).sum::<Duration>();
        assert_eq!((kept.steps.len(), time(&kept)), (2, time(&plan)));
        assert_eq!(kept.steps[0].what, plan.steps[1].what);
    }

    #[test]
    fn every_plan_can_be_carried_out() {
        for seed in 0..500 {
            let plan = Plan::from_seed(seed);
            assert!(plan.followers < plan.peers && plan.factors.0 <= plan.factors.1, "{plan}");
            for step in &plan.steps {
                match step.what {
                    What::Partition { one, other } => assert_ne!(one, other),
                    What::Pin { peer, .. }
                    | What::Burst { peer, .. }
                    | What::Unpin { peer, .. }
                    | What::Update { peer, .. } => {
                        assert!(peer < plan.peers - plan.followers, "a follower writes");
                    }
                    _ => {}
                }
            }
        }
    }
}
