//! The simulator: whole peers, random operations and faults from one number, and what must be true in the end.
//!
//! A [`Plan`] says what is done: how many peers, how they are set up, and a list of steps (pins, unpins, partitions,
//! crashes, …) with their times. It is carried out on one thread and paused time, so a seed always gives the same run:
//! its trace, a fingerprint of every message, answer and final pinset, is the same every time. Then everything is
//! healed, and once the peers are quiet:
//!
//! - all have equal pinsets;
//! - what was acknowledged is there (see [`model`]);
//! - of peers that agree by the CRDT, every one knows what a walk over the whole DAG gives, elements and tombstones of
//!   each pin;
//! - of peers that agree by Raft, every one has the same log and remembers the same of what was asked for, and what
//!   callers saw of each pin could have happened in one place, one after the other ([`linear`]);
//! - every daemon holds its peer's share and nothing else, before anybody recovers anything but what failed;
//! - no peer stopped by itself, no task panicked, no operation hangs.

#[cfg(feature = "consensus-crdt")]
pub mod dag;
pub mod linear;
pub mod model;
mod peers;
pub mod plan;
mod run;

use std::cell::Cell;
use std::fmt;
use std::panic;
use std::sync::Once;
use std::time::Duration;

pub use plan::Plan;

use super::planted::{Planted, plant};

/// What the log says of a peer that joined later, and got what others had without the history.
const TOOK_OVER: &str = "took over what another peer had";

thread_local! {
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

/// Numbers of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Calls of users.
    pub operations: u64,
    /// Those that were answered with success.
    pub acknowledged: u64,
    /// Time that passed for the peers.
    pub simulated: Duration,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was done.
    pub plan: Plan,
    /// The same for runs that did the same.
    pub trace: u64,
    /// What must not be; empty when all is well.
    pub violations: Vec<String>,
    /// What happened, with the peers' times.
    pub log: Vec<String>,
    /// Numbers.
    pub figures: Figures,
}

impl Report {
    /// Whether a peer that joined later had got what others had without the history, with so many pins or more, before
    /// those that were cut off turned up.
    pub fn took_over(&self, pins: u64) -> bool {
        let lines = self.log.iter().filter_map(|line| line.split_once(TOOK_OVER));
        let counts =
            lines.filter_map(|(_, rest)| rest.trim_start_matches(", ").split(' ').next()?.parse().ok());
        counts.into_iter().any(|count: u64| count >= pins)
    }

    /// Whether nothing was wrong.
    pub fn is_good(&self) -> bool {
        self.violations.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.plan)?;
        f.write_str("what happened:\n")?;
        self.log.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        f.write_str("what is wrong:\n")?;
        self.violations.iter().try_for_each(|violation| writeln!(f, "  {violation}"))?;
        #[cfg(feature = "consensus-raft")]
        if self.plan.raft.is_some() {
            return writeln!(
                f,
                "replay: SIM_KIND=raft SIM_SEED={} cargo test --test sim -- --nocapture",
                self.plan.seed
            );
        }
        writeln!(f, "replay: SIM_SEED={} cargo test --test sim -- --nocapture", self.plan.seed)
    }
}

/// How the peers of a simulation agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Agreement {
    /// By the CRDT.
    #[default]
    Crdt,
    /// By Raft.
    #[cfg(feature = "consensus-raft")]
    Raft,
}

impl Agreement {
    /// The plan of a seed.
    pub fn plan(self, seed: u64) -> Plan {
        match self {
            Self::Crdt => Plan::from_seed(seed),
            #[cfg(feature = "consensus-raft")]
            Self::Raft => Plan::raft(seed),
        }
    }
}

/// Runs the plan of a seed.
pub fn run_seed(agreement: Agreement, seed: u64, bug: Option<Planted>) -> Report {
    run_plan(&agreement.plan(seed), bug)
}

/// Runs a plan on a runtime of its own, in this thread.
///
/// # Panics
/// When no runtime can be made.
#[allow(clippy::expect_used)] // A simulation without a runtime has nothing better to do.
pub fn run_plan(plan: &Plan, bug: Option<Planted>) -> Report {
    count_panics();
    let panics = PANICS.get();
    let planted = plant(bug);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a tokio runtime");
    let run::Outcome { trace, mut violations, log, figures } = runtime.block_on(run::carry_out(plan));
    // Before the switch is turned off: what is left of the peers may still do something.
    drop(runtime);
    drop(planted);
    let panics = PANICS.get() - panics;
    if panics > 0 {
        violations.push(format!("{panics} panics"));
    }
    Report { plan: plan.clone(), trace, violations, log, figures }
}

/// Leaves out steps of a plan that goes wrong, as long as it goes wrong, and gives the shortest one found.
pub fn minimise(plan: &Plan, bug: Option<Planted>) -> Report {
    let mut smallest = run_plan(plan, bug);
    if smallest.is_good() {
        return smallest;
    }
    let mut places: Vec<usize> = (0..plan.steps.len()).collect();
    let mut chunk = places.len().div_ceil(2);
    while chunk > 0 {
        let mut start = 0;
        while start < places.len() {
            let mut fewer = places.clone();
            fewer.drain(start..(start + chunk).min(places.len()));
            let report = run_plan(&plan.keeping(&fewer), bug);
            if report.is_good() {
                start += chunk;
            } else {
                places = fewer;
                smallest = report;
            }
        }
        chunk /= 2;
    }
    smallest
}

/// Counts panics of each thread, those in tasks too, which the runtime keeps for itself.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            before(info);
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_alone_loses_nothing_and_repeats_itself() {
        for seed in 0..30 {
            let plan = Plan::from_seed(seed).alone();
            let report = run_plan(&plan, None);
            assert!(report.is_good(), "{report}");
            assert_eq!(report.trace, run_plan(&plan, None).trace, "seed {seed}");
        }
    }
}
