//! Uploads that are interrupted and go on: the program, killed, and a whole peer behind a proxy that counts.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ipfs_cluster::api::rest::{RestApi, RestConfig};
use ipfs_cluster::cluster::{Cluster, LeaseState, presets};
use ipfs_cluster::ipfs_connector::{MemoryIpfs, sample_file_with_chunks};
use ipfs_cluster::types::{Block, Cid, ResumeKey, car_header, car_section_head};
use tokio::runtime::Runtime;

use crate::server::PATIENCE;
use crate::{Ran, ctl, run};

const CHUNK_BYTES: usize = 256 * 1024;
const CHUNKS: usize = 160;

/// A peer in this process.
struct Peer {
    runtime: Runtime,
    cluster: Cluster,
    ipfs: MemoryIpfs,
    api: RestApi,
}

impl Peer {
    fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let ipfs = MemoryIpfs::new();
        let (cluster, api) = runtime.block_on(async {
            let cluster =
                Cluster::builder().preset(presets::InMemory).ipfs(ipfs.clone()).start().await.unwrap();
            cluster.ready().await.unwrap();
            let config = RestConfig::default().listen(["/ip4/127.0.0.1/tcp/0".parse().unwrap()]);
            let api = RestApi::bind(config, cluster.clone()).await.unwrap();
            (cluster, api)
        });
        Self { runtime, cluster, ipfs, api }
    }

    fn address(&self) -> SocketAddr {
        self.api.local_addresses()[0]
    }

    fn has(&self, blocks: &[Block]) -> usize {
        blocks.iter().filter(|block| self.ipfs.has_block(&block.cid)).count()
    }
}

/// Between the program and the peer: how many bytes went to the peer, and how many may.
struct Proxy {
    port: u16,
    sent: Arc<AtomicUsize>,
}

impl Proxy {
    fn start(to: SocketAddr, most: usize) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&sent);
        std::thread::spawn(move || {
            for from in listener.incoming() {
                let (from, to) = (from.unwrap(), TcpStream::connect(to).unwrap());
                let (back, mut forth) = (to.try_clone().unwrap(), from.try_clone().unwrap());
                std::thread::spawn(move || {
                    let mut back = back;
                    let _ = std::io::copy(&mut back, &mut forth);
                    let _ = forth.shutdown(Shutdown::Both);
                });
                let counted = Arc::clone(&counted);
                std::thread::spawn(move || forward(from, to, most, &counted));
            }
        });
        Self { port, sent }
    }

    fn host(&self) -> String {
        format!("/ip4/127.0.0.1/tcp/{}", self.port)
    }

    fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }
}

/// Hands on until there were enough bytes, and then only the end of the connection.
fn forward(mut from: TcpStream, mut to: TcpStream, most: usize, sent: &AtomicUsize) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let room = most.saturating_sub(sent.load(Ordering::SeqCst)).min(buffer.len());
        if room == 0 {
            // A program that was killed is noticed by what it does not send any more.
            while let Ok(1..) = from.read(&mut buffer) {
                std::thread::sleep(Duration::from_millis(10));
            }
            break;
        }
        match from.read(&mut buffer[..room]) {
            Ok(length @ 1..) if to.write_all(&buffer[..length]).is_ok() => {
                sent.fetch_add(length, Ordering::SeqCst);
            }
            _ => break,
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

fn until(what: &str, mut fact: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !fact() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn content(seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(CHUNKS * CHUNK_BYTES);
    while bytes.len() < CHUNKS * CHUNK_BYTES {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// A CAR as exports are, the root first.
fn write_car(path: &Path, seed: u32) -> (Cid, Vec<Block>, usize) {
    let (root, mut blocks) = sample_file_with_chunks(content(seed), CHUNK_BYTES);
    blocks.rotate_right(1);
    let mut car = car_header(&[root]);
    for block in &blocks {
        car.extend(car_section_head(&block.cid, block.data.len()));
        car.extend_from_slice(&block.data);
    }
    fs::write(path, &car).unwrap();
    (root, blocks, car.len())
}

fn add(proxy: &Proxy, car: &Path) -> Ran {
    run(ctl().args(["--host", &proxy.host(), "add", "--format", "car", "--resume"]).arg(car))
}

/// Begins an upload and kills the program when so many bytes are through.
fn add_and_kill(proxy: &Proxy, car: &Path, bytes: usize) {
    let mut child = ctl()
        .args(["--host", &proxy.host(), "add", "--format", "car", "--resume"])
        .arg(car)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    until("enough is through", || proxy.sent() >= bytes);
    // SIGKILL: it has no chance to do anything.
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_program_that_is_killed_goes_on_where_it_was_when_it_is_run_again() {
    let peer = Peer::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.car");
    let (root, blocks, length) = write_car(&path, 1);
    let cut = length / 2;
    let first = Proxy::start(peer.address(), cut);
    add_and_kill(&first, &path, cut);

    // At once: the peer may still be busy with the one before.
    let second = Proxy::start(peer.address(), usize::MAX);
    let ran = add(&second, &path);
    assert_eq!((ran.stdout, ran.exit_code), (format!("added {root} x.car\n"), Some(0)), "{}", ran.stderr);
    assert!(ran.stderr.starts_with("Going on behind ") && ran.stderr.contains(&format!("of {length} bytes")));
    let offset: usize = ran.stderr.split(' ').nth(3).unwrap().parse().unwrap();
    // But for the block that was on its way, and heads.
    assert!(offset <= cut && offset + 3 * CHUNK_BYTES > cut, "{offset} of {cut}");
    let sent = second.sent();
    assert!((length - offset..length - offset + CHUNK_BYTES).contains(&sent), "{sent} of {length} bytes");
    assert_eq!(peer.has(&blocks), blocks.len());
    peer.runtime.block_on(async {
        peer.cluster.wait(root).await.unwrap();
    });
    until("all leases are released", || peer.cluster.leases().is_empty());
}

#[test]
fn a_file_that_changed_in_between_begins_anew_and_is_added_as_it_is() {
    let peer = Peer::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.car");
    let (root, mut blocks, length) = write_car(&path, 2);
    let first = Proxy::start(peer.address(), length / 2);
    add_and_kill(&first, &path, length / 2);

    // The same header, the same length, the same blocks, in another order.
    blocks[1..].reverse();
    let mut car = car_header(&[root]);
    for block in &blocks {
        car.extend(car_section_head(&block.cid, block.data.len()));
        car.extend_from_slice(&block.data);
    }
    assert_eq!(car.len(), length);
    fs::write(&path, car).unwrap();
    let second = Proxy::start(peer.address(), usize::MAX);
    let ran = add(&second, &path);
    assert_eq!(ran.stderr, "Beginning anew: the file has changed since its upload broke off.\n");
    assert_eq!((ran.stdout, ran.exit_code), (format!("added {root} x.car\n"), Some(0)));
    assert!(second.sent() > length);
    assert_eq!(peer.has(&blocks), blocks.len());
}

#[test]
fn a_failure_says_that_the_upload_can_go_on_and_leases_are_listed_and_released() {
    let peer = Peer::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.car");
    let (root, blocks, length) = write_car(&path, 3);
    let whole = fs::read(&path).unwrap();
    // Wrong near its end.
    let mut broken = whole.clone();
    broken[length - CHUNK_BYTES / 2] ^= 1;
    fs::write(&path, broken).unwrap();
    let proxy = Proxy::start(peer.address(), usize::MAX);
    let ran = add(&proxy, &path);
    assert!(ran.stdout.contains("Code: 500") && ran.stdout.contains("are not the block"), "{}", ran.stdout);
    assert_eq!(
        (ran.stderr.as_str(), ran.exit_code),
        ("The same command sends what did not arrive.\n", Some(2))
    );
    assert!(peer.cluster.leases().iter().all(|lease| matches!(lease.state, LeaseState::Waiting { .. })));

    let host = format!("/ip4/127.0.0.1/tcp/{}", peer.address().port());
    let leases = |args: &[&str]| run(ctl().args(["--host", &host]).args(args));
    let listed = leases(&["leases", "ls"]);
    let lines: Vec<&str> = listed.stdout.lines().collect();
    assert_eq!(lines.len(), peer.cluster.leases().len());
    assert!(lines.iter().all(|line| line.contains(" | WAITING | ") && line.contains(&root.to_string())));
    let json = leases(&["--enc=json", "leases", "ls"]).stdout;
    assert!(json.contains("\"state\": \"waiting\"") && json.contains("\"roots\": ["), "{json}");

    // Mended, it goes on with the last blocks alone.
    fs::write(&path, whole).unwrap();
    let proxy = Proxy::start(peer.address(), usize::MAX);
    let ran = add(&proxy, &path);
    assert_eq!((ran.stdout, ran.exit_code), (format!("added {root} x.car\n"), Some(0)), "{}", ran.stderr);
    assert!(proxy.sent() < 3 * CHUNK_BYTES, "{}", proxy.sent());
    assert_eq!(peer.has(&blocks), blocks.len());
    until("all leases are released", || peer.cluster.leases().is_empty());

    let none = leases(&["leases", "ls"]);
    assert_eq!((none.stdout.as_str(), none.exit_code), ("", Some(0)));
    let unknown = leases(&["leases", "rm", &root.to_string()]);
    assert!(
        unknown.stdout.contains("Code: 404") && unknown.stdout.contains("there is no lease"),
        "{unknown:?}"
    );
    let nothing = leases(&["leases", "rm"]);
    assert_eq!(nothing.stderr, "error : need the CID of at least one lease\n");
    let key: ResumeKey = "unknown".parse().unwrap();
    assert!(peer.cluster.interrupted_add(&key).unwrap().is_none());
}
