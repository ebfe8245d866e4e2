//! Watching what happens.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use crate::server::{LISTING_HEAD, PATIENCE, Server, chunk, closed_port, document, listing};
use crate::{CID, PEER, ask, ctl, pin_line, run};

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
