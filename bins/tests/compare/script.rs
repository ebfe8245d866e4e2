//! The commands.

use crate::world::World;

/// One command.
pub(crate) struct Step {
    pub(crate) words: Vec<String>,
}

impl Step {
    /// Whether it shows operations while they run: how far they are is a matter of luck.
    pub(crate) fn is_racing(&self) -> bool {
        self.words.iter().any(|word| word == "recover")
    }

    pub(crate) fn line(&self) -> String {
        self.words.join(" ")
    }
}

/// Content that no daemon has.
const ABSENT: &str = "bafkreibbqbepiwqn3xbatuazqgnb5qr7xookqfrknmqbunpcuj2nrcteeq";
const UNKNOWN_PEER: &str = "12D3KooWGbmjg3MDUYFosLNPbE1jKkv5fzKHD7wyGDa1P95iKMjF";

/// The commands in order, `{0}` to `{6}` being content of one block, `{dir}` a folder. Those that tell things in JSON
/// follow those that tell the same in words.
const SCRIPT: &str = "
version
--enc=json version
id
--enc=json id
-enc json id
peers ls
--enc=json peers ls
pin ls
--enc=json pin ls
status
--enc=json status
recover
recover --local
health alerts
--enc=json health alerts
pin add {0}
--enc=json pin add {0}
pin add --no-status --name cli --replication 1 --metadata a=b --metadata <x>=& --expire-in 48h {1}
--enc=json pin add --no-status {2}
pin add --mode direct {3}
status {3}
--enc=json status {3}
pin ls {3}
status --filter pinned
recover
pin rm --no-status {3}
pin add --wait {4}
pin add -w -wl 1 -ns {4}
pin add --replication-min 3 --replication-max 2 {5}
pin add --rmin 2 --rmax 3 {5}
pin add --replication-min 1 --replication-max 1 --allocations <peer> {5}
pin add --allocations bad {5}
pin add --metadata bad {5}
pin add --no-status --expire-in 500ms {6}
pin add --expire-in xyz {5}
pin add --mode weird {5}
pin add --no-status {5}
pin add notacid
pin add
pin add /ipfs/{dir}/a
--enc=json pin add --no-status /ipfs/{dir}/b
pin add /ipfs/{dir}/nope
pin add --wait --wait-timeout 3s {absent}
--enc=json pin add --no-status {absent}
pin ls
--enc=json pin ls
pin ls {0}
--enc=json pin ls {0}
pin ls {6}
--enc=json pin ls {6}
pin ls --filter pin
pin ls --filter meta-pin,shard-pin,clusterdag-pin
pin ls --filter bogus
pin ls notacid
status
--enc=json status
status {0}
--enc=json status {0}
status {6}
status --local {0} {1}
status --filter error
status --filter pinned --local
status --filter queued
--enc=json status --filter pin_error
status --filter bogus
status notacid
pin update --no-status --name upd {0} {6}
--enc=json pin update --no-status {0} {6}
pin update {absent} {absent}
pin update
recover {0}
--enc=json recover {0}
recover --local {0}
status {absent}
recover --local
pin rm --no-status {absent}
recover --local
recover notacid
pin rm --no-status {2}
--enc=json pin rm --no-status {4}
pin rm {5}
pin rm {5}
--enc=json pin rm {5}
pin rm --no-status /ipfs/{dir}/a
pin rm notacid
pin rm
health graph
--enc=json health graph
health graph --all-ipfs-peers
health metrics
--enc=json health metrics
health metrics ping
--enc=json health metrics ping
--enc=json health metrics freespace
health metrics tag:group
--enc=json health metrics pinqueue
health metrics nonexistent
health alerts
health bandwidth
--enc=json health bandwidth
ipfs gc
--enc=json ipfs gc
ipfs gc --local
peers rm {unknown}
peers rm bad
peers add x
add f1.txt
add -q f1.txt
add -Q -r dir
add dir
add -r dir
add -r -H dir
add -w f1.txt f2.txt
add f1.txt f2.txt
add -w long
add -Q --cid-version 1 long
add -Q --raw-leaves long
add -Q --hash blake2b-256 long
add -Q --layout trickle --chunker size-1000 long
add -Q --chunker rabin-512-1024-2048 long
add -Q --chunker buzhash long
add -Q --local --name named --metadata a=b f2.txt
add -Q --no-pin f2.txt
--enc=json add f1.txt
--enc=json add --no-stream f1.txt f2.txt
--enc=json add --no-stream -Q f1.txt
--enc=json add -r -q dir
add --no-stream f1.txt
add --wait long
add --format car -w f1.txt
add --nocopy f1.txt
add --chunker nope f1.txt
--enc=json add --chunker nope f1.txt
add --hash nope f1.txt
add --cid-version x f1.txt
add --layout nope f1.txt
add --format nope f1.txt
add --metadata bad f1.txt
add --allocations bad f1.txt
add missing.txt
add
add --rmin 5 --rmax 5 f1.txt
--enc=xml id
bogus
pin bogus
health bogus
id surplus
--bogus id
--timeout soon id
--secret zz id
--host=/ip4/bad/tcp/1 id
--host=/ip4/127.0.0.1/tcp/1 id
--basic-auth a:b id
--basic-auth a:b --force-http id
sync {0}
";

/// The same for peers that agree by Raft. Pins have no options here: the reference's Raft has options of one pin appear in
/// others, because it reads every entry of its log into what the last one left.
const RAFT_SCRIPT: &str = "
version
id
--enc=json id
peers ls
--enc=json peers ls
pin ls
status
--enc=json status
recover
health alerts
pin add {0}
--enc=json pin add {0}
pin add --no-status {1}
pin add --wait {2}
pin add --rmin 2 --rmax 3 {3}
pin add /ipfs/{dir}/a
pin add /ipfs/{dir}/nope
pin add notacid
pin ls
--enc=json pin ls
pin ls {0}
pin ls {6}
status
--enc=json status
status {0}
status {6}
status --filter pinned
status --filter error
recover {0}
pin update --no-status {0} {4}
pin rm --no-status {1}
pin rm {6}
--enc=json pin rm {6}
pin rm --no-status /ipfs/{dir}/a
health graph
--enc=json health graph
health metrics
health metrics ping
--enc=json health metrics freespace
ipfs gc --local
add f1.txt
add -Q -r dir
--enc=json add --no-stream f1.txt f2.txt
add --rmin 5 --rmax 5 f1.txt
peers rm {unknown}
peers rm bad
peers rm <peer>
--enc=json peers rm <peer>
peers ls
";

/// The commands for this consensus, with content that every daemon has.
pub(crate) fn steps(consensus: &str, worlds: &[World]) -> Vec<Step> {
    let add = |content: &str| {
        let cids: Vec<_> = worlds.iter().map(|world| world.kubo.add(content)).collect();
        assert!(cids.iter().all(|cid| *cid == cids[0]));
        cids[0].clone()
    };
    let folders: Vec<_> = worlds.iter().map(|world| world.kubo.add_folder("folder")).collect();
    let mut names = vec![
        ("{dir}".to_owned(), folders[0].clone()),
        ("{absent}".to_owned(), ABSENT.to_owned()),
        ("{unknown}".to_owned(), UNKNOWN_PEER.to_owned()),
    ];
    names.extend((0..7).map(|number| (format!("{{{number}}}"), add(&format!("content {number}")))));
    let word = |word: &str| names.iter().fold(word.to_owned(), |word, (name, cid)| word.replace(name, cid));
    let script = if consensus == "raft" { RAFT_SCRIPT } else { SCRIPT };
    let lines = script.lines().filter(|line| !line.is_empty());
    lines.map(|line| Step { words: line.split(' ').map(word).collect() }).collect()
}
