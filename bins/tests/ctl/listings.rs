//! Listings: pages, lines as they arrive, what breaks off, what is long.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::Stdio;
use std::sync::mpsc;

use crate::server::{LISTING_HEAD, PATIENCE, Server, chunk, document, listing, listing_end};
use crate::{CID, PEER, ask, ctl, pin_line};

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
