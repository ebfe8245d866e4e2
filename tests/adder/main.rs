//! Content becomes the same blocks as with `ipfs add`: every line of a real Kubo is compared with ours.
//!
//! Needs Kubo in `IPFS_CLUSTER_TEST_KUBO`, which `cargo xtask test` sets; without it each test says that it was skipped.
//! No daemon runs: Kubo only hashes.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test has nothing better to do with a failure than to panic.

mod inputs;
mod kubo;
mod ours;

use ipfs_cluster::types::{AddLayout, AddOptions};

use inputs::{Noise, write};
use kubo::Kubo;
use ours::{Case, compare};

/// The repository of a Kubo, or the end of the test.
macro_rules! kubo {
    () => {
        match Kubo::find() {
            Some(kubo) => kubo,
            None => return,
        }
    };
}

fn case(options: AddOptions) -> Case {
    Case { options, ..Case::default() }
}

const LAYOUTS: [AddLayout; 2] = [AddLayout::Balanced, AddLayout::Trickle];
/// CID version, and raw leaves.
const FORMS: [(i64, Option<bool>); 4] = [(0, None), (0, Some(true)), (1, None), (1, Some(false))];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_every_size_get_kubos_cids_however_they_are_cut() {
    let kubo = kubo!();
    let folder = tempfile::tempdir().unwrap();
    // Around a chunk, a full node, and some that end anywhere.
    let mut noise = Noise::new(1);
    let inputs = folder.path().join("inputs");
    for bytes in [
        0,
        1,
        15,
        16,
        17,
        31,
        33,
        999,
        1023,
        1024,
        1025,
        174 * 1024,
        174 * 1024 + 1,
        262_143,
        262_144,
        262_145,
    ] {
        write(&inputs, &format!("{bytes}"), &noise.bytes(bytes));
    }
    write(&inputs, "350k", &noise.bytes(350 * 1024));
    write(&inputs, "1m", &noise.bytes(1_300_000));
    write(&inputs, "zeroes", &vec![0; 1_100_000]);
    write(&inputs, "repeating", &noise.bytes(1000).repeat(700));
    let mut combinations = 0;
    for chunker in [
        "size-1024",
        "size-262144",
        "size-1000000",
        "size-1048576",
        "rabin",
        "rabin-1000",
        "rabin-65536",
        "rabin-200-500-1000",
        "rabin-16-17-100",
        "rabin-min:4096-avg:8192-max:16384",
        "buzhash",
    ] {
        for layout in LAYOUTS {
            for (cid_version, raw_leaves) in FORMS {
                let options = AddOptions {
                    chunker: chunker.into(),
                    layout,
                    cid_version,
                    raw_leaves,
                    ..AddOptions::default()
                };
                combinations += compare(&kubo, &case(options), &[&inputs]).await;
            }
        }
    }
    println!("{combinations} combinations of options and inputs are equal to Kubo's");
    assert!(combinations >= 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deep_files_get_kubos_cids() {
    let kubo = kubo!();
    let folder = tempfile::tempdir().unwrap();
    let inputs = folder.path().join("deep");
    let mut noise = Noise::new(2);
    // Chunks of 4 bytes: full trees of two levels, and what comes after them. Trickle's steps are elsewhere.
    let full = 174 * 174;
    for chunks in
        [173, 174, 175, 2 * 174, 2 * 174 + 1, 5 * 174, 5 * 174 + 1, 9 * 174 + 3, full, full + 1, full + 175]
    {
        write(&inputs, &format!("{chunks}-full"), &noise.bytes(chunks * 4));
        write(&inputs, &format!("{chunks}-less"), &noise.bytes(chunks * 4 - 1));
    }
    let mut combinations = 0;
    for layout in LAYOUTS {
        for (cid_version, raw_leaves) in FORMS {
            let options = AddOptions {
                chunker: "size-4".into(),
                layout,
                cid_version,
                raw_leaves,
                ..AddOptions::default()
            };
            combinations += compare(&kubo, &case(options), &[&inputs]).await;
        }
    }
    println!("{combinations} combinations of options and deep inputs are equal to Kubo's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_hash_function_gives_kubos_cids() {
    let kubo = kubo!();
    let folder = tempfile::tempdir().unwrap();
    let inputs = folder.path().join("inputs");
    let mut noise = Noise::new(3);
    for bytes in [0, 1, 64, 5000, 300_000] {
        write(&inputs, &format!("sub/{bytes}"), &noise.bytes(bytes));
    }
    let mut combinations = 0;
    for hash in [
        "sha1",
        "sha2-256",
        "sha2-512",
        "dbl-sha2-256",
        "shake-256",
        "sha3",
        "sha3-224",
        "sha3-256",
        "sha3-384",
        "sha3-512",
        "keccak-256",
        "keccak-512",
        "blake2b-160",
        "blake2b-200",
        "blake2b-256",
        "blake2b-384",
        "blake2b-512",
        "blake2s-256",
        "blake3",
        "BLAKE3",
    ] {
        for layout in LAYOUTS {
            for raw_leaves in [None, Some(false)] {
                let hash = hash.to_owned();
                let options =
                    AddOptions { hash, layout, raw_leaves, cid_version: 1, ..AddOptions::default() };
                combinations += compare(&kubo, &case(options), &[&inputs]).await;
            }
        }
    }
    // Such a block is its own CID, so it has to be small.
    let small = folder.path().join("small");
    for (name, bytes) in [("empty", 0), ("one", 1), ("dir/some", 20)] {
        write(&small, name, &noise.bytes(bytes));
    }
    for raw_leaves in [None, Some(false)] {
        let hash = "identity".to_owned();
        let options = AddOptions { hash, raw_leaves, cid_version: 1, ..AddOptions::default() };
        for name in ["empty", "one", "dir"] {
            combinations += compare(&kubo, &case(options.clone()), &[&small.join(name)]).await;
        }
    }
    println!("{combinations} combinations of hash functions and inputs are equal to Kubo's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hash_functions_that_kubo_refuses_are_refused_and_no_others() {
    let kubo = kubo!();
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "file", b"a few bytes");
    let path = folder.path().join("file");
    let names =
        ["md5", "murmur3-x64-64", "murmur3-128", "keccak-224", "keccak-384", "shake-128", "x11", "sha2-384"];
    let names = names.map(str::to_owned).into_iter();
    let blake2b = (0..=520).step_by(4).map(|bits| format!("blake2b-{bits}"));
    let blake2s = [8, 128, 152, 160, 248, 256, 264].map(|bits| format!("blake2s-{bits}"));
    for hash in names.chain(blake2b).chain(blake2s) {
        let options = AddOptions { hash: hash.clone(), cid_version: 1, ..AddOptions::default() };
        let ours = ours::try_add(&case(options.clone()), &path).await;
        assert_eq!(ours.is_some(), kubo.takes(&case(options), &path), "{hash}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_trees_get_kubos_cids() {
    let kubo = kubo!();
    let folder = tempfile::tempdir().unwrap();
    let mut combinations = 0;
    for seed in 0..24 {
        let mut noise = Noise::new(1000 + seed);
        let tree = folder.path().join(format!("tree {seed}"));
        inputs::random_tree(&tree, &mut noise);
        let (cid_version, raw_leaves) = FORMS[noise.below(FORMS.len())];
        let keep = seed % 3 == 0;
        let options = AddOptions {
            chunker: ["size-100", "size-4096", "rabin-64", "buzhash"][noise.below(4)].into(),
            layout: LAYOUTS[noise.below(2)],
            cid_version,
            raw_leaves: raw_leaves.filter(|_| !keep),
            wrap: noise.below(2) == 0,
            ..AddOptions::default()
        };
        let case = Case {
            options,
            hidden: noise.below(2) == 0,
            keep_mode: keep,
            keep_modified: keep && noise.below(2) == 0,
        };
        combinations += compare(&kubo, &case, &[&tree]).await;
    }
    println!("{combinations} entries of random trees are equal to Kubo's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_entries_at_the_top_get_kubos_cids() {
    let kubo = kubo!();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write(folder.path(), "a", b"first");
    write(folder.path(), "dir/b", b"second");
    write(folder.path(), "dir/.hidden/c", b"third");
    write(folder.path(), "empty file", b"");
    std::fs::create_dir(path("empty")).unwrap();
    std::os::unix::fs::symlink("dir/b", path("link")).unwrap();
    let paths = ["a", "dir", "empty", "empty file", "link", "dir/.hidden"].map(path);
    let paths = paths.each_ref().map(|path| path.as_path());
    let mut combinations = 0;
    for wrap in [false, true] {
        for cid_version in [0, 1] {
            let options = AddOptions { wrap, cid_version, ..AddOptions::default() };
            combinations += compare(&kubo, &case(options), &paths).await;
        }
    }
    println!("{combinations} entries at the top are equal to Kubo's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_directories_are_sharded_where_kubo_shards_them() {
    let kubo = kubo!();
    let folder = tempfile::tempdir().unwrap();
    // Names and CIDs have exactly 256 KiB together, or one byte less or more.
    for (form, cid_bytes) in [("v0", 34), ("v1", 36)] {
        for wanted in [256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1] {
            let count = wanted / (200 + cid_bytes);
            let rest: usize = wanted % (200 + cid_bytes);
            for index in 0..count {
                let width = 200 + rest.saturating_sub(50 * index).min(50);
                write(folder.path(), &format!("{form}/{wanted}/{index:0>width$}"), b"");
            }
        }
    }
    // Several levels of shards, with a directory and, below, metadata in it.
    let mut noise = Noise::new(9);
    for index in 0..8000 {
        write(folder.path(), &format!("many/{index}"), &noise.bytes(index % 3));
    }
    write(folder.path(), "many/sub/file", b"below");
    let mut combinations = 0;
    for (form, cid_version) in [("v0", 0), ("v1", 1)] {
        let options = AddOptions { cid_version, ..AddOptions::default() };
        let paths = [form, "many"].map(|name| folder.path().join(name));
        combinations += compare(&kubo, &case(options), &[&paths[0], &paths[1]]).await;
    }
    let keep = Case { keep_mode: true, keep_modified: true, ..Case::default() };
    combinations += compare(&kubo, &keep, &[&folder.path().join("many")]).await;
    println!("{combinations} entries of large directories are equal to Kubo's");
}
