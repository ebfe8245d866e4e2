//! Blocks in every hash function that can be added with.

use ipfs_cluster::adder::content::InMemory;

use super::peers;
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_takes_blocks_in_every_hash_function_and_gives_them_back() {
    let Some((cluster, daemons)) = peers(1, false).await else { return };
    let text: String = (0..3_000).map(|number: u32| format!("{number} ")).collect();
    for hash in [
        "identity",
        "sha1",
        "sha2-256",
        "sha2-512",
        "dbl-sha2-256",
        "sha3-224",
        "sha3-256",
        "sha3-384",
        "sha3-512",
        "shake-256",
        "keccak-256",
        "keccak-512",
        "blake2b-160",
        "blake2b-256",
        "blake2b-384",
        "blake2b-512",
        "blake2s-256",
        "blake3",
    ] {
        let text = if hash == "identity" { "fits into its CID" } else { &text };
        let options = AddOptions {
            hash: hash.to_owned(),
            chunker: "size-1000".to_owned(),
            cid_version: 1,
            ..AddOptions::default()
        };
        let content = InMemory::new().file("file", text.to_owned());
        let pins = cluster.peer(0).add_all(content, options).await.unwrap();
        let [pin] = &pins[..] else { panic!("{hash}: {pins:?}") };
        let pinned = cluster.peer(0).wait(pin.cid).until(Until::PinnedBy(1));
        tokio::time::timeout(Duration::from_secs(60), pinned).await.unwrap().unwrap();
        assert!(daemons[0].ipfs(&["cat", "--offline", &pin.cid.to_string()]) == text, "{hash}");
    }
}
