//! Uploads: what is sent, what is waited for, and how they end.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::process::Stdio;
use std::sync::mpsc;

use crate::server::{LISTING_HEAD, Script, Server, bytes, chunk, document, listing, listing_end, read_body};
use crate::{CID, Ran, ask, ctl, pin_line, run, status_of};

fn line(name: &str) -> String {
    format!("{{\"name\":\"{name}\",\"cid\":\"{CID}\",\"size\":3}}")
}

/// Takes an upload, tells what it was, and answers.
fn taking(tell: &mpsc::Sender<String>, answer: Vec<u8>) -> Script {
    let tell = tell.clone();
    Box::new(move |connection| {
        let body = read_body(connection);
        tell.send(String::from_utf8_lossy(&body).into_owned()).unwrap();
        let _ = connection.write_all(&answer);
    })
}

/// Answers at once, and closes without having read the upload.
fn refusing(answer: Vec<u8>) -> Script {
    Box::new(move |connection| {
        connection.write_all(&answer).unwrap();
        let _ = connection.shutdown(Shutdown::Write);
        let _ = std::io::copy(connection, &mut std::io::sink());
    })
}

#[test]
fn files_folders_and_standard_input_are_sent_under_their_names() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("dir")).unwrap();
    for name in ["a b", "dir/.hidden", "dir/shown"] {
        fs::write(folder.path().join(name), name).unwrap();
    }
    fs::write(folder.path().join("in"), "piped").unwrap();
    let (tell, told) = mpsc::channel();
    let answer = || taking(&tell, listing(&[&line("x")], &[""]));
    let server = Server::running(vec![answer(), answer(), answer()]);
    let names = |args: &[&str]| -> Vec<String> {
        let input = File::open(folder.path().join("in")).unwrap();
        let ran =
            run(ctl().current_dir(folder.path()).stdin(input).args(["--host", &server.host()]).args(args));
        assert_eq!(
            (ran.stdout, ran.stderr, ran.exit_code),
            (format!("added {CID} x\n"), String::new(), Some(0))
        );
        let body = told.recv().unwrap();
        let parts = body.split("; filename=\"").skip(1);
        parts.map(|part| part.split("\r\n--").next().unwrap().split_whitespace().collect()).collect()
    };
    let file = |name: &str, text: &str| format!("{name}\"Content-Type:application/octet-stream{text}");
    assert_eq!(
        names(&["add", "-r", "./dir/", "a b"]),
        [
            "dir\"Content-Type:application/x-directory".to_owned(),
            file("dir%2Fshown", "dir/shown"),
            file("a+b", "ab")
        ]
    );
    assert!(names(&["add", "-r", "-H", "dir"]).contains(&file("dir%2F.hidden", "dir/.hidden")));
    assert_eq!(names(&["add", "-"]), [file("stdin", "piped")]);
    let wraps: Vec<_> =
        server.request_lines().iter().map(|line| line.contains("wrap-with-directory=true")).collect();
    assert_eq!(wraps, [true, false, false]);
}

fn adding(server: &Server, args: &[&str]) -> Ran {
    let mut command = ctl();
    // Without an end: only the server can end it.
    command.stdin(File::open("/dev/zero").unwrap());
    run(command.args(["--host", &server.host()]).args(args))
}

#[cfg(unix)]
#[test]
fn a_refusal_ends_an_upload_that_has_no_end() {
    let refusal = document(401, "{\"code\":401,\"message\":\"who are you\"}");
    let failed = listing(&[&line("one")], &["no space left"]);
    let server = Server::running(vec![refusing(refusal), refusing(failed.clone()), refusing(failed)]);
    let ran = adding(&server, &["add", "-"]);
    assert_eq!(ran.stdout, "An error occurred:\n  Code: 401\n  Message: who are you\n");
    assert_eq!((ran.stderr.as_str(), ran.exit_code), ("", Some(2)));
    let block = "An error occurred:\n  Code: 500\n  Message: no space left\n";
    let ran = adding(&server, &["add", "-", "--wait"]);
    assert_eq!((ran.stdout, ran.exit_code), (format!("added {CID} one\n{block}"), Some(2)));
    // A script that takes this output for the CID of the whole shall find none.
    let ran = adding(&server, &["add", "-Q", "-"]);
    assert_eq!((ran.stdout, ran.exit_code), (block.to_owned(), Some(2)));
    assert_eq!(server.requests().len(), 3, "an upload that failed is not waited for");
}

#[cfg(unix)]
#[test]
fn a_server_that_hangs_up_is_an_error_block_with_code_0() {
    let hang_up = || -> Script {
        Box::new(|connection| {
            let _ = connection.read_exact(&mut vec![0; 1_000_000]);
        })
    };
    let server = Server::running(vec![hang_up()]);
    let ran = adding(&server, &["add", "-"]);
    assert!(
        ran.stdout.starts_with("An error occurred:\n  Code: 0\n  Message: Post \"http://127.0.0.1:"),
        "{ran:?}"
    );
    assert_eq!((ran.stderr.as_str(), ran.exit_code), ("", Some(1)));
}

#[test]
fn waiting_begins_when_everything_is_there() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("f"), "f").unwrap();
    let (tell, _told) = mpsc::channel();
    let server = Server::running(vec![
        taking(&tell, listing(&[&line("f"), &line("")], &[""])),
        bytes(document(200, &pin_line("").replace('{', "{\"replication_factor_min\":1,"))),
        bytes(document(200, &status_of("pinning"))),
        bytes(document(200, &status_of("pinned"))),
    ]);
    let args = ["add", "-w", "--wait", "--wait-timeout", "30s"];
    let ran = run(ctl().current_dir(folder.path()).args(["--host", &server.host()]).args(args).arg("f"));
    assert_eq!(
        (ran.stdout, ran.exit_code),
        (format!("added {CID} f\nadded {CID} \n"), Some(0)),
        "{}",
        ran.stderr
    );
    let asked = server.request_lines();
    assert_eq!(
        asked[1..],
        [
            format!("GET /allocations/{CID}"),
            format!("GET /pins/{CID}?local=false"),
            format!("GET /pins/{CID}?local=false")
        ]
    );

    let server = Server::running(vec![
        taking(&tell, listing(&[&line("f")], &[""])),
        bytes(document(404, "{\"code\":404,\"message\":\"not found\"}")),
        bytes(document(200, &status_of("pin_error"))),
    ]);
    let ran = run(ctl().current_dir(folder.path()).args(["--host", &server.host(), "add", "--wait", "f"]));
    assert_eq!(
        ran.stderr,
        "error waiting for pin status: error has occurred while attempting to reach status: pinned\n"
    );
    assert_eq!((ran.stdout, ran.exit_code), (format!("added {CID} f\n"), Some(1)));
}

#[test]
fn an_empty_answer_is_nothing_to_print_and_nothing_to_wait_for() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("f"), "f").unwrap();
    let progress = "{\"name\":\"\",\"cid\":null,\"bytes\":1}";
    for args in [&["add", "--wait"][..], &["--enc=json", "add", "--no-stream"], &["--enc=json", "add", "-Q"]]
    {
        let (tell, _told) = mpsc::channel();
        let server = Server::running(vec![taking(&tell, listing(&[progress], &[""]))]);
        let ran = run(ctl().current_dir(folder.path()).args(["--host", &server.host()]).args(args).arg("f"));
        assert_eq!((ran.stdout.as_str(), ran.exit_code), ("", Some(0)), "{args:?} {}", ran.stderr);
    }
}

#[cfg(unix)]
#[test]
fn a_reader_that_has_enough_does_not_end_the_upload() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    File::create(&file).unwrap().set_len(32 << 20).unwrap();
    let (tell, told) = mpsc::channel();
    let server = Server::running(vec![Box::new(move |connection| {
        connection.write_all(LISTING_HEAD.as_bytes()).unwrap();
        for _ in 0..1000 {
            connection.write_all(&chunk(&line(&"x".repeat(100)))).unwrap();
        }
        tell.send(read_body(connection).len()).unwrap();
        connection.write_all(&listing_end(&[""])).unwrap();
    })]);
    let mut child =
        ctl().args(["--host", &server.host(), "add"]).arg(&file).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(told.recv().unwrap() > 32 << 20);
}

#[cfg(target_os = "linux")]
#[test]
fn a_large_upload_takes_little_memory() {
    const RESIDENT_MAX_KIB: u64 = 48 * 1024;
    const LENGTH: u64 = 512 << 20;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    File::create(&file).unwrap().set_len(LENGTH).unwrap();
    let (tell, told) = mpsc::channel();
    let (go_on, wait) = mpsc::channel();
    let server = Server::running(vec![Box::new(move |connection| {
        let mut left = LENGTH;
        let mut buffer = vec![0; 1 << 20];
        while left > 0 {
            let read = connection.read(&mut buffer).unwrap() as u64;
            left = left.saturating_sub(read);
        }
        tell.send(()).unwrap();
        wait.recv().unwrap();
        connection.write_all(&listing(&[&line("file")], &[""])).unwrap();
        let _ = connection.shutdown(Shutdown::Write);
        let _ = std::io::copy(connection, &mut std::io::sink());
    })]);
    let child =
        ctl().args(["--host", &server.host(), "add"]).arg(&file).stdout(Stdio::piped()).spawn().unwrap();
    told.recv().unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    go_on.send(()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("added {CID} file\n"));
    assert!(peak < RESIDENT_MAX_KIB, "{peak} KiB");
}

#[test]
fn what_cannot_be_read_is_a_local_error_before_anybody_is_asked() {
    let server = Server::running(Vec::new());
    for (args, error) in [
        (&["add", "missing"][..], "error : lstat missing: no such file or directory\n"),
        (&["add", "x/f", "f"], "error : lstat x/f: no such file or directory\n"),
        (
            &["add", "/dev/null"],
            "error : unrecognized file type for /dev/null: it is no file, folder or symbolic link\n",
        ),
        (
            &["add", "-", "-"],
            "error : two paths are both called stdin: only one of them would be there; add them one by one\n",
        ),
        (&["add", "--nocopy", "-"], "error : nocopy option is only valid for files and URLs\n"),
    ] {
        let ran = ask(&server, args);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str(), ran.exit_code), ("", error, Some(1)));
    }
}
