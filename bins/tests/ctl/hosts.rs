//! Whom it asks: hosts of every kind, and those that do not answer, or not well.

use std::sync::mpsc;

#[cfg(feature = "ctl-libp2p")]
use crate::PEER;
use crate::server::{PATIENCE, Server, closed_port, document};
use crate::{ask, ctl, run};

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
