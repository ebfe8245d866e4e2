//! Our programs and the reference's side by side: each `ipfs-cluster-ctl` against each `ipfs-cluster-service`, the same
//! commands in the same order, and what is printed compared.
//!
//! Run by `cargo xtask compare`, which says where the programs are. By itself the test says that it was skipped.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

#[allow(dead_code)] // Shared with other tests, which use more of it.
#[path = "../support/daemon.rs"]
mod daemon;
mod intended;
#[path = "../support/kind.rs"]
mod kind;
// Shared with the end-to-end tests, which use more of them.
#[allow(dead_code)]
#[path = "../e2e/kubo.rs"]
mod kubo;
mod normal;
#[path = "../support/ports.rs"]
mod ports;
#[allow(dead_code)] // See above.
#[path = "../e2e/programs.rs"]
mod programs;
mod script;
#[path = "../support/wait.rs"]
mod wait;
mod world;

use std::collections::BTreeSet;

use intended::INTENDED;
use kind::Kind;
use world::World;

/// Whose ctl and whose daemon; the first is what the others are held against.
const PAIRS: [(Kind, Kind); 4] =
    [(Kind::Go, Kind::Go), (Kind::Go, Kind::Ours), (Kind::Ours, Kind::Go), (Kind::Ours, Kind::Ours)];

#[test]
fn every_command_prints_what_the_reference_prints() {
    compare("crdt");
}

#[test]
fn every_command_prints_what_the_reference_prints_with_raft() {
    compare("raft");
}

fn compare(consensus: &'static str) {
    let Some(go) = world::go_programs() else { return };
    let starting = |(ctl, daemon): (Kind, Kind)| {
        let go = go.clone();
        std::thread::spawn(move || World::start(ctl, daemon, consensus, &go))
    };
    let starting: Vec<_> = PAIRS.into_iter().map(starting).collect();
    let started: Option<Vec<World>> = starting.into_iter().map(|world| world.join().unwrap()).collect();
    let Some(worlds) = started else { return };

    let steps = script::steps(consensus, &worlds);
    let (mut equal, mut meant) = ([0; PAIRS.len()], [0; PAIRS.len()]);
    let (mut wrong, mut used) = (Vec::new(), BTreeSet::new());
    for step in &steps {
        let said: Vec<_> = std::thread::scope(|scope| {
            let running: Vec<_> = worlds.iter().map(|world| scope.spawn(|| world.run(step))).collect();
            running.into_iter().map(|running| running.join().unwrap()).collect()
        });
        for (pair, ours) in said.iter().enumerate().skip(1) {
            if *ours == said[0] {
                equal[pair] += 1;
                continue;
            }
            let line = step.line();
            let found = INTENDED.iter().enumerate().find(|(_, intended)| intended.covers(&line, PAIRS[pair]));
            if let Some((index, _)) = found {
                used.insert(index);
                meant[pair] += 1;
            } else {
                wrong.push(format!("{:?}\n$ {line}\n{}", PAIRS[pair], normal::difference(&said[0], ours)));
            }
        }
    }
    for (pair, (ctl, daemon)) in PAIRS.iter().enumerate().skip(1) {
        println!(
            "{ctl:?} ctl, {daemon:?} daemon: {} commands, {} print the same, {} differ on purpose",
            steps.len(),
            equal[pair],
            meant[pair]
        );
    }
    for index in &used {
        println!("  on purpose: {}", INTENDED[*index]);
    }
    assert!(wrong.is_empty(), "{} differ\n\n{}", wrong.len(), wrong.join("\n\n"));
    for (index, intended) in INTENDED.iter().enumerate() {
        // The script for Raft is a part of the other one.
        assert!(used.contains(&index) || consensus == "raft", "does not differ: {intended}");
    }
}
