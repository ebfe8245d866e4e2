//! What a person sees on the terminal while something takes long.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::server::{LISTING_HEAD, Server, chunk, document, listing_end, read_body};
use crate::{CID, ctl, pin_line, status_of};

/// How long a server takes for what takes long: longer than work that shows nothing.
const LONG: Duration = Duration::from_secs(2);

/// A terminal: what is read from the first is what the programs wrote to the second.
fn terminal() -> (File, File) {
    let screen: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&screen).unwrap();
    unlockpt(&screen).unwrap();
    let name = ptsname(&screen, Vec::new()).unwrap().into_string().unwrap();
    let program = File::options().read(true).write(true).open(name).unwrap();
    (File::from(screen), program)
}

/// What a program writes to its terminal as standard error, and what to standard output.
fn watched(command: &mut Command) -> (String, String, Option<i32>) {
    let (mut screen, program) = terminal();
    let mut child = command
        .env("TERM", "xterm")
        .stderr(program.try_clone().unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Both hold the program's side open, and the end of it is what ends reading.
    command.stderr(Stdio::null());
    drop(program);
    let mut stdout = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut printed = String::new();
        stdout.read_to_string(&mut printed).unwrap();
        printed
    });
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    // A terminal that nobody writes to any more is an error here.
    while let Ok(length @ 1..) = screen.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..length]);
    }
    let code = child.wait().unwrap().code();
    (String::from_utf8(seen).unwrap(), reader.join().unwrap(), code)
}

#[test]
fn a_wait_shows_how_many_peers_are_done_and_takes_it_away() {
    let answers = [pin_line(""), status_of("pinning"), status_of("pinned")];
    let answers: Vec<_> = answers.iter().map(|body| document(200, body)).collect();
    let server = Server::answering(answers.clone());
    let args = ["--host", &server.host(), "pin", "add", "--wait", CID];
    let (seen, printed, code) = watched(ctl().args(args));
    assert!(seen.contains("pinned on 0 of 1 peers, "), "{seen:?}");
    assert!(seen.ends_with("\u{1b}[2K") || seen.ends_with('\r'), "{seen:?}");
    assert!(printed.starts_with(CID) && printed.contains("PINNED"), "{printed}");
    assert_eq!(code, Some(0));

    // The log and the progress would overwrite each other, so --debug has the one only.
    let server = Server::answering(answers);
    let (seen, _, _) = watched(ctl().arg("--debug").args(["--host", &server.host()]).args(&args[2..]));
    assert!(seen.contains("answered") && !seen.contains("of 1 peers"), "{seen:?}");
}

#[test]
fn an_error_after_progress_stands_alone() {
    let answers = [pin_line(""), status_of("pinning"), status_of("pin_error")];
    let server = Server::answering(answers.iter().map(|body| document(200, body)).collect());
    let (seen, _, code) = watched(ctl().args(["--host", &server.host(), "pin", "add", "--wait", CID]));
    let error =
        "error waiting for pin status: error has occurred while attempting to reach status: pinned\r\n";
    assert!(seen.contains("pinned on 0 of 1 peers") && seen.ends_with(error), "{seen:?}");
    let before = seen.trim_end_matches(error);
    assert!(before.ends_with("\u{1b}[2K") || before.ends_with('\r'), "{seen:?}");
    assert_eq!(code, Some(1));
}

#[test]
fn a_long_listing_into_a_file_counts_its_items_and_the_file_has_only_them() {
    let server = Server::running(vec![Box::new(|connection| {
        connection.write_all(LISTING_HEAD.as_bytes()).unwrap();
        for _ in 0..100 {
            connection.write_all(&chunk(&pin_line("x"))).unwrap();
            std::thread::sleep(LONG / 100);
        }
        connection.write_all(&listing_end(&[""])).unwrap();
    })]);
    let (seen, printed, code) = watched(ctl().args(["--host", &server.host(), "pin", "ls"]));
    assert!(seen.contains(" items, ") && seen.contains(" a second, "), "{seen:?}");
    assert_eq!(printed.lines().filter(|line| line.starts_with(CID)).count(), 100);
    assert_eq!((printed.lines().count(), code), (100, Some(0)));
}

#[test]
fn an_upload_shows_how_much_is_on_its_way_and_then_that_the_cluster_works() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    File::create(&file).unwrap().set_len(64 << 20).unwrap();
    let server = Server::running(vec![Box::new(|connection| {
        std::thread::sleep(LONG);
        read_body(connection);
        std::thread::sleep(LONG);
        connection.write_all(LISTING_HEAD.as_bytes()).unwrap();
        connection.write_all(&chunk(&format!("{{\"name\":\"file\",\"cid\":\"{CID}\",\"size\":1}}"))).unwrap();
        connection.write_all(&listing_end(&[""])).unwrap();
    })]);
    let (seen, printed, code) = watched(ctl().args(["--host", &server.host(), "add"]).arg(&file));
    assert!(seen.contains(" of 64.00 MiB, ") && seen.contains(" left"), "{seen:?}");
    assert!(seen.contains("64.00 MiB sent, waiting for the cluster, "), "{seen:?}");
    assert!(seen.ends_with("\u{1b}[2K") || seen.ends_with('\r'), "{seen:?}");
    assert_eq!((printed, code), (format!("added {CID} file\n"), Some(0)));
}

#[test]
fn an_upload_that_goes_on_shows_where_it_is_and_how_fast_it_is_now() {
    use ipfs_cluster::types::{Block, CarDigest, car_header, car_section_head};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.car");
    let block = |number: u8| Block::raw(vec![number; 1 << 20]);
    let root = block(0).cid;
    let mut car = car_header(&[root]);
    let mut digest = CarDigest::of_header(&[root], car.len() as u64);
    let mut offset = 0;
    for number in 0..64 {
        let block = block(number);
        car.extend(car_section_head(&block.cid, block.data.len()));
        car.extend_from_slice(&block.data);
        if number < 32 {
            offset = car.len();
            digest = digest.then(&block.cid, offset as u64);
        }
    }
    std::fs::write(&path, car).unwrap();
    let known = format!(
        "{{\"key\":\"k\",\"root\":\"{root}\",\"offset\":{offset},\"blocks\":32,\"bytes\":7,\"digest\":\"{digest}\",\
         \"since\":\"2026-11-20T23:19:20Z\",\"expires\":\"2026-11-20T23:19:20Z\",\"allocations\":[]}}"
    );
    let server = Server::running(vec![
        Box::new(move |connection| connection.write_all(&document(200, &known)).unwrap()),
        Box::new(|connection| {
            std::thread::sleep(LONG);
            read_body(connection);
            connection.write_all(LISTING_HEAD.as_bytes()).unwrap();
            connection
                .write_all(&chunk(&format!("{{\"name\":\"x.car\",\"cid\":\"{CID}\",\"size\":1}}")))
                .unwrap();
            connection.write_all(&listing_end(&[""])).unwrap();
        }),
    ]);
    let args = ["--host", &server.host(), "add", "--format", "car", "--resume"];
    let (seen, printed, code) = watched(ctl().args(args).arg(&path));
    assert!(seen.contains(&format!("Going on behind {offset} of ")), "{seen:?}");
    // Whatever the buffers take, it is little.
    let shown: Vec<&str> = seen.split(" MiB of 64.00 MiB, ").collect();
    assert!(shown.len() > 1 && seen.contains(" left"), "{seen:?}");
    for before in &shown[..shown.len() - 1] {
        let mebibytes: f64 = before.rsplit(' ').next().unwrap().parse().unwrap();
        assert!((32.0..64.0).contains(&mebibytes), "{seen:?}");
    }
    // Nothing of the first half counts as sent just now.
    let rate: f64 = shown[1].split(' ').next().unwrap().parse().unwrap();
    assert!(rate < 16.0, "{seen:?}");
    assert_eq!((printed, code), (format!("added {CID} x.car\n"), Some(0)));
}

#[test]
fn garbage_collection_shows_that_it_goes_on() {
    let server = Server::running(vec![Box::new(|connection| {
        std::thread::sleep(LONG);
        let _ = connection.write_all(&document(200, "{\"peer_map\":{}}"));
    })]);
    let (shown, printed, code) = watched(ctl().args(["--host", &server.host(), "ipfs", "gc"]));
    assert!(shown.contains("collecting garbage, "), "{shown:?}");
    assert_eq!((printed.as_str(), code), ("", Some(0)));
}
