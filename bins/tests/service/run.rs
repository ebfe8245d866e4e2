//! The daemon as a service manager and a terminal meet it.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc::{Receiver, channel};

use ipfs_cluster::ipfs_connector::MemoryIpfs;

use super::process::Running;
use super::wait::PATIENCE;
use super::*;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ipfs-cluster-service");
/// An IPFS daemon, without which no peer is ready.
pub(crate) type Ipfs = crate::ipfs::Ipfs<MemoryIpfs>;

/// A peer that runs, alone and on loopback.
pub(crate) fn start(home: &Home, ipfs: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Running {
    start_by(Command::new(PROGRAM), home, ipfs, arguments, variables)
}

fn start_by(
    mut program: Command,
    home: &Home,
    ipfs: &str,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> Running {
    program
        .arg("-c")
        .arg(&home.config)
        .arg("daemon")
        .args(arguments)
        .env_clear()
        .env("HOME", &home.home)
        .env("CLUSTER_LISTENMULTIADDRESS", "/ip4/127.0.0.1/tcp/0")
        .env("CLUSTER_RESTAPI_HTTPLISTENMULTIADDRESS", "/ip4/127.0.0.1/tcp/0")
        .env("CLUSTER_IPFSHTTP_NODEMULTIADDRESS", ipfs)
        .env("CLUSTER_MDNSINTERVAL", "0s")
        .envs(variables.iter().copied())
        .stdin(Stdio::null());
    Running::start(&mut program)
}

#[test]
fn each_signal_that_ends_a_peer_ends_it_cleanly() {
    let ipfs = Ipfs::start();
    for signal in ["INT", "TERM", "HUP"] {
        let home = Home::initialized();
        let mut peer = start(&home, &ipfs.address, &[], &[]);
        let ready = peer.wait_for("** IPFS Cluster is READY **");
        assert!(ready.contains("\tINFO\tcluster\tcluster/"), "{ready}");
        assert!(
            peer.seen[0].ends_with("Initializing. For verbose output run with \"-l debug\". Please wait...")
        );
        assert!(home.path(LOCK_FILE).exists());
        peer.signal(signal);
        peer.wait_for("shutting down");
        assert_eq!(peer.exit_code(), 0, "{signal}");
        assert!(!home.path(LOCK_FILE).exists());
    }
}

#[test]
fn a_service_manager_hears_of_readiness_life_and_the_end() {
    let home = Home::initialized();
    let path = home.home.join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let hear = || {
        let mut message = [0; 256];
        let length = manager.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).trim().to_owned()
    };
    let socket = path.display().to_string();
    let ipfs = Ipfs::start();
    let mut peer =
        start(&home, &ipfs.address, &[], &[("NOTIFY_SOCKET", &socket), ("WATCHDOG_USEC", "400000")]);
    assert_eq!(hear(), "READY=1");
    assert_eq!((hear(), hear()), ("WATCHDOG=1".to_owned(), "WATCHDOG=1".to_owned()));
    peer.signal("TERM");
    while hear() != "STOPPING=1" {}
    assert_eq!(peer.exit_code(), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn the_limit_of_open_files_is_raised_to_what_the_system_grants() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let home = Home::initialized();
    let ipfs = Ipfs::start();
    // What it inherits is a little less.
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let less = maximum.or(current).map(|files| files - 1);
    setrlimit(Resource::Nofile, Rlimit { current: less, maximum }).unwrap();
    let mut peer = start(&home, &ipfs.address, &[], &[]);
    peer.wait_for("** IPFS Cluster is READY **");
    let limits = fs::read_to_string(format!("/proc/{}/limits", peer.child.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let [.., soft, hard, "files"] = line.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{line}") };
    assert_eq!(soft, hard);
    assert_eq!(peer.stop(), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn where_files_are_short_idle_callers_make_way_and_the_log_says_so_once() {
    const FILES: &str = "ulimit -n 96; exec \"$0\" \"$@\"";
    const CALLERS: usize = 200;
    let home = Home::initialized();
    let ipfs = Ipfs::start();
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", FILES, PROGRAM]);
    let mut peer = start_by(shell, &home, &ipfs.address, &[], &[]);
    let port = peer.api_port();
    peer.wait_for("** IPFS Cluster is READY **");
    let ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).map(|()| assert_eq!(&status, b"HTTP/1.1 204")).unwrap();
        stream
    };
    // Each keeps its connection for as long as it may.
    let callers: Vec<_> = (0..CALLERS).map(|_| ask()).collect();
    drop((callers, ask()));
    peer.signal("TERM");
    peer.wait_for("shutting down");
    assert_eq!((peer.exit_code(), peer.said("cannot accept connections")), (0, 1));
}

/// Its address, and the first bytes of each connection.
fn silent_daemon() -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", listener.local_addr().unwrap().port());
    let (sender, asked) = channel();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept() {
            let mut head = [0; 256];
            let length = stream.read(&mut head).unwrap_or(0);
            held.push(stream);
            let _ = sender.send(String::from_utf8_lossy(&head[..length]).into_owned());
        }
    });
    (address, asked)
}

#[test]
fn the_second_signal_is_told_to_wait_and_the_third_ends_the_process() {
    let home = Home::initialized();
    // An IPFS daemon that takes calls and never answers, and a caller that waits for it: that delays the end.
    let (address, asked) = silent_daemon();
    let mut peer = start(&home, &address, &[], &[]);
    let mut caller = TcpStream::connect(("127.0.0.1", peer.api_port())).unwrap();
    caller.write_all(b"POST /ipfs/gc?local=true HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    while !asked.recv_timeout(PATIENCE).unwrap().contains("/repo/gc") {}
    peer.signal("INT");
    peer.wait_for("shutting down");
    peer.signal("INT");
    peer.wait_for("Shutdown is taking too long! Press Ctrl-c again to manually kill cluster.");
    peer.wait_for("Note that this may corrupt the local cluster state.");
    peer.signal("INT");
    peer.wait_for("exiting cluster NOW");
    assert_eq!(peer.exit_code(), 1);
}

#[test]
fn flags_that_do_nothing_here_are_accepted_and_said_once() {
    let home = Home::initialized();
    let ipfs = Ipfs::start();
    let mut peer = start(&home, &ipfs.address, &["-u", "--stats", "--tracing", "--no-trust", "-x"], &[]);
    peer.wait_for("** IPFS Cluster is READY **");
    for flag in ["--stats", "--tracing"] {
        let said = peer.seen.iter().filter(|line| line.contains("\tWARN\t") && line.contains(flag)).count();
        assert_eq!(said, 1, "{:#?}", peer.seen);
    }
    assert_eq!(peer.stop(), 0);
}
