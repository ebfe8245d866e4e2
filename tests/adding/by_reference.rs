//! Files that the daemon refers to where they lie.

use std::fs;
use std::path::Path;

use ipfs_cluster::adder::Entry;
use ipfs_cluster::adder::content::{Files, InMemory};
use ipfs_cluster::error::ErrorKind;
use ipfs_cluster::types::{AddFormat, AddLayout, AddOptions, Cid};

use super::*;

fn by_reference(copies: i32) -> AddOptions {
    let pin = PinOptions {
        replication_factor_min: copies,
        replication_factor_max: copies,
        ..PinOptions::default()
    };
    AddOptions { no_copy: true, cid_version: 1, pin, ..AddOptions::default() }
}

/// Some pieces that are no others.
fn bytes(first: usize, count: usize) -> Vec<u8> {
    let all = (first..).take(count / PIECE_BYTES + 1).flat_map(piece);
    all.take(count).collect()
}

/// Bytes that the daemon refers to, each checked where it lies.
fn referred(daemon: &Kubo) -> u64 {
    let listed = daemon.ipfs(&["filestore", "verify"]);
    let sizes = listed.lines().map(|line| {
        let mut words = line.split_ascii_whitespace();
        assert_eq!(words.next(), Some("ok"), "{line}");
        words.nth(1).unwrap().parse::<u64>().unwrap()
    });
    sizes.sum()
}

fn stored(daemon: &Kubo) -> u64 {
    let stat = daemon.ipfs(&["repo", "stat", "--size-only"]);
    let size = stat.lines().find_map(|line| line.strip_prefix("RepoSize:")).unwrap();
    size.trim().parse().unwrap()
}

fn write_tree(folder: &Path) -> u64 {
    let files = [
        ("large", bytes(1, 5_000_000)),
        ("small", b"a few bytes".to_vec()),
        ("empty", Vec::new()),
        ("sub/with space & ü", bytes(100, 300_000)),
    ];
    fs::create_dir_all(folder.join("sub/nothing in it")).unwrap();
    std::os::unix::fs::symlink("small", folder.join("link")).unwrap();
    for (name, bytes) in &files {
        fs::write(folder.join(name), bytes).unwrap();
    }
    files.iter().map(|(_, bytes)| bytes.len() as u64).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_daemon_beside_refers_to_files_and_others_get_copies() {
    let Some((cluster, daemons)) = peers(2, true).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let total = write_tree(&tree);
    let before = stored(&daemons[0]);

    // Garbage is collected all the time.
    let mut collector = daemons[0].command(&["repo", "gc", "--quiet"]);
    let adding = cluster.peer(0).add_all(Files::new([&tree]), by_reference(2));
    let mut adding = Box::pin(adding);
    let pins = loop {
        let (done, mut collecting) = tokio::select! {
            pins = &mut adding => break pins.unwrap(),
            () = tokio::time::sleep(Duration::from_millis(50)) => (false, collector.stdout(Stdio::null()).spawn().unwrap()),
        };
        assert!(!done);
        let collected = tokio::task::spawn_blocking(move || collecting.wait().unwrap().success());
        tokio::select! {
            pins = &mut adding => break pins.unwrap(),
            collected = collected => assert!(collected.unwrap()),
        }
    };
    let [pin] = &pins[..] else { panic!("{pins:?}") };
    let path = tree.to_str().unwrap();
    let expected = daemons[1].ipfs(&["add", "-Q", "-r", "--only-hash", "--cid-version=1", path]);
    assert_eq!(pin.cid.to_string(), expected.trim());
    assert_eq!(pin.allocations.len(), 2);

    let pinned = cluster.peer(0).wait(pin.cid).until(Until::PinnedBy(2));
    within(pinned.into_future()).await;
    let released = async |peers: &TestCluster| peers.peer(0).leases().is_empty();
    within(cluster.wait_until("what was held is released", released)).await;
    daemons[0].ipfs(&["repo", "gc", "--quiet"]);
    assert_eq!(referred(&daemons[0]), total);
    let grown = stored(&daemons[0]).saturating_sub(before);
    assert!(grown < total / 10, "{grown} bytes more for {total} that are referred to");
    assert!(stored(&daemons[1]) > total, "the other one has a copy");
    for daemon in &daemons {
        let cat = daemon.ipfs(&["cat", "--offline", &format!("{}/small", pin.cid)]);
        assert_eq!(cat, "a few bytes");
        daemon.ipfs(&["dag", "stat", "--offline", "--progress=false", &pin.cid.to_string()]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_referred_to_are_cut_and_named_in_every_way() {
    let Some((cluster, daemons)) = peers(1, true).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, bytes(200, 700_001)).unwrap();
    let mut roots = Vec::<Cid>::new();
    for (layout, chunker, cid_version, hash) in [
        (AddLayout::Balanced, "size-262144", 0, "sha2-256"),
        (AddLayout::Trickle, "size-1000", 1, "sha2-256"),
        (AddLayout::Balanced, "rabin", 1, "blake3"),
        (AddLayout::Trickle, "buzhash", 1, "shake-256"),
        (AddLayout::Balanced, "size-1048576", 1, "sha1"),
        (AddLayout::Balanced, "rabin-1000-2000-5000", 1, "blake2b-160"),
    ] {
        let (chunker, hash) = (chunker.to_owned(), hash.to_owned());
        let options = AddOptions { layout, chunker, cid_version, hash, ..by_reference(1) };
        let pins = cluster.peer(0).add_all(Files::new([&file]), options).await.unwrap();
        roots.push(pins[0].cid);
    }
    assert_eq!(referred(&daemons[0]), roots.len() as u64 * 700_001);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_referred_to_says_why_and_stores_nothing() {
    let Some((cluster, daemons)) = peers(1, true).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "nobody knows this").unwrap();
    let origin = |origin: &Path| Entry {
        path: "file".to_owned(),
        origin: Some(origin.to_str().unwrap().to_owned()),
        ..Entry::default()
    };
    let refused = async |content: InMemory, options: AddOptions| {
        let error = cluster.peer(0).add_all(content, options).await.unwrap_err();
        assert_eq!(cluster.peer(0).state().counts().pins, 0);
        error
    };
    let car = AddOptions { format: AddFormat::Car, ..by_reference(1) };
    let no_raw = AddOptions { raw_leaves: Some(false), ..by_reference(1) };
    let outside = Path::new("/nowhere/file");
    let missing = folder.path().join("missing");
    for (entry, options, kind, part) in [
        (
            Entry { path: "file".to_owned(), ..Entry::default() },
            by_reference(1),
            ErrorKind::InvalidInput,
            "missing file path",
        ),
        (origin(&secret), car, ErrorKind::InvalidInput, "nocopy is for files"),
        (origin(&secret), no_raw, ErrorKind::InvalidInput, "nocopy needs raw-leaves"),
        (origin(outside), by_reference(1), ErrorKind::InvalidInput, "refers only to files in"),
        (origin(Path::new("relative")), by_reference(1), ErrorKind::InvalidInput, "no absolute path"),
        (origin(&secret), by_reference(1), ErrorKind::InvalidInput, "is not, or no longer, what was added"),
        (origin(&missing), by_reference(1), ErrorKind::InvalidInput, "this peer has to see the files"),
    ] {
        let error = refused(InMemory::new().entry(entry, "something else!!!"), options).await;
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(part), "{error}");
    }
    assert_eq!(referred(&daemons[0]), 0);
    // And then it works.
    let honest = InMemory::new().entry(origin(&secret), "nobody knows this");
    cluster.peer(0).add_all(honest, by_reference(1)).await.unwrap();
    assert_eq!(referred(&daemons[0]), 17);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_keeps_copies_only_is_told_how_to_keep_references() {
    let Some((cluster, daemons)) = peers(1, false).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "some bytes").unwrap();
    let error = cluster.peer(0).add_all(Files::new([&file]), by_reference(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("Experimental.FilestoreEnabled true"), "{error}");
    // Configured, but not started again: the daemon itself says so.
    daemons[0].ipfs(&["config", "--json", "Experimental.FilestoreEnabled", "true"]);
    let error = cluster.peer(0).add_all(Files::new([&file]), by_reference(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(cluster.peer(0).state().counts().pins, 0);
    // What comes from an address is copied everywhere, as by the reference.
    let entry = Entry {
        path: "file".to_owned(),
        origin: Some("https://example.org/file".to_owned()),
        ..Entry::default()
    };
    let content = InMemory::new().entry(entry.clone(), "from far away");
    let pins = cluster.peer(0).add_all(content, by_reference(1)).await.unwrap();
    assert_eq!(daemons[0].ipfs(&["cat", "--offline", &pins[0].cid.to_string()]), "from far away");
    let near = Entry {
        path: "near".to_owned(),
        origin: Some(file.to_str().unwrap().to_owned()),
        ..Entry::default()
    };
    let mixed = InMemory::new().entry(entry, "from far away").entry(near, "some bytes");
    let error = cluster.peer(0).add_all(mixed, by_reference(1)).await.unwrap_err();
    assert!(error.message().contains("for files or for addresses"), "{error}");
}
