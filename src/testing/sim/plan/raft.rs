//! Plans for peers that agree by Raft.

use std::time::Duration;

use super::{Plan, Step, Up, Weights, What, factors, pause_up_to, pin};
use crate::testing::cluster::DiskTrouble;
use crate::testing::random::Random;

/// How the peers agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftChoices {
    /// Both of the times after which a leader is missed.
    pub heartbeat: Duration,
    /// How long a write may take.
    pub patience: Duration,
    /// Entries that are kept of those that are part of the pinset.
    pub trailing: u64,
    /// Entries after which older ones are removed.
    pub threshold: u64,
    /// Most entries in one message.
    pub entries: u64,
}

/// How often each kind of thing is done, by its number (see [`what`]).
const USUAL: [usize; 23] = [30, 12, 3, 22, 3, 1, 4, 3, 8, 4, 3, 1, 2, 10, 1, 3, 1, 3, 2, 3, 2, 1, 1];
/// Least and most steps of a run, without those of its stories.
const STEPS: (usize, usize) = (10, 70);
/// How wrong clocks get, in milliseconds either way.
const JUMP_MAX_MILLISECONDS: usize = 2 * 60 * 60 * 1000;
/// How slow the slowest disk of a run is: like a bad one, or a good one that others keep busy. With the last, what is written
/// for an election takes about as long as elections are waited for.
const SLOWEST_MILLISECONDS: [u64; 4] = [5, 20, 100, 500];
/// How many pieces of work of a disk an operation may wait for that come one after the other.
const DISK_WORKS_MAX: u32 = 8;

impl Plan {
    /// The plan of a seed for peers that agree by Raft.
    pub fn raft(seed: u64) -> Self {
        let random = &mut Random::new(seed ^ 0x7261_6674);
        let peers = *random.one_of(&[1, 2, 3, 3, 3, 3, 3, 4, 5, 5]);
        let slowest = *random.one_of(&[1, 5, 20, 100]);
        let mut delays = Vec::new();
        for one in 0..peers {
            for other in one + 1..peers {
                delays.push((one, other, random.time(Duration::ZERO, Duration::from_millis(slowest))));
            }
        }
        let heartbeat = *random.one_of(&[1_000, 2_000, 4_000]);
        let mut plan = Self {
            seed,
            peers,
            followers: 0,
            trust_everybody: true,
            bitswap: false,
            batching: None,
            factors: factors(random, peers),
            repinning: random.percent(20),
            late: (peers > 2 && random.percent(15)).then(|| random.below(peers)),
            walker: None,
            cids: random.between(1, 5),
            delays,
            loss_percent: if random.percent(20) { random.below(60) } else { 0 },
            daemon_latency: random.time(Duration::ZERO, Duration::from_secs(2)),
            daemon_failures_percent: if random.percent(25) { random.below(50) } else { 0 },
            steps: Vec::new(),
            raft: Some(RaftChoices {
                heartbeat: Duration::from_millis(heartbeat),
                patience: Duration::from_secs(random.between(5, 20) as u64),
                trailing: random.between(0, 6) as u64,
                threshold: random.between(1, 8) as u64,
                entries: *random.one_of(&[1, 2, 64]),
            }),
        };
        let weights = Weights::choose(random, USUAL);
        let mut up = Up::all(&plan);
        if let Some(late) = plan.late {
            up.peers[late] = false;
        }
        let patient = random.percent(50);
        let count = random.between(STEPS.0, STEPS.1);
        plan.steps = (0..count)
            .map(|_| Step {
                after: pause(random, patient),
                what: what(weights.kind(random), random, &plan, &mut up),
            })
            .collect();
        // They elect somebody first.
        plan.steps[0].after += Duration::from_millis(2 * heartbeat);
        if random.percent(20) {
            plan.add_disk_troubles(random);
        }
        for story in [Story::Snapshot, Story::QuorumLost, Story::OneByOne, Story::LeaderGone] {
            if peers > 2 && random.percent(15) {
                let story = plan.told(story, random);
                let place = random.below(plan.steps.len());
                plan.steps.splice(place..place, story);
            }
        }
        // Choices of their own, so that more of them change nothing else.
        let random = &mut Random::new(seed ^ 0x766f_7465_206c_6f73);
        if peers > 2 && random.percent(15) {
            let story = plan.told(Story::VoteLost, random);
            let place = random.below(plan.steps.len());
            plan.steps.splice(place..place, story);
        }
        let random = &mut Random::new(seed ^ 0x736c_6f77_2064_6973);
        if random.percent(30) {
            plan.add_slow_disks(random);
        }
        plan
    }

    /// The same plan with disks that are never slow.
    #[must_use]
    pub fn with_quick_disks(&self) -> Self {
        let slow = |step: &Step| matches!(step.what, What::SlowDisk { .. } | What::SlowLeader { .. });
        let places: Vec<usize> = (0..self.steps.len()).filter(|place| !slow(&self.steps[*place])).collect();
        self.keeping(&places)
    }

    /// How much of an operation's time may be that of disks, besides what it waits for a leader.
    pub(in crate::testing::sim) fn disk_time(&self) -> Duration {
        let slowest = self.steps.iter().filter_map(|step| match step.what {
            What::SlowDisk { latency, .. } | What::SlowLeader { latency } => Some(latency),
            _ => None,
        });
        slowest.max().unwrap_or_default() * DISK_WORKS_MAX
    }

    /// Makes disks slow, from the beginning or some moment on, and some of them quicker or slower later.
    fn add_slow_disks(&mut self, random: &mut Random) {
        let slowest = *random.one_of(&SLOWEST_MILLISECONDS);
        let latency = |random: &mut Random| {
            random.time(Duration::from_millis(slowest.div_ceil(10)), Duration::from_millis(slowest))
        };
        let slow: Vec<What> = match random.below(10) {
            0..4 => vec![What::SlowLeader { latency: latency(random) }],
            4..8 => {
                let count = random.between(1, self.peers);
                let mut peers: Vec<usize> = (0..self.peers).collect();
                while peers.len() > count {
                    peers.remove(random.below(peers.len()));
                }
                peers.into_iter().map(|peer| What::SlowDisk { peer, latency: latency(random) }).collect()
            }
            _ => (0..self.peers).map(|peer| What::SlowDisk { peer, latency: latency(random) }).collect(),
        };
        let place = if random.percent(40) { 1 } else { random.below(self.steps.len()) };
        let count = slow.len();
        self.steps.splice(place..place, slow.into_iter().map(|what| Step { after: Duration::ZERO, what }));
        if self.peers > 2 && random.percent(40) {
            let story = self.told(Story::LeaderSlow, random);
            let place = random.between(place + count, self.steps.len());
            self.steps.splice(place..place, story);
        }
        let mut place = place + count;
        for _ in 0..random.below(3) {
            place = random.between(place, self.steps.len());
            let latency = if random.percent(30) { Duration::ZERO } else { latency(random) };
            let what = if random.percent(50) {
                What::SlowLeader { latency }
            } else {
                What::SlowDisk { peer: random.below(self.peers), latency }
            };
            self.steps.insert(place, Step { after: Duration::ZERO, what });
        }
    }

    /// A plan in which a peer that was away gets the whole pinset while some of what it writes fails.
    pub fn failing_takeover(seed: u64) -> Self {
        let mut plan = Self::raft(seed);
        let random = &mut Random::new(seed ^ 0x7461_6b65_6f76_6572);
        if plan.peers < 3 {
            (plan.peers, plan.factors) = (3, (-1, -1));
        }
        if let Some(raft) = &mut plan.raft {
            (raft.trailing, raft.threshold) = (random.below(3) as u64, random.between(1, 3) as u64);
        }
        let late = random.below(plan.peers);
        let others: Vec<usize> = (0..plan.peers).filter(|peer| *peer != late).collect();
        let add = |plan: &mut Self, after: Duration, what: What| plan.steps.push(Step { after, what });
        plan.keep_writes_and_reads();
        add(&mut plan, Duration::from_secs(10), What::Isolate { peer: late });
        for _ in 0..random.between(8, 16) {
            let (peer, cid) = (*random.one_of(&others), random.below(plan.cids));
            let what = if random.percent(70) { pin(peer, cid) } else { What::Unpin { peer, cid } };
            add(&mut plan, random.time(Duration::ZERO, Duration::from_secs(2)), what);
        }
        let trouble = DiskTrouble::FailingWrites(random.between(1, 4));
        add(&mut plan, Duration::from_secs(10), What::Disk { peer: late, trouble });
        add(&mut plan, Duration::ZERO, What::Heal);
        add(
            &mut plan,
            random.time(Duration::ZERO, Duration::from_secs(10)),
            What::Read { peer: late, cid: 0 },
        );
        plan
    }

    /// A plan in which a leader does not get to its disk what others have, and loses power soon after. Those who have it are
    /// cut off then, and the others agree without it.
    pub fn failing_leader(seed: u64) -> Self {
        let mut plan = Self::raft(seed);
        let random = &mut Random::new(seed ^ 0x6c65_6164_6572);
        // Odd, so that some who have all that was agreed on, but for the leader, are not missed.
        if plan.peers < 3 || plan.peers == 4 {
            (plan.peers, plan.factors) = (if plan.peers == 4 { 5 } else { 3 }, (-1, -1));
        }
        let add = |plan: &mut Self, after: Duration, what: What| plan.steps.push(Step { after, what });
        plan.keep_writes_and_reads();
        for _ in 0..random.between(1, 4) {
            // It may well be another one.
            let leader = random.below(plan.peers);
            let mut blind: Vec<usize> = (0..plan.peers).filter(|peer| *peer != leader).collect();
            let witnesses: Vec<usize> =
                (0..plan.peers / 2).map(|_| blind.remove(random.below(blind.len()))).collect();
            add(&mut plan, Duration::from_secs(10), What::Heal);
            for other in &blind {
                add(&mut plan, Duration::ZERO, What::Partition { one: leader, other: *other });
            }
            let trouble = DiskTrouble::FailingWrites(random.between(1, 2));
            let within = |random: &mut Random, milliseconds| {
                random.time(Duration::ZERO, Duration::from_millis(milliseconds))
            };
            add(&mut plan, within(random, 500), What::Disk { peer: leader, trouble });
            for _ in 0..random.between(1, 3) {
                let peer = if random.percent(50) { leader } else { witnesses[0] };
                let cid = random.below(plan.cids);
                let what = if random.percent(70) { pin(peer, cid) } else { What::Unpin { peer, cid } };
                add(&mut plan, within(random, 50), what);
            }
            let keep_some = random.percent(30);
            add(&mut plan, within(random, 600), What::Crash { peer: leader, keep_some });
            add(&mut plan, Duration::ZERO, What::Heal);
            for peer in witnesses {
                add(&mut plan, Duration::ZERO, What::Isolate { peer });
            }
            add(&mut plan, Duration::ZERO, What::Disk { peer: leader, trouble: DiskTrouble::None });
            add(&mut plan, Duration::ZERO, What::Start { peer: leader });
            for peer in blind {
                let cid = random.below(plan.cids);
                let what = if random.percent(50) { pin(peer, cid) } else { What::Read { peer, cid } };
                add(&mut plan, within(random, 10_000), what);
            }
        }
        plan
    }

    /// Only what users do, with all that are there, before something else happens.
    fn keep_writes_and_reads(&mut self) {
        self.steps.retain(|step| {
            matches!(
                step.what,
                What::Pin { .. } | What::Burst { .. } | What::Unpin { .. } | What::Read { .. }
            )
        });
        self.late = None;
    }

    fn told(&self, story: Story, random: &mut Random) -> Vec<Step> {
        let mut steps = Vec::new();
        let add = |steps: &mut Vec<Step>, after: Duration, what: What| steps.push(Step { after, what });
        let writes = |steps: &mut Vec<Step>, random: &mut Random, peers: &[usize], count: usize| {
            for _ in 0..count {
                let (peer, cid) = (*random.one_of(peers), random.below(self.cids));
                let what = match random.below(5) {
                    0 => What::Unpin { peer, cid },
                    1 => What::Read { peer, cid },
                    _ => pin(peer, cid),
                };
                add(steps, random.time(Duration::ZERO, Duration::from_secs(1)), what);
            }
        };
        let hidden = random.below(self.peers);
        let others: Vec<usize> = (0..self.peers).filter(|peer| *peer != hidden).collect();
        let all: Vec<usize> = (0..self.peers).collect();
        let short = |random: &mut Random| random.time(Duration::ZERO, Duration::from_millis(600));
        let long = |random: &mut Random| random.time(Duration::from_secs(1), Duration::from_secs(12));
        match story {
            Story::Snapshot => {
                add(&mut steps, short(random), What::Isolate { peer: hidden });
                let count = random.between(8, 24);
                writes(&mut steps, random, &others, count);
                for _ in 0..random.below(3) {
                    add(&mut steps, long(random), What::Heal);
                    let what = if random.percent(70) {
                        What::Isolate { peer: hidden }
                    } else {
                        What::Crash { peer: hidden, keep_some: random.percent(50) }
                    };
                    add(&mut steps, random.time(Duration::ZERO, Duration::from_secs(4)), what);
                    writes(&mut steps, random, &others, 2);
                }
                add(&mut steps, long(random), What::Heal);
                add(&mut steps, short(random), What::Start { peer: hidden });
            }
            Story::QuorumLost => {
                let survivors = random.below(self.peers.div_ceil(2)).max(1);
                let mut down = all.clone();
                while down.len() > self.peers - survivors {
                    down.remove(random.below(down.len()));
                }
                for peer in &down {
                    add(
                        &mut steps,
                        short(random),
                        What::Crash { peer: *peer, keep_some: random.percent(50) },
                    );
                }
                let left: Vec<usize> = all.iter().copied().filter(|peer| !down.contains(peer)).collect();
                writes(&mut steps, random, &left, 3);
                add(&mut steps, long(random), What::Read { peer: left[0], cid: 0 });
                for peer in &down {
                    add(&mut steps, short(random), What::Start { peer: *peer });
                }
            }
            Story::OneByOne => {
                for peer in all.iter().copied() {
                    let what = if random.percent(70) {
                        What::Crash { peer, keep_some: random.percent(50) }
                    } else {
                        What::Stop { peer }
                    };
                    add(&mut steps, short(random), what);
                    let others: Vec<usize> = all.iter().copied().filter(|other| *other != peer).collect();
                    writes(&mut steps, random, &others, 2);
                    add(&mut steps, long(random), What::Start { peer });
                }
            }
            Story::LeaderGone => {
                for _ in 0..random.between(1, 3) {
                    writes(&mut steps, random, &all, 2);
                    let what = if random.percent(50) {
                        What::IsolateLeader
                    } else {
                        What::CrashLeader { keep_some: random.percent(50) }
                    };
                    add(&mut steps, short(random), what);
                    writes(&mut steps, random, &all, 4);
                    add(&mut steps, long(random), What::Heal);
                    for peer in all.iter().copied() {
                        add(&mut steps, Duration::ZERO, What::Start { peer });
                    }
                }
            }
            Story::VoteLost => {
                // There and back: an answer to the vote has arrived then, and what follows it is about to.
                let slowest = self.delays.iter().map(|(_, _, delay)| *delay).max().unwrap_or_default();
                for _ in 0..random.between(1, 3) {
                    let what = if random.percent(70) {
                        What::IsolateLeader
                    } else {
                        What::CrashLeader { keep_some: random.percent(50) }
                    };
                    add(&mut steps, short(random), what);
                    let after = random.time(Duration::ZERO, slowest * 2);
                    add(
                        &mut steps,
                        Duration::ZERO,
                        What::CrashVoter { after, keep_some: random.percent(30) },
                    );
                    for peer in all.iter().copied() {
                        add(&mut steps, Duration::ZERO, What::Start { peer });
                    }
                    let count = random.between(2, 6);
                    writes(&mut steps, random, &all, count);
                    add(&mut steps, long(random), What::Heal);
                }
            }
            Story::LeaderSlow => {
                // Together with the leader, whoever that is of the others, the witnesses are just enough.
                let mut others = others;
                let blind: Vec<usize> = std::iter::once(hidden)
                    .chain((1..self.peers.div_ceil(2) - 1).map(|_| others.remove(random.below(others.len()))))
                    .collect();
                let leader = others.remove(random.below(others.len()));
                let witnesses = others;
                add(&mut steps, short(random), What::Heal);
                for peer in all.iter().copied() {
                    add(&mut steps, Duration::ZERO, What::Start { peer });
                }
                for peer in blind.iter().copied() {
                    add(&mut steps, short(random), What::Isolate { peer });
                }
                let latency = random.time(Duration::from_millis(50), Duration::from_millis(500));
                add(&mut steps, long(random), What::SlowLeader { latency });
                let count = random.between(1, 3);
                let first = steps.len();
                writes(&mut steps, random, &[&[leader][..], &witnesses].concat(), count);
                // At about the same time, so that the power goes while the disk works.
                for step in &mut steps[first..] {
                    step.after = random.time(Duration::ZERO, Duration::from_millis(50));
                }
                let keep_some = random.percent(50);
                add(&mut steps, random.time(Duration::ZERO, latency), What::CrashLeader { keep_some });
                add(&mut steps, Duration::ZERO, What::Heal);
                for peer in witnesses {
                    add(&mut steps, Duration::ZERO, What::Isolate { peer });
                }
                for peer in all {
                    add(&mut steps, Duration::ZERO, What::SlowDisk { peer, latency: Duration::ZERO });
                    add(&mut steps, Duration::ZERO, What::Start { peer });
                }
                add(&mut steps, long(random), What::Read { peer: hidden, cid: 0 });
                writes(&mut steps, random, &[&[leader][..], &blind].concat(), 3);
                add(&mut steps, long(random), What::Heal);
            }
        }
        steps
    }
}

/// What happens in this order, somewhere in a run.
#[derive(Clone, Copy)]
enum Story {
    /// A peer is away for so long that it needs the whole pinset, and may be cut off again while it gets it.
    Snapshot,
    /// Too few are left to agree on anything.
    QuorumLost,
    /// Every peer in turn.
    OneByOne,
    /// The leader, whoever it is.
    LeaderGone,
    /// Who votes when the leader is gone loses power at once, and agrees with others than the one it voted for.
    VoteLost,
    /// The leader loses power while its disk is behind, and agrees with those who were cut off before, without the others.
    LeaderSlow,
}

fn pause(random: &mut Random, patient: bool) -> Duration {
    pause_up_to(random, patient, (6_000, 25_000))
}

fn what(kind: usize, random: &mut Random, plan: &Plan, up: &mut Up) -> What {
    let peer = up.choose(random, plan.peers, kind != 13);
    let (cid, keep_some) = (random.below(plan.cids), random.percent(50));
    let through = up.choose(random, plan.peers, true);
    let another = if plan.peers > 1 { (peer + random.between(1, plan.peers - 1)) % plan.peers } else { 0 };
    match kind {
        9 | 12 => up.peers[peer] = false,
        11 => up.peers.fill(false),
        13 => up.peers[peer] = true,
        _ => {}
    }
    match kind {
        0 => What::Pin {
            peer,
            cid,
            factors: if random.percent(70) { (0, 0) } else { factors(random, plan.peers) },
            direct: random.percent(5),
            expires_in: random
                .percent(6)
                .then(|| random.time(Duration::from_secs(1), Duration::from_secs(30))),
        },
        1 => What::Unpin { peer, cid },
        2 => What::Update { peer, from: cid, to: random.below(plan.cids) },
        3 => What::Read { peer, cid },
        4 => What::Burst { peer, cid, pins: random.between(2, 10) },
        5 => What::Recover { peer },
        6 if plan.peers > 1 => What::Partition { one: peer, other: another },
        7 if plan.peers > 1 => What::Isolate { peer },
        6..9 => What::Heal,
        9 => What::Crash { peer, keep_some },
        10 => What::CrashLeader { keep_some },
        11 => What::CrashAll { keep_some },
        12 => What::Stop { peer },
        13 => What::Start { peer },
        14 => What::DaemonDown { peer },
        15 => What::DaemonUp { peer },
        16 => What::Loss { percent: random.below(100) },
        17 if plan.peers > 1 => What::IsolateLeader,
        17 | 18 => {
            let milliseconds = random.below(2 * JUMP_MAX_MILLISECONDS) as i64;
            What::Skew { peer, milliseconds: milliseconds - JUMP_MAX_MILLISECONDS as i64 }
        }
        19 => What::Join { peer: random.below(plan.peers), through },
        20 => What::Remove { peer: random.below(plan.peers), through },
        21 => What::Disk { peer, trouble: DiskTrouble::FailingWrites(random.between(1, 3)) },
        _ => What::Disk { peer, trouble: DiskTrouble::None },
    }
}
