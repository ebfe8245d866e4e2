//! The program `ipfs-cluster-ctl` against scripted servers.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic like tests")]

mod add;
mod golden;
mod manual;
#[cfg(unix)]
mod progress;
mod server;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use ipfs_cluster::clock::{SystemClock, WallClock as _};

use crate::server::{LISTING_HEAD, PATIENCE, Server, chunk, closed_port, document, listing, listing_end};

const CID: &str = "QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o";
const PEER: &str = "12D3KooWKqMeRxLjvowrtRFqBWaPALNyB3tJxAiubfhe9UdwgeBK";

fn ctl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipfs-cluster-ctl"));
    // Neither proxies nor credentials of whoever runs the tests.
    command.env_clear().stdin(Stdio::null());
    command
}

#[derive(Debug)]
struct Ran {
    stdout: String,
    stderr: String,
    exit_code: Option<i32>,
}

fn run(command: &mut Command) -> Ran {
    let output = command.output().unwrap();
    Ran {
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        exit_code: output.status.code(),
    }
}

fn ask(server: &Server, args: &[&str]) -> Ran {
    run(ctl().arg("--host").arg(server.host()).args(args))
}

fn pin_line(name: &str) -> String {
    format!(
        "{{\"cid\":\"{CID}\",\"name\":\"{name}\",\"type\":\"pin\",\"mode\":\"recursive\",\"max_depth\":-1}}"
    )
}

fn status_of(status: &str) -> String {
    format!(
        "{{\"cid\":\"{CID}\",\"name\":\"\",\"peer_map\":{{\"{PEER}\":{{\"peername\":\"peerA\",\"status\":\"{status}\",\
         \"timestamp\":\"2026-11-20T23:19:20Z\",\"error\":\"\",\"attempt_count\":0,\"priority_pin\":false}}}}}}"
    )
}

#[test]
fn a_page_is_printed_as_a_listing_and_stderr_says_where_it_goes_on() {
    let line = pin_line("backup-1");
    let body = format!("{line}\n{line}\n");
    let page = |cursor: &str| {
        let length = body.len();
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{cursor}Content-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        )
        .into_bytes()
    };
    let server = Server::answering(vec![
        page("X-Next-Cursor: abc-_\r\n"),
        page(""),
        listing(&[&format!("{line}\n"), &format!("{line}\n")], &[""]),
        page(""),
        page(""),
    ]);
    let args = [
        "pin",
        "ls",
        "--limit",
        "2",
        "--after",
        "xyz",
        "--name-prefix",
        "backup-",
        "--metadata",
        "a=b",
        "--created-after",
        "2026-01-02T03:04:05Z",
        "--sort",
        "-name",
    ];
    let cut = ask(&server, &args);
    assert_eq!((cut.exit_code, cut.stderr.as_str()), (Some(0), "there may be more: --after abc-_\n"));
    let last = ask(&server, &args);
    assert_eq!((last.exit_code, last.stderr.as_str()), (Some(0), ""));
    let whole = ask(&server, &["pin", "ls", "--name", "backup-1"]);
    assert_eq!((&cut.stdout, &last.stdout), (&whole.stdout, &whole.stdout));
    let json = ask(&server, &["--enc", "json", "status", "--peer", PEER, "--limit", "2", "--local"]);
    assert_eq!((json.exit_code, json.stderr.as_str()), (Some(0), ""));
    assert_eq!(json.stdout.matches("backup-1").count(), 2);
    let ignorant = ask(&server, &["pin", "ls", "--limit", "1"]);
    assert!(ignorant.exit_code != Some(0) && ignorant.stdout.is_empty(), "{ignorant:?}");
    assert!(ignorant.stderr.contains("it knows no pages"), "{ignorant:?}");
    let find = "/allocations?filter=all&limit=2&after=xyz&name-prefix=backup-&meta-a=b\
                &created-after=2026-01-02T03%3A04%3A05Z&sort=-name";
    assert_eq!(
        server.request_lines(),
        [
            format!("GET {find}"),
            format!("GET {find}"),
            "GET /allocations?filter=all&name=backup-1".to_owned(),
            format!("GET /pins?local=true&filter=&limit=2&peer={PEER}"),
            "GET /allocations?filter=all&limit=1".to_owned(),
        ]
    );
}

#[test]
fn bad_input_is_named_on_stderr_before_anybody_is_asked() {
    let filters = "error, queued, cluster_error, pin_error, unpin_error, pinned, pinning, unpinning, unpinned, \
                   remote, pin_queued, unpin_queued, sharded, unexpectedly_unpinned";
    let cases: &[(&str, String, i32)] = &[
        ("pin ls notacid", "error parsing cid: invalid cid: selected encoding not supported".into(), 1),
        ("status b", "error parsing cid: invalid cid: cid too short".into(), 1),
        ("recover zzz", "error parsing cid: invalid cid: ".into(), 1),
        ("sync notacid", "error parsing cid: invalid cid: selected encoding not supported".into(), 1),
        (
            "pin rm notacid",
            "error : invalid path \"/ipfs/notacid\": invalid cid: selected encoding not supported".into(),
            1,
        ),
        ("pin rm", "error : invalid path \"/ipfs/\": path does not have enough components".into(), 1),
        ("pin add /foo/bar", "error : invalid path \"/foo/bar\": unknown namespace: \"foo\", expected ipfs".into(), 1),
        ("pin update", "error parsing from Cid: invalid cid: cid too short".into(), 1),
        ("pin add --expire-in xyz x", "error parsing expire-in: time: invalid duration \"xyz\"".into(), 1),
        (
            "pin add --mode weird x",
            "error parsing mode: unknown pin mode \"weird\", expected recursive or direct\n".into(),
            1,
        ),
        (
            "status --filter bogus",
            format!("error parsing filter flag: invalid filter value \"bogus\", expected a comma list of {filters}\n"),
            1,
        ),
        (
            "pin ls --filter pin,bogus",
            "error parsing filter flag: invalid filter value \"bogus\", expected a comma list of all, pin, meta-pin, \
             clusterdag-pin, shard-pin\n"
                .into(),
            1,
        ),
        ("watch --after x", "error parsing after: \"x\" is no cursor of an event\n".into(), 1),
        (
            "watch --kind pinned --kind resync",
            "error parsing kind flag: unknown kind of events \"resync\", expected a comma list of pinned,".into(),
            1,
        ),
        ("watch zzz", "error parsing cid: invalid cid: ".into(), 1),
        ("pin ls --created-after x", "error parsing created-after: parsing time \"x\": expected RFC 3339".into(), 1),
        ("pin ls --metadata x", "error parsing metadata: metadata were not in the format key=value\n".into(), 1),
        ("status --peer bad", "error parsing peer ID: invalid peer id \"bad\": ".into(), 1),
        (
            "pin ls --name x QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o",
            "error : flags that find pins cannot stand beside a CID\n".into(),
            1,
        ),
        ("peers rm bad", "error parsing peer ID: invalid peer id \"bad\": ".into(), 1),
        ("health metrics ..", "error : \"..\" is not the name of a metric\n".into(), 1),
        ("--enc=xml id", "error : unsupported encoding\n".into(), 1),
        ("--secret zz id", "error parsing secret: encoding/hex: invalid byte: U+007A 'z'\n".into(), 1),
        (
            "--host /ip4/bad/tcp/1 id",
            "error parsing host multiaddress: failed to parse multiaddr \"/ip4/bad/tcp/1\": ".into(),
            1,
        ),
        (
            "--host= id",
            "error parsing host multiaddress: failed to parse multiaddr \"\": empty multiaddr\n".into(),
            1,
        ),
        (
            "--secret abab --host /dnsaddr/example.com id",
            "error creating API client: length of ProtectorKey should be 32\n".into(),
            1,
        ),
        ("--timeout soon id", "error: invalid value 'soon' for '--timeout".into(), 1),
        ("pin add --wait-timeout 5 x", "error: invalid value '5' for '--wait-timeout".into(), 1),
        ("id more", "error: unexpected argument 'more' found".into(), 1),
        ("--bogus id", "error: unexpected argument '--bogus' found".into(), 1),
        ("bogus", "No help topic for 'bogus'\n".into(), 3),
        ("pin bogus", "No help topic for 'bogus'\n".into(), 3),
        ("help bogus", "No help topic for 'bogus'\n".into(), 3),
        ("add --wait-timeout 5 x", "error: invalid value '5' for '--wait-timeout".into(), 1),
        ("add --cid-version x x", "error: invalid value 'x' for '--cid-version".into(), 1),
        ("add http://", "error : error parsing path: ".into(), 1),
        ("add --expire-in xyz x", "error parsing expire-in: time: invalid duration \"xyz\"".into(), 1),
    ];
    for (line, stderr, exit_code) in cases {
        let ran = run(ctl().args(line.split(' ')));
        assert!(ran.stderr.starts_with(stderr.as_str()), "{line}: {ran:?}");
        assert_eq!((ran.stdout.as_str(), ran.exit_code), ("", Some(*exit_code)), "{line}");
    }
}

/// What went wrong where nobody answers, with a line on stderr where there is something to know.
fn silence(line: &str) -> (String, String) {
    let ran = run(ctl().args(line.split(' ')));
    assert_eq!(ran.exit_code, Some(1), "{line}: {ran:?}");
    let message = ran.stdout.strip_prefix("An error occurred:\n  Code: 0\n  Message: ").unwrap();
    (message.trim_end().to_owned(), ran.stderr)
}

#[test]
fn hosts_of_every_kind_are_asked_in_their_own_way() {
    let port = closed_port();
    let (message, stderr) = silence(&format!("--host /ip4/127.0.0.1/tcp/{port} --basic-auth a:b version"));
    let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!(message, format!("Get \"https://127.0.0.1:{port}/version\": {refused}"));
    assert_eq!(
        stderr,
        "SSL automatically enabled with basic auth credentials. Set \"force-http\" to disable\n"
    );

    let (message, stderr) = silence(&format!("--host /dns4/localhost/tcp/{port} version"));
    assert_eq!(message, format!("Get \"http://127.0.0.1:{port}/version\": {refused}"));
    assert_eq!(stderr, "");

    let (message, _) = silence("--host /unix/no/such/api.sock --https version");
    let missing = "dial unix /no/such/api.sock: connect: no such file or directory";
    assert_eq!(message, format!("Get \"http+unix://restapi/version\": {missing}"));

    let server = Server::answering(vec![document(200, "{\"version\":\"1.1.6\"}")]);
    let hosts = format!("/ip4/127.0.0.1/tcp/{port},/unix/no/such/api.sock,{}", server.host());
    let ran = run(ctl().args(["--host", &hosts, "version"]));
    assert_eq!((ran.stdout.as_str(), ran.exit_code), ("1.1.6\n", Some(0)), "{ran:?}");
}

#[cfg(feature = "ctl-libp2p")]
#[test]
fn a_host_of_libp2p_is_dialled_and_https_is_ignored() {
    let host = format!("/ip4/127.0.0.1/tcp/{}/p2p/{PEER}", closed_port());
    let (message, stderr) = silence(&format!("--https --host {host} version"));
    let dialled = format!("Get \"libp2p://{PEER}/version\": failed to dial: failed to dial {PEER}: ");
    assert!(message.starts_with(&dialled), "{message}");
    assert_eq!(
        stderr,
        format!("Using libp2p-http for {host}. The https flag will be ignored for this connection\n")
    );
}

#[test]
fn no_server_is_an_error_block_with_code_0() {
    let port = closed_port();
    let host = format!("/ip4/127.0.0.1/tcp/{port}");
    let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");

    let ran = run(ctl().args(["--host", &host, "id"]));
    let wanted =
        format!("An error occurred:\n  Code: 0\n  Message: Get \"http://127.0.0.1:{port}/id\": {refused}\n");
    assert_eq!((ran.stdout, ran.stderr, ran.exit_code), (wanted, String::new(), Some(1)));

    let ran = run(ctl().args(["--enc=json", "--host", &host, "pin", "ls"]));
    let wanted = format!(
        "{{\n    \"code\": 0,\n    \"message\": \"Get \\\"http://127.0.0.1:{port}/allocations?filter=all\\\": {refused}\"\n}}\n"
    );
    assert_eq!((ran.stdout, ran.stderr, ran.exit_code), (wanted, String::new(), Some(1)));
}

#[test]
fn the_next_host_answers_when_the_first_does_not() {
    let server = Server::answering(vec![document(200, "{\"version\":\"1.1.6\"}")]);
    let hosts = format!("/ip4/127.0.0.1/tcp/{},{}", closed_port(), server.host());
    let ran = run(ctl().args(["--timeout", "30", "--host", &hosts, "version"]));
    assert_eq!((ran.stdout.as_str(), ran.exit_code), ("1.1.6\n", Some(0)), "{}", ran.stderr);
}

#[test]
fn of_a_flag_that_is_given_twice_the_last_one_counts() {
    let server = Server::answering(vec![
        document(200, "{\"version\":\"1.1.6\"}"),
        listing(&[&status_of("pinned")], &[""]),
    ]);
    let closed = format!("/ip4/127.0.0.1/tcp/{}", closed_port());
    let twice = ["--host", &closed, "--host", &server.host(), "--enc", "xml", "--encoding=json"];
    let ran = run(ctl().args(twice).arg("version"));
    assert_eq!(
        (ran.stdout.as_str(), ran.exit_code),
        ("{\n    \"version\": \"1.1.6\"\n}\n", Some(0)),
        "{ran:?}"
    );
    let ran = ask(&server, &["status", "--local", "--filter", "pinned", "--local", "--filter", "error"]);
    assert_eq!(ran.exit_code, Some(0), "{ran:?}");
    let asked = server.request_lines().pop().unwrap();
    assert_eq!(asked, "GET /pins?local=true&filter=error&cids=");
    let two = run(ctl().args(["pin", "ls", CID, CID]));
    assert!(two.stderr.starts_with("error: unexpected argument "), "{two:?}");
}

#[test]
fn a_server_that_does_not_answer_in_time_counts_as_none() {
    let (release, held) = mpsc::channel::<()>();
    let server = Server::running(vec![Box::new(move |_| {
        let _ = held.recv_timeout(PATIENCE);
    })]);
    let ran = ask(&server, &["--timeout", "1", "status"]);
    let wanted = format!(
        "An error occurred:\n  Code: 0\n  Message: Get \"http://127.0.0.1:{}/pins?local=false&filter=&cids=\": \
         request canceled (no answer within the timeout of 1s)\n",
        server.port
    );
    assert_eq!((ran.stdout, ran.exit_code), (wanted, Some(1)));
    drop(release);
}

#[test]
fn a_listing_that_breaks_off_shows_what_came_and_fails() {
    let mut answer = LISTING_HEAD.as_bytes().to_vec();
    answer.extend_from_slice(&chunk(&pin_line("first")));
    answer.extend_from_slice(format!("ff\r\n{}", &pin_line("second")[..30]).as_bytes());
    let ran = ask(&Server::answering(vec![answer]), &["pin", "ls"]);
    let (first, rest) = ran.stdout.split_once('\n').unwrap();
    assert!(first.starts_with(&format!("{CID} | first | PIN")), "{first}");
    assert!(rest.starts_with("An error occurred:\n  Code: 0\n  Message: Get \"http://127.0.0.1:"), "{rest}");
    assert!(rest.contains("/allocations?filter=all\": the answer broke off: "), "{rest}");
    assert_eq!(ran.exit_code, Some(1));
}

#[test]
fn a_line_that_is_no_pin_is_a_local_error() {
    let server = Server::answering(vec![listing(&[&pin_line("first"), "{\"cid\":\"nonsense\"}"], &[""])]);
    let ran = ask(&server, &["pin", "ls"]);
    assert_eq!(ran.stdout.lines().count(), 1);
    assert!(ran.stderr.starts_with("error : Get \"http://127.0.0.1:"), "{}", ran.stderr);
    assert!(ran.stderr.contains(": line 2 is not what was expected: invalid cid: "), "{}", ran.stderr);
    assert_eq!(ran.exit_code, Some(1));
}

#[test]
fn an_answer_that_is_no_document_is_a_refusal_with_its_status() {
    let ran = ask(&Server::answering(vec![document(200, "<html>")]), &["id"]);
    assert!(
        ran.stdout.starts_with("An error occurred:\n  Code: 200\n  Message: Get \"http"),
        "{}",
        ran.stdout
    );
    assert_eq!(ran.exit_code, Some(2));
    // Here the reference prints an empty message.
    let ran = ask(&Server::answering(vec![document(405, "")]), &["id"]);
    assert_eq!(
        (ran.stdout.as_str(), ran.exit_code),
        ("An error occurred:\n  Code: 405\n  Message: the server answered 405 Method Not Allowed\n", Some(2))
    );
}

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

#[test]
fn credentials_come_from_the_flag_or_the_environment() {
    let server = Server::answering(vec![document(200, "{\"version\":\"1.1.6\"}"); 2]);
    let ran = ask(&server, &["--basic-auth", "user:pass:word", "--force-http", "version"]);
    assert_eq!(ran.exit_code, Some(0), "{ran:?}");
    let ran = run(ctl().env("CLUSTER_CREDENTIALS", "user:pass:word").args([
        "-f",
        "--host",
        &server.host(),
        "version",
    ]));
    assert_eq!(ran.exit_code, Some(0), "{ran:?}");
    for head in server.requests() {
        assert!(head.to_lowercase().contains("\r\nauthorization: basic dxnlcjpwyxnzondvcmq=\r\n"), "{head}");
    }
    let help = run(ctl().env("CLUSTER_CREDENTIALS", "user:pass:word").arg("--help"));
    assert!(!help.stdout.contains("pass:word") && help.stdout.contains("CLUSTER_CREDENTIALS"));
}

#[test]
fn debug_tells_on_stderr_what_is_asked() {
    let server = Server::answering(vec![document(200, "{\"version\":\"1.1.6\"}")]);
    let ran = ask(&server, &["--debug", "version"]);
    assert_eq!(ran.stdout, "1.1.6\n");
    assert!(ran.stderr.contains("/version"), "{}", ran.stderr);
}

#[test]
fn help_version_and_commands_are_printed_on_stdout() {
    let version = run(ctl().arg("-v"));
    let own = env!("CARGO_PKG_VERSION");
    assert_eq!(version.stdout, format!("ipfs-cluster-ctl version 1.1.6 (ipfs-cluster for Rust {own})\n"));
    for args in [&[][..], &["--help"], &["-h"], &["help"], &["--enc", "json"], &["-help"]] {
        let ran = run(ctl().args(args));
        assert!(ran.stdout.contains("Usage: ipfs-cluster-ctl [OPTIONS] [COMMAND]"), "{args:?} {ran:?}");
        assert_eq!((ran.stderr.as_str(), ran.exit_code), ("", Some(0)));
    }
    for args in [&["pin"][..], &["pin", "--help"], &["help", "pin"], &["pin", "add", "-h"]] {
        let ran = run(ctl().args(args));
        assert!(ran.stdout.contains("Usage: ipfs-cluster-ctl pin "), "{args:?} {ran:?}");
        assert_eq!((ran.stderr.as_str(), ran.exit_code), ("", Some(0)));
    }
    let commands = run(ctl().arg("commands"));
    let wanted = [
        "id",
        "peers",
        "peers ls",
        "peers rm",
        "add",
        "pin",
        "pin add",
        "pin rm",
        "pin update",
        "pin ls",
        "status",
        "sync",
        "recover",
        "watch",
        "version",
        "health",
        "health graph",
        "health metrics",
        "health alerts",
        "health bandwidth",
        "ipfs",
        "ipfs gc",
        "completion",
        "commands",
        "man",
        "help",
    ];
    let wanted: String = wanted.iter().map(|command| format!("ipfs-cluster-ctl {command}\n")).collect();
    assert_eq!(commands.stdout, wanted);
}

#[test]
fn lines_are_shown_as_they_arrive() {
    let (release, held) = mpsc::channel::<()>();
    let server = Server::running(vec![Box::new(move |connection| {
        connection.write_all(LISTING_HEAD.as_bytes()).unwrap();
        connection.write_all(&chunk(&pin_line("first"))).unwrap();
        // The rest comes once the first line was seen, which would be never if it were kept back.
        held.recv_timeout(PATIENCE).unwrap();
        connection.write_all(&chunk(&pin_line("second"))).unwrap();
        connection.write_all(&listing_end(&[""])).unwrap();
    })]);
    let mut child =
        ctl().args(["--host", &server.host(), "pin", "ls"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains(" | first | "));
    release.send(()).unwrap();
    assert!(lines.next().unwrap().unwrap().contains(" | second | "));
    assert!(lines.next().is_none());
    assert!(child.wait().unwrap().success());
}

/// Sends so many bytes that neither pipes nor sockets could hold them, waits for `held`, and ends the listing.
fn long_listing(held: mpsc::Receiver<()>) -> Server {
    const LINES: usize = 40_000;
    Server::running(vec![Box::new(move |connection| {
        let line = chunk(&pin_line(&"x".repeat(2000)));
        let sent = connection
            .write_all(LISTING_HEAD.as_bytes())
            .and_then(|()| (0..LINES).try_for_each(|_| connection.write_all(&line)));
        if sent.is_ok() {
            let _ = held.recv_timeout(PATIENCE);
            let _ = connection.write_all(&listing_end(&[""]));
        }
    })])
}

#[test]
fn a_reader_that_has_enough_ends_the_program_quietly() {
    for encoding in ["text", "json"] {
        let (_release, held) = mpsc::channel();
        let server = long_listing(held);
        let mut child = ctl()
            .args(["--enc", encoding, "--host", &server.host(), "pin", "ls"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert!(line.starts_with(CID) || line == "{\n", "{line}");
        drop(stdout);
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), b"".as_slice()));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_long_listing_takes_little_memory() {
    const RESIDENT_MAX_KIB: u64 = 40 * 1024;
    let (release, held) = mpsc::channel();
    let server = long_listing(held);
    let mut child =
        ctl().args(["--host", &server.host(), "pin", "ls"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    // More than half of it has passed when this many bytes were printed, and the program still runs.
    let mut printed = 0;
    let mut buffer = vec![0; 64 * 1024];
    while printed < 40_000_000 {
        let length = stdout.read(&mut buffer).unwrap();
        assert!(length > 0, "the listing ended after {printed} bytes");
        printed += length;
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < RESIDENT_MAX_KIB, "{peak} KiB");
    release.send(()).unwrap();
    std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
    assert!(child.wait().unwrap().success());
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    let server = Server::answering(vec![document(200, "{\"version\":\"1.1.6\"}")]);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = ctl()
        .args(["--host", &server.host(), "version"])
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error writing the output: No space left on device"), "{stderr}");
    assert_eq!(output.status.code(), Some(1));
}

fn event_line(number: u32, event: &str) -> String {
    format!(
        "{{\"cursor\":\"00000000000000ab-{number}\",\"time\":\"2026-11-20T23:19:2{number}Z\",\"peer\":\"{PEER}\",{event}}}"
    )
}

#[test]
fn a_watch_goes_on_where_it_broke_off_until_it_is_interrupted() {
    let status = format!(
        "\"type\":\"status\",\"cid\":\"{CID}\",\"name\":\"n\",\"info\":{{\"peername\":\"peerA\",\"status\":\"pin_error\",\
         \"timestamp\":\"2026-11-20T23:19:20Z\",\"error\":\"no\\nway\",\"attempt_count\":0,\"priority_pin\":false}}"
    );
    let of_pin = format!("\"type\":\"pinned\",\"cid\":\"{CID}\",\"pin\":{}", pin_line("a name"));
    let (release, held) = mpsc::channel::<()>();
    let first = [
        event_line(0, "\"type\":\"heartbeat\""),
        event_line(1, &of_pin),
        event_line(2, &status),
        event_line(3, "\"type\":\"heartbeat\""),
    ];
    let second = [
        event_line(
            4,
            &format!("\"type\":\"peer\",\"subject\":\"{PEER}\",\"peername\":\"b\",\"state\":\"expired\""),
        ),
        event_line(5, "\"type\":\"news of later versions\",\"x\":1"),
        event_line(6, "\"type\":\"resync\",\"reason\":\"too slow\""),
    ];
    let server = Server::running(vec![
        Box::new(move |connection| {
            connection.write_all(LISTING_HEAD.as_bytes()).unwrap();
            first.iter().for_each(|line| connection.write_all(&chunk(line)).unwrap());
            // And breaks off.
        }),
        Box::new(|connection| {
            connection.write_all(&document(503, "{\"code\":503,\"message\":\"later\"}")).unwrap()
        }),
        Box::new(move |connection| {
            connection.write_all(LISTING_HEAD.as_bytes()).unwrap();
            second.iter().for_each(|line| connection.write_all(&chunk(line)).unwrap());
            let _ = held.recv_timeout(PATIENCE);
        }),
    ]);
    let mut child = ctl()
        .args(["--host", &server.host(), "watch", "--kind", "pinned,status", "--kind=peer", CID])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for wanted in [
        format!("2026-11-20T23:19:21Z PINNED {CID} a name"),
        format!("2026-11-20T23:19:22Z STATUS {CID} PIN_ERROR | peerA: no way"),
        format!("2026-11-20T23:19:24Z PEER {PEER} EXPIRED | b"),
        "2026-11-20T23:19:25Z NEWS OF LATER VERSIONS -".to_owned(),
        "2026-11-20T23:19:26Z RESYNC - events may have been missed, list again: too slow".to_owned(),
    ] {
        assert_eq!(lines.next().unwrap().unwrap(), wanted);
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    drop(release);
    let find = format!("kind=pinned%2Cstatus%2Cpeer&cid={CID}&heartbeat=true");
    assert_eq!(
        server.request_lines(),
        [
            format!("GET /events?{find}"),
            format!("GET /events?after=00000000000000ab-3&{find}"),
            format!("GET /events?after=00000000000000ab-3&{find}"),
        ]
    );
}

#[test]
fn a_watch_that_cannot_begin_fails_and_json_is_shown_as_it_came() {
    let refused =
        ask(&Server::answering(vec![document(404, "{\"code\":404,\"message\":\"not found\"}")]), &["watch"]);
    assert_eq!((refused.exit_code, refused.stdout.contains("Code: 404")), (Some(2), true), "{refused:?}");
    let silence = run(ctl().args(["--host", &format!("/ip4/127.0.0.1/tcp/{}", closed_port()), "watch"]));
    assert_eq!(
        (silence.exit_code, silence.stdout.contains("connection refused")),
        (Some(1), true),
        "{silence:?}"
    );

    let answers = vec![
        listing(&[&event_line(1, "\"type\":\"novelty\",\"x\":[1]")], &[""]),
        document(401, "{\"code\":401,\"message\":\"unauthorized\"}"),
    ];
    let after = "00000000000000ab-0";
    let server = Server::answering(answers);
    let json = ask(&server, &["--enc", "json", "watch", "--after", after]);
    assert_eq!(json.exit_code, Some(2), "a watch that is refused ends: {json:?}");
    assert!(
        json.stdout.contains("\"type\": \"novelty\"") && json.stdout.contains("unauthorized"),
        "{json:?}"
    );
    let after_one = after.replace("-0", "-1");
    assert_eq!(
        server.request_lines(),
        [after, &after_one].map(|cursor| format!("GET /events?after={cursor}&heartbeat=true"))
    );
}
