//! What was recorded of Go peers, asked of ours: the same requests in the same order, and the answers compared.
//!
//! The pairs are in `tests/data/rest-vectors.json`. Worlds are built as they were recorded, requests travel over real
//! sockets, and answers are compared to the byte: version, status, headers, trailers, fields and their order, numbers,
//! escapes. What belongs to one run (times, addresses) is matched up instead. What differs on purpose is in
//! [`intended`]; everything else that differs is a failure.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

#[path = "../rest/caller.rs"]
#[allow(dead_code)]
mod caller;
mod compare;
mod daemon;
mod intended;
mod node;
mod recording;
mod worlds;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipfs_cluster::api::rest::{Authentication, CorsConfig, RestConfig};

use compare::Matched;
use intended::{AFTERWARDS, INTENDED, fits};
use recording::Recording;
use worlds::World;

/// What has to happen, happens within this time.
const SOON: Duration = Duration::from_secs(120);

async fn soon<T>(what: impl Future<Output = T>, name: &str) -> T {
    match tokio::time::timeout(SOON, what).await {
        Ok(done) => done,
        Err(_) => panic!("{name}: it did not happen within {SOON:?}"),
    }
}

/// How the replay went.
#[derive(Default)]
struct Tally {
    equal: usize,
    meant: BTreeMap<String, BTreeSet<&'static str>>,
    left_out: BTreeMap<&'static str, usize>,
    wrong: Vec<String>,
    used: BTreeSet<usize>,
}

#[tokio::test(flavor = "multi_thread")]
async fn our_answers_are_those_of_the_reference() {
    let all = recording::all();
    let mut tally = Tally::default();
    replay(&all, &["rest", "rest-2peers", "rest-ipfs-down"], RestConfig::default(), &mut tally).await;
    replay(&all, &["rest-auth"], with_users(), &mut tally).await;
    replay(&all, &["rest-raft"], RestConfig::default(), &mut tally).await;
    for recording in &all {
        if let Some(reason) = intended::left_out(&recording.api, &recording.name, &recording.path) {
            *tally.left_out.entry(reason).or_default() += 1;
        }
    }
    report(&all, &tally);
}

/// As the peer with users was configured.
fn with_users() -> RestConfig {
    let user = ("testuser".to_owned(), "testpass".to_owned());
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    RestConfig {
        authentication: Some(Authentication::new([user])),
        headers: [("X-Test".to_owned(), texts(&["one", "two"]))].into(),
        cors: CorsConfig {
            allowed_origins: texts(&["http://example.com"]),
            allowed_methods: texts(&["GET", "POST"]),
            max_age: Duration::from_secs(600),
            ..CorsConfig::default()
        },
        ..RestConfig::default()
    }
}

/// Replays the pairs of one world.
async fn replay(all: &[Recording], apis: &[&str], config: RestConfig, tally: &mut Tally) {
    let of_world = |recording: &&Recording| {
        apis.contains(&recording.api.as_str())
            && intended::left_out(&recording.api, &recording.name, &recording.path).is_none()
    };
    let mut pairs = all.iter().filter(of_world).peekable();
    if pairs.peek().is_none() {
        return;
    }
    let mut world = soon(World::start(config, apis.contains(&"rest-raft")), "start").await;
    let mut matched = Matched::default();
    for recording in pairs {
        let name = recording.name.as_str();
        soon(world.prepare(recording, all, &mut matched), name).await;
        let received = soon(world.send(recording), name).await;
        tally.count(recording, &compare::differences(recording, &received, &mut matched));
        for (method, path) in AFTERWARDS.iter().filter(|(pair, _)| *pair == name).flat_map(|(_, sent)| *sent)
        {
            soon(world.must(method, path), name).await;
            soon(world.settle(), name).await;
        }
        if recording.method != "GET" {
            soon(world.settle_after(recording), name).await;
        }
    }
}

impl Tally {
    fn count(&mut self, recording: &Recording, differences: &[compare::Difference]) {
        let name = &recording.name;
        if differences.is_empty() {
            self.equal += 1;
        }
        for difference in differences {
            let meant = INTENDED
                .iter()
                .position(|intended| fits(intended.pair, name) && fits(intended.place, &difference.place));
            if let Some(index) = meant {
                self.used.insert(index);
                self.meant.entry(name.clone()).or_default().insert(INTENDED[index].why);
            } else {
                let compare::Difference { place, theirs, ours } = difference;
                let request = format!("{} {}", recording.method, recording.path);
                self.wrong
                    .push(format!("{name}: {request}\n  {place}\n  theirs: {theirs}\n  ours:   {ours}"));
            }
        }
    }
}

fn report(all: &[Recording], tally: &Tally) {
    let left_out: usize = tally.left_out.values().sum();
    let mut differ: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (pair, reasons) in &tally.meant {
        for why in reasons {
            differ.entry(why).or_default().push(pair);
        }
    }
    for (why, pairs) in &differ {
        println!("{} differ on purpose: {why}\n    {}", pairs.len(), pairs.join(" "));
    }
    for (why, count) in &tally.left_out {
        println!("{count} not applicable: {why}");
    }
    println!(
        "{} pairs, {} replayed: {} equal, {} differ on purpose; {left_out} not applicable",
        all.len(),
        all.len() - left_out,
        tally.equal,
        tally.meant.len(),
    );
    assert!(tally.wrong.is_empty(), "{} differences\n\n{}", tally.wrong.len(), tally.wrong.join("\n\n"));
    assert_eq!(tally.equal + tally.meant.len() + left_out, all.len());
    for (index, Intended { pair, place, .. }) in INTENDED.iter().enumerate() {
        assert!(tally.used.contains(&index), "{pair} {place} does not differ");
    }
    for (pair, _) in AFTERWARDS {
        assert!(all.iter().any(|recording| recording.name == *pair), "there is no pair {pair}");
    }
}

use intended::Intended;
