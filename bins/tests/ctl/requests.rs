//! What it asks for, waits for and shows.

use std::time::Duration;

use ipfs_cluster::clock::{SystemClock, WallClock as _};

use crate::server::{Server, document, listing};
use crate::{CID, PEER, ask, pin_line, status_of};

#[test]
fn unpinning_waits_until_the_daemon_let_go_where_that_can_be_seen() {
    let (pin, gone, busy) = (pin_line(""), status_of("unpinned"), status_of("unpinning"));
    let answers = [&pin, &gone, &busy, &gone, &gone].map(|body| document(200, body));
    let server = Server::answering(answers.to_vec());
    let ran = ask(&server, &["pin", "rm", "--wait", CID]);
    assert_eq!(
        ran.stdout,
        format!(
            "{CID}:\n    > peerA                : UNPINNED | 2026-11-20T23:19:20Z | Attempts: 0 | Priority: false\n"
        )
    );
    assert_eq!(ran.exit_code, Some(0));
    let (everywhere, here) = (format!("GET /pins/{CID}?local=false"), format!("GET /pins/{CID}?local=true"));
    assert_eq!(
        server.request_lines(),
        [&format!("DELETE /pins/ipfs/{CID}"), &everywhere, &here, &everywhere, &here].map(String::clone)
    );
}

#[test]
fn an_unpin_that_fails_here_ends_the_wait() {
    let (pin, gone, failed) = (pin_line(""), status_of("unpinned"), status_of("unpin_error"));
    let server = Server::answering([&pin, &gone, &failed].map(|body| document(200, body)).to_vec());
    let ran = ask(&server, &["pin", "rm", "--wait", CID]);
    let wanted =
        "error waiting for pin status: error has occurred while attempting to reach status: unpinned\n";
    assert_eq!((ran.stderr.as_str(), ran.exit_code), (wanted, Some(1)));
}

#[test]
fn a_short_limit_of_time_is_kept_too() {
    let server = Server::answering(vec![document(200, &pin_line(""))]);
    let ran = ask(&server, &["pin", "add", "--wait", "--wait-timeout", "100ms", CID]);
    let wanted = "error waiting for pin status: context deadline exceeded\n";
    assert_eq!((ran.stderr.as_str(), ran.exit_code), (wanted, Some(62)));
}

#[test]
fn sync_asks_for_one_or_for_all() {
    let server =
        Server::answering(vec![listing(&[&status_of("pinned")], &[""]), document(200, &status_of("pinned"))]);
    for args in [&["sync", "--local"][..], &["sync", CID]] {
        let ran = ask(&server, args);
        assert!(ran.stdout.starts_with(&format!("{CID}:\n    > peerA  ")), "{}", ran.stdout);
        assert_eq!(ran.exit_code, Some(0));
    }
    assert_eq!(
        server.request_lines(),
        ["POST /pins/sync?local=true".to_owned(), format!("POST /pins/{CID}/sync?local=false")]
    );
}

#[test]
fn many_cids_are_asked_for_in_portions() {
    let server = Server::answering(vec![listing(&[&status_of("pinned")], &[""]); 2]);
    let mut args = vec!["status"];
    args.extend([CID; 60]);
    let ran = ask(&server, &args);
    assert_eq!((ran.stdout.lines().count(), ran.exit_code), (4, Some(0)));
    assert_eq!(server.request_lines().len(), 2);
}

#[test]
fn metrics_and_alerts_are_shown_relative_to_now() {
    let expire = (SystemClock.now() + Duration::from_secs(5400)).unix_nanoseconds();
    let metric = format!(
        "{{\"name\":\"freespace\",\"peer\":\"{PEER}\",\"value\":\"9999973126\",\"expire\":{expire},\"valid\":true,\
         \"weight\":9999973126,\"partitionable\":false,\"received_at\":0"
    );
    let server = Server::answering(vec![
        document(200, &format!("[{metric}}}]")),
        document(200, &format!("[{metric},\"triggered_at\":\"1969-07-20T20:17:40Z\"}}]")),
    ]);
    let ran = ask(&server, &["health", "metrics", "freespace"]);
    assert_eq!(ran.stdout, format!("{PEER} | freespace: 10 GB | Expires in: 1 hour from now\n"));
    let ran = ask(&server, &["health", "alerts"]);
    assert_eq!(
        ran.stdout,
        format!("{PEER}: freespace. Expired at: 1 hour from now. Triggered at: a long while ago\n")
    );
}

#[test]
fn the_graph_goes_to_a_file_when_asked() {
    let graph = format!(
        "{{\"cluster_id\":\"{PEER}\",\"id_to_peername\":{{}},\"ipfs_links\":{{}},\"cluster_links\":{{\"{PEER}\":[]}},\
         \"cluster_trust_links\":{{}},\"cluster_to_ipfs\":{{}}}}"
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("graph.dot");
    let server = Server::answering(vec![document(200, &graph); 2]);
    let ran = ask(&server, &["health", "graph", "-f", file.to_str().unwrap()]);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str(), ran.exit_code), ("", "", Some(0)));
    assert!(std::fs::read_to_string(&file).unwrap().starts_with("digraph cluster {\n"));

    let missing = folder.path().join("missing").join("graph.dot");
    let ran = ask(&server, &["health", "graph", "--file", missing.to_str().unwrap()]);
    assert!(
        ran.stderr.starts_with("error creating output file: No such file or directory"),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.exit_code, Some(1));
}
