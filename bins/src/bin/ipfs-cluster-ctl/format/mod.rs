//! Values as the reference prints them. Pure: value in, text out.

mod graph;
mod human;
mod json;
mod pins;
mod plain;

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use ipfs_cluster::client::Bandwidth;
use ipfs_cluster::types::{
    Added, Alert, Event, GlobalRepoGc, Happening, Lease, LeaseState, Metric, PeerInfo, Timestamp, Version,
};
use serde_json::Result;

pub(crate) use self::graph::graph;
pub(crate) use self::json::json;
pub(crate) use self::pins::{pin, status};
use crate::failure::Answer;

/// What the reference prints where a time is not set.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// Adds a formatted line. Writing to a `String` cannot fail.
macro_rules! line {
    ($text:expr, $($arguments:tt)*) => {{
        let _ = writeln!($text, $($arguments)*);
    }};
}

/// A peer and its daemon, in a block.
pub(crate) fn peer(text: &mut String, json: &str) -> Result<()> {
    let peer: PeerInfo = serde_json::from_str(json)?;
    if !peer.error.is_empty() {
        line!(text, "{} | ERROR: {}", peer.id, peer.error);
        return Ok(());
    }
    let others = peer.cluster_peers.as_deref().unwrap_or_default().len().saturating_sub(1);
    // Ours alone: a peer of Go says nothing of it, and then the line is Go's.
    let pinset = if peer.pinset.is_unknown() { String::new() } else { format!(" | Pinset: {}", peer.pinset) };
    line!(text, "{} | {} | Sees {others} other peers{pinset}", peer.id, peer.peername);
    line!(text, "  > Addresses:");
    for address in sorted(peer.addresses.iter().flatten()) {
        line!(text, "    - {address}");
    }
    if !peer.ipfs.error.is_empty() {
        line!(text, "  > IPFS ERROR: {}", peer.ipfs.error);
        return Ok(());
    }
    line!(text, "  > IPFS: {}", peer.ipfs.id.map(|id| id.to_string()).unwrap_or_default());
    for address in sorted(peer.ipfs.addresses.iter().flatten()) {
        line!(text, "    - {address}");
    }
    Ok(())
}

/// What was added, with its CID.
pub(crate) fn added(text: &mut String, json: &str) -> Result<()> {
    let added: Added = serde_json::from_str(json)?;
    if let Some(cid) = added.cid {
        line!(text, "added {cid} {}", added.name);
    }
    Ok(())
}

/// The CID of what was added.
pub(crate) fn added_quiet(text: &mut String, json: &str) -> Result<()> {
    if let Some(cid) = serde_json::from_str::<Added>(json)?.cid {
        line!(text, "{cid}");
    }
    Ok(())
}

/// The version alone.
pub(crate) fn version(text: &mut String, json: &str) -> Result<()> {
    let version: Version = serde_json::from_str(json)?;
    line!(text, "{}", version.version);
    Ok(())
}

/// One name on each line.
pub(crate) fn names(text: &mut String, json: &str) -> Result<()> {
    for name in serde_json::from_str::<Vec<String>>(json)? {
        line!(text, "{name}");
    }
    Ok(())
}

/// One metric on each line.
pub(crate) fn metrics(text: &mut String, json: &str, now: Timestamp) -> Result<()> {
    for metric in serde_json::from_str::<Vec<Metric>>(json)? {
        let value = match u64::try_from(metric.weight) {
            Ok(bytes) if metric.name == "freespace" && bytes > 0 => human::bytes(bytes),
            _ => metric.value.clone(),
        };
        let expires = human::relative(metric.expires_at(), now);
        line!(text, "{} | {}: {value} | Expires in: {expires}", metric.peer, metric.name);
    }
    Ok(())
}

/// One alert on each line.
pub(crate) fn alerts(text: &mut String, json: &str, now: Timestamp) -> Result<()> {
    for Alert { metric, triggered_at } in serde_json::from_str::<Vec<_>>(json)? {
        let expired = human::relative(metric.expires_at(), now);
        let triggered = human::relative(triggered_at, now);
        line!(text, "{}: {}. Expired at: {expired}. Triggered at: {triggered}", metric.peer, metric.name);
    }
    Ok(())
}

/// One protocol on each line.
pub(crate) fn bandwidth(text: &mut String, json: &str) -> Result<()> {
    for (protocol, moved) in serde_json::from_str::<BTreeMap<String, Bandwidth>>(json)? {
        let [total_in, total_out] =
            [moved.total_in, moved.total_out].map(|total| human::bytes(u64::try_from(total).unwrap_or(0)));
        let (rate_in, rate_out) = (moved.rate_in, moved.rate_out);
        line!(
            text,
            "{protocol:>25}: In: {total_in:>7}. Out: {total_out:>7}. RateIn: {rate_in:.2}B/s. RateOut: {rate_out:.2}B/s"
        );
    }
    Ok(())
}

/// What was collected, in a block for each peer.
pub(crate) fn repo_gc(text: &mut String, json: &str) -> Result<()> {
    let collected: GlobalRepoGc = serde_json::from_str(json)?;
    let mut peers: Vec<_> = collected.peer_map.iter().map(|(peer, gc)| (peer.to_string(), gc)).collect();
    peers.sort_by(|a, b| a.0.cmp(&b.0));
    for (peer, gc) in peers {
        let name = if gc.peername.is_empty() { &peer } else { &gc.peername };
        if gc.error.is_empty() {
            line!(text, "{name:<15}");
        } else {
            line!(text, "{name:<15} | ERROR: {}", gc.error);
        }
        line!(text, "  > CIDs:");
        for key in &gc.keys {
            match (&key.key, key.error.as_str()) {
                (Some(cid), "") => line!(text, "    - {cid}"),
                (_, error) => line!(text, "    - ERROR: {error}"),
            }
        }
    }
    Ok(())
}

/// What is kept for an upload, on one line.
pub(crate) fn lease(text: &mut String, json: &str) -> Result<()> {
    /// Roots that are shown.
    const ROOTS: usize = 3;
    let lease: Lease = serde_json::from_str(json)?;
    let state = lease.state.as_str().to_ascii_uppercase();
    let size = human::bytes(lease.bytes);
    let _ =
        write!(text, "{} | {state} | {} blocks, {size} | Since: {}", lease.cid, lease.blocks, lease.since);
    if let LeaseState::Waiting { roots } = &lease.state {
        let shown: Vec<_> = roots.iter().take(ROOTS).map(ToString::to_string).collect();
        let more = match roots.len().saturating_sub(ROOTS) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let _ = write!(text, " | Roots: [{}]{more}", shown.join(" "));
    }
    text.push('\n');
    Ok(())
}

/// What happened, on one line: when, what, to what, and details.
pub(crate) fn event(text: &mut String, json: &str) -> Result<()> {
    let event: Event = serde_json::from_str(json)?;
    // Names and errors are of others; none of them makes a line of its own.
    let flat = |text: &str| text.replace(char::is_control, " ");
    let kind = event.what.as_str().to_ascii_uppercase();
    let _ = write!(text, "{} {} ", event.time, flat(&kind));
    match &event.what {
        Happening::Pinned(pin) | Happening::Unpinned(pin) => {
            line!(text, "{} {}", pin.cid, flat(&pin.options.name))
        }
        Happening::Status(info) => {
            let status = &info.status;
            let by = if status.peername.is_empty() { info.peer.to_string() } else { flat(&status.peername) };
            let error =
                if status.error.is_empty() { String::new() } else { format!(": {}", flat(&status.error)) };
            line!(text, "{} {} | {by}{error}", info.cid, status.status.as_str().to_ascii_uppercase());
        }
        Happening::Peer { subject, peername, is_alive } => {
            let state = if *is_alive { "APPEARED" } else { "EXPIRED" };
            line!(text, "{subject} {state} | {}", flat(peername));
        }
        Happening::Alert(alert) => {
            line!(text, "{} {} stopped coming", alert.metric.peer, flat(&alert.metric.name));
        }
        Happening::Resync(reason) => {
            line!(text, "- events may have been missed, list again: {}", flat(reason))
        }
        _ => line!(text, "-"),
    }
    Ok(())
}

/// What the API refused, or why it was not reached.
pub(crate) fn error(answer: &Answer) -> String {
    format!("An error occurred:\n  Code: {}\n  Message: {}\n", answer.code, answer.message)
}

/// Every command with those above it, one on each line.
pub(crate) fn commands(program: &clap::Command) -> String {
    fn walk(text: &mut String, command: &clap::Command, above: &str) {
        for command in command.get_subcommands() {
            let path = format!("{above} {}", command.get_name());
            line!(text, "{path}");
            walk(text, command, &path);
        }
    }
    let mut text = String::new();
    walk(&mut text, program, program.get_name());
    line!(text, "{} help", program.get_name());
    text
}

fn sorted<T: Display>(items: impl IntoIterator<Item = T>) -> Vec<String> {
    let mut texts: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    texts.sort();
    texts
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PEER_A: &str = "12D3KooWKqMeRxLjvowrtRFqBWaPALNyB3tJxAiubfhe9UdwgeBK";
    const PEER_B: &str = "12D3KooWJrXgPLcddsGwWa7UuMrxsts34DKx6he42cAd9FyR4s8L";
    const CID: &str = "QmejyuFQTELqErBgDU7kLi7JVoWM5VifDRs1RPw3ajDSQz";

    fn shown(value: serde_json::Value, show: fn(&mut String, &str) -> Result<()>) -> String {
        let mut text = String::new();
        show(&mut text, &value.to_string()).unwrap();
        text
    }

    #[test]
    fn a_peer_whose_pinset_is_known_says_so_at_the_end_of_its_first_line() {
        let mut listed = json!({
            "id": PEER_A, "addresses": [], "cluster_peers": [PEER_A, PEER_B], "cluster_peers_addresses": [],
            "version": "1.1.6", "commit": "", "rpc_protocol_version": "", "error": "",
            "ipfs": {"id": PEER_B, "addresses": [], "error": ""}, "peername": "peerA",
        });
        let first = format!("{PEER_A} | peerA | Sees 1 other peers");
        let rest = format!("\n  > Addresses:\n  > IPFS: {PEER_B}\n");
        assert_eq!(shown(listed.clone(), peer), format!("{first}{rest}"));
        for standing in ["in sync", "about 120 behind", "about 3 ahead", "diverged"] {
            listed["pinset"] = standing.into();
            assert_eq!(shown(listed.clone(), peer), format!("{first} | Pinset: {standing}{rest}"));
        }
        listed["pinset"] = "a word of later versions".into();
        assert_eq!(shown(listed, peer), format!("{first}{rest}"));
    }

    #[test]
    fn a_pin_shows_every_option_as_the_reference_does() {
        let everything = json!({
            "replication_factor_min": 1, "replication_factor_max": 3, "name": "cli", "mode": "direct",
            "expire_at": "2026-11-22T23:19:21.684738746Z", "metadata": {"a": "b"}, "cid": CID,
            "type": "clusterdag-pin", "allocations": [PEER_A, PEER_B], "max_depth": 0,
            "timestamp": "2026-11-20T23:19:21Z",
        });
        assert_eq!(
            shown(everything, pin),
            format!(
                "{CID} | cli | CLUSTERDAG-PIN-DIRECT | Repl. Factor: 1--3 | Allocations: [{PEER_B} {PEER_A}] | Direct \
                 | Metadata: yes | Exp: 2026-11-22 23:19:21 | Added: 2026-11-20 23:19:21\n"
            )
        );
        assert_eq!(
            shown(json!({"cid": CID, "max_depth": 1}), pin),
            format!(
                "{CID} |  | PIN | Repl. Factor: 0--0 | Allocations: [] | Recursive-1 | Metadata: no | Exp: ∞ \
                 | Added: unknown\n"
            )
        );
    }

    #[test]
    fn a_status_is_sorted_by_peer_id_and_shows_an_id_without_name_and_a_time_that_is_not_set() {
        let info = json!({"cid": CID, "name": "n", "peer_map": {
            PEER_A: {"peername": "peerA", "status": "pinned", "timestamp": "2026-11-20T23:19:20Z"},
            PEER_B: {"status": "pin_error", "error": "no\nroute", "attempt_count": 2, "priority_pin": true,
                     "timestamp": "0001-01-01T00:00:00Z"},
        }});
        assert_eq!(
            shown(info, status),
            format!(
                "{CID} | n:\n    > {PEER_B} : PIN_ERROR: no\nroute | 0001-01-01T00:00:00Z | Attempts: 2 | Priority: true\n    \
                 > peerA                : PINNED | 2026-11-20T23:19:20Z | Attempts: 0 | Priority: false\n"
            )
        );
    }

    #[test]
    fn metrics_and_alerts_tell_times_relative_to_now() {
        let now = Timestamp::from_unix_seconds(1_795_216_770);
        let metric = |name: &str, weight: i64, after: i64| {
            json!({"name": name, "peer": PEER_A, "value": "raw", "expire": 1_795_216_770_000_000_000_i64 + after * 1_000_000_000,
                   "valid": true, "weight": weight, "partitionable": false})
        };
        let values = json!([
            metric("freespace", 9_999_973_126, 25),
            metric("freespace", 0, 0),
            metric("ping", 5, -90)
        ]);
        let mut text = String::new();
        metrics(&mut text, &values.to_string(), now).unwrap();
        assert_eq!(
            text,
            format!(
                "{PEER_A} | freespace: 10 GB | Expires in: 25 seconds from now\n\
                 {PEER_A} | freespace: raw | Expires in: now\n\
                 {PEER_A} | ping: raw | Expires in: 1 minute ago\n"
            )
        );
        let mut alert = values[2].clone();
        alert["triggered_at"] = Timestamp::from_unix_seconds(1_795_216_728).to_string().into();
        text.clear();
        alerts(&mut text, &json!([alert]).to_string(), now).unwrap();
        assert_eq!(text, format!("{PEER_A}: ping. Expired at: 1 minute ago. Triggered at: 42 seconds ago\n"));
    }

    #[test]
    fn a_lease_shows_what_it_waits_for_and_few_of_many_roots() {
        let of = |state: &str, roots: usize| {
            json!({
                "peer": PEER_A, "cid": CID, "since": "2026-11-20T23:19:20Z", "blocks": 32, "bytes": 8_388_608,
                "state": state, "roots": vec![CID; roots],
            })
        };
        let start =
            |state: &str| format!("{CID} | {state} | 32 blocks, 8.4 MB | Since: 2026-11-20T23:19:20Z");
        assert_eq!(shown(of("running", 0), lease), format!("{}\n", start("RUNNING")));
        assert_eq!(shown(of("waiting", 1), lease), format!("{} | Roots: [{CID}]\n", start("WAITING")));
        assert_eq!(
            shown(of("waiting", 5), lease),
            format!("{} | Roots: [{CID} {CID} {CID}] and 2 more\n", start("WAITING"))
        );
        assert_eq!(shown(of("failed", 0), lease), format!("{}\n", start("FAILED")));
    }

    #[test]
    fn garbage_collection_shows_errors_of_peers_and_of_blocks() {
        let collected = json!({"peer_map": {
            PEER_A: {"peer": PEER_A, "peername": "peerA", "keys": [{"key": CID}, {"key": null, "error": "stuck"}]},
            PEER_B: {"peer": PEER_B, "peername": "", "keys": [], "error": "failed to dial"},
        }});
        assert_eq!(
            shown(collected, repo_gc),
            format!(
                "{PEER_B} | ERROR: failed to dial\n  > CIDs:\npeerA          \n  > CIDs:\n    - {CID}\n    - ERROR: stuck\n"
            )
        );
    }
}
