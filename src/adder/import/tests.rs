use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::adder::content::InMemory;
use crate::adder::{DagBlock, Entry, EntryKind};
use crate::error::{Error, ErrorKind};
use crate::types::{Added, Block, Cid, PeerId};

/// Keeps what it gets.
#[derive(Debug, Default)]
struct Kept(Vec<DagBlock>);

#[async_trait]
impl BlockSink for Kept {
    async fn put(&mut self, block: DagBlock) -> Result<()> {
        self.0.push(block);
        Ok(())
    }

    fn allocations(&self) -> Vec<PeerId> {
        Vec::new()
    }
}

/// What an add gave.
#[derive(Debug, PartialEq)]
struct Gave {
    roots: Vec<Root>,
    lines: Vec<Added>,
    blocks: Vec<DagBlock>,
}

impl Gave {
    /// Names, CIDs and sizes of the lines that are not about progress.
    fn named(&self) -> Vec<(&str, String, u64)> {
        self.lines.iter().filter_map(|line| Some((&*line.name, line.cid?.to_string(), line.size))).collect()
    }

    fn names(&self) -> Vec<&str> {
        self.named().into_iter().map(|(name, ..)| name).collect()
    }
}

async fn add(mut content: impl Content, options: AddOptions) -> Result<Gave> {
    let (lines, mut told) = Lines::new(4);
    let listening = tokio::spawn(async move {
        let mut lines = Vec::new();
        while let Some(line) = told.recv().await {
            lines.push(line);
        }
        lines
    });
    let mut sink = Kept::default();
    let roots = import(&mut content, &options, &mut sink, &lines).await?;
    drop(lines);
    Ok(Gave { roots, lines: listening.await.unwrap(), blocks: sink.0 })
}

async fn refused(content: impl Content, options: AddOptions) -> String {
    add(content, options).await.unwrap_err().to_string()
}

fn file(name: &str, data: impl Into<Bytes>) -> InMemory {
    InMemory::new().file(name, data)
}

fn v1() -> AddOptions {
    AddOptions { cid_version: 1, ..AddOptions::default() }
}

fn small_chunks() -> AddOptions {
    AddOptions { chunker: "size-10".into(), ..AddOptions::default() }
}

/// Links of a node.
fn links(block: &Block) -> Vec<Cid> {
    fn number(bytes: &mut &[u8]) -> u64 {
        let mut number = 0;
        for shift in (0..).step_by(7) {
            let (byte, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        number
    }
    let mut found = Vec::new();
    let mut rest = &block.data[..];
    while block.cid.codec() == naming::CODEC_DAG_PB && !rest.is_empty() {
        let field = number(&mut rest) >> 3;
        let len = usize::try_from(number(&mut rest)).unwrap();
        let (value, after) = rest.split_at(len);
        rest = after;
        if field == 2 {
            let mut link = value;
            assert_eq!(number(&mut link), 0x0a);
            let len = usize::try_from(number(&mut link)).unwrap();
            found.push(Cid::try_from(&link[..len]).unwrap());
        }
    }
    found
}

/// Each block is what its CID says, and comes after those that it links to.
fn check(gave: &Gave) {
    let mut seen = BTreeSet::new();
    for made in &gave.blocks {
        Block::verified(made.block.cid, made.block.data.clone()).unwrap();
        for link in links(&made.block) {
            assert!(seen.contains(&link), "{link} comes after what links to it, {}", made.block.cid);
        }
        seen.insert(made.block.cid);
    }
    for root in &gave.roots {
        assert!(seen.contains(&root.cid), "the root {root:?} is missing");
    }
}

#[tokio::test]
async fn one_file_gives_the_references_line() {
    let gave = add(file("a.txt", "hello add\n"), AddOptions::default()).await.unwrap();
    let cid = "QmYChSi44HAAriUxj6boo2SUH83VXNBjbjGpPs92tuShjN";
    assert_eq!(gave.named(), [("a.txt", cid.to_owned(), 18)]);
    assert_eq!(gave.roots, [Root { name: "a.txt".into(), cid: cid.parse().unwrap(), dag_bytes: 18 }]);
    assert_eq!(gave.blocks.len(), 1);
    let raw =
        add(file("a.txt", "hello add\n"), AddOptions { raw_leaves: Some(true), ..AddOptions::default() });
    let cid = "bafkreicnvxcwc2uay4fjnah7l2m7ux3kd3h4jotpdtvsysidlbt5wo2vne";
    assert_eq!(raw.await.unwrap().named(), [("a.txt", cid.to_owned(), 10)]);
}

#[tokio::test]
async fn the_references_recorded_answers_come_out() {
    let big = Bytes::from(vec![b'x'; 614_400]);
    let chunks = AddOptions { chunker: "size-100000".into(), ..v1() };
    let trickle =
        AddOptions { chunker: "size-1024".into(), layout: AddLayout::Trickle, ..AddOptions::default() };
    for (data, options, cid, size) in [
        (big.clone(), AddOptions::default(), "QmVHwU5At4YCvg56z38EMvRE9rYVxQMoTmYuFAe3pUbD7Y", 614_594),
        (big.clone(), chunks, "bafybeih3q3sdyb3esknob2fh2kzwn7kzadp73bs5d2bpuohkjxgiexptry", 614_756),
        (big.slice(..20_000), trickle, "QmdaB3cbc9JxvviUHicEyF4XBPJMe14BXDFrCyAafvT3pp", 21_148),
    ] {
        let gave = add(file("big.bin", data), options).await.unwrap();
        check(&gave);
        assert_eq!(gave.named(), [("big.bin", cid.to_owned(), size)]);
    }
    let wrapped = AddOptions { wrap: true, ..v1() };
    let gave = add(InMemory::new().directory("dir").file("dir/abc.txt", "abc\n"), wrapped).await.unwrap();
    check(&gave);
    let expected = [
        ("dir/abc.txt", "bafkreihn5kx7h4lxjljirbtto4gg2zajpy4rxq3c27lpwneyfxpq57iyzm", 4),
        ("dir", "bafybeicwqdhdz7msu4hxyyrm7vouqsf765kmmtcpw5p6ifhgw7axxnaas4", 59),
        ("", "bafybeiehe5yxqu4ixnsomtoinlugvreling26pht2h57q7rzaumjnsf56u", 110),
    ];
    assert_eq!(gave.named(), expected.map(|(name, cid, size)| (name, cid.to_owned(), size)));
}

#[tokio::test]
async fn directories_are_told_of_after_files_and_after_those_in_them() {
    let content = || {
        InMemory::new()
            .directory("dir")
            .file("dir/sub/z", "1")
            .symlink("dir/link", "sub/z")
            .directory("dir/empty")
            .file("dir/a", "2")
            .file("dir/sub/y", "3")
    };
    let gave = add(content(), AddOptions::default()).await.unwrap();
    check(&gave);
    assert_eq!(gave.names(), ["dir/sub/z", "dir/link", "dir/a", "dir/sub/y", "dir/empty", "dir/sub", "dir"]);
    assert_eq!(gave.roots.len(), 1);
    let wrapped = add(content(), AddOptions { wrap: true, ..AddOptions::default() }).await.unwrap();
    assert_eq!(wrapped.names().last(), Some(&""));
    assert_eq!(wrapped.names()[..7], gave.names());
    assert_eq!(wrapped.roots[0].name, "");
}

#[tokio::test]
async fn everything_at_the_top_is_a_root_without_a_directory_around_it() {
    let content =
        InMemory::new().file("a", "1").directory("d").file("d/x", "2").file("e/f/g", "3").file("b", "1");
    let gave = add(content, v1()).await.unwrap();
    check(&gave);
    let names: Vec<_> = gave.roots.iter().map(|root| root.name.as_str()).collect();
    assert_eq!(names, ["a", "d", "e", "b"]);
    assert_eq!(gave.roots[0].cid, gave.roots[3].cid);
    assert_eq!(gave.names(), ["a", "d/x", "d", "e/f/g", "e/f", "e", "b"]);
}

#[tokio::test]
async fn progress_is_told_by_the_path_below_the_root() {
    let progress = AddOptions { progress: true, ..AddOptions::default() };
    let told = |gave: Gave| -> Vec<(String, u64)> {
        gave.lines.into_iter().filter(|line| line.cid.is_none()).map(|line| (line.name, line.bytes)).collect()
    };
    let gave = add(file("big.bin", vec![b'x'; 614_400]), progress.clone()).await.unwrap();
    assert!(gave.lines[3].cid.is_some(), "what the file became comes after its progress");
    let expected = [("", 262_144), ("", 524_288), ("", 614_400)];
    assert_eq!(told(gave), expected.map(|(name, bytes)| (name.to_owned(), bytes)));
    let gave = add(file("dir/sub/x", "abc"), progress.clone()).await.unwrap();
    assert_eq!(told(gave), [("sub/x".to_owned(), 3)]);
    let gave = add(file("dir/sub/x", ""), AddOptions { wrap: true, ..progress }).await.unwrap();
    assert_eq!(told(gave), [("dir/sub/x".to_owned(), 0)]);
}

#[tokio::test]
async fn what_means_nothing_is_refused_in_the_references_words() {
    let with = |change: fn(&mut AddOptions)| {
        let mut options = AddOptions::default();
        change(&mut options);
        refused(file("a", "1"), options)
    };
    assert_eq!(with(|o| o.chunker = "nope".into()).await, "unrecognized chunker option: nope");
    assert_eq!(with(|o| o.hash = "nope".into()).await, "hash function name not known");
    assert_eq!(with(|o| o.cid_version = 3).await, "bad CID Version: unknown CID version: 3");
    let missing = "missing file path or URL, can't create filestore reference";
    assert_eq!(with(|o| o.no_copy = true).await, missing);
    let nothing = "nothing to add: no file and no directory came";
    assert_eq!(refused(InMemory::new(), AddOptions::default()).await, nothing);
    assert_eq!(refused(InMemory::new(), AddOptions { wrap: true, ..AddOptions::default() }).await, nothing);
}

#[tokio::test]
async fn names_that_are_taken_are_refused() {
    let wrap = || AddOptions { wrap: true, ..AddOptions::default() };
    let twice = InMemory::new().file("a", "1").file("a", "2");
    assert_eq!(refused(twice, wrap()).await, "directory already has entry by that name: \"a\"");
    let file_over_directory = InMemory::new().file("d/x", "1").file("d", "2");
    assert_eq!(refused(file_over_directory, wrap()).await, "directory already has entry by that name: \"d\"");
    let directory_over_file = InMemory::new().file("d", "1").directory("d");
    assert_eq!(refused(directory_over_file, wrap()).await, "directory already has entry by that name: \"d\"");
    let below_a_file = InMemory::new().file("d", "1").file("d/x/y", "2");
    assert_eq!(refused(below_a_file, wrap()).await, "\"d\" of \"d/x/y\" is not a directory");
    let no_name = InMemory::new().file("d/", "1");
    assert_eq!(refused(no_name, wrap()).await, "path \"d/\" has an empty part");
}

#[tokio::test]
async fn paths_that_are_too_long_or_deep_are_refused() {
    let long = refused(file(&"x".repeat(70_000), "1"), AddOptions::default()).await;
    assert_eq!(long, "a path has 70000 bytes, at most 65536 are possible");
    let deep = refused(file(&"x/".repeat(1500), "1"), AddOptions::default()).await;
    assert_eq!(deep, "directories are more than 1024 deep, add the inner ones apart");
    let gave = add(file(&format!("{}f", "x/".repeat(1000)), "1"), AddOptions::default()).await.unwrap();
    assert_eq!(gave.lines.len(), 1001);
    check(&gave);
}

#[tokio::test]
async fn a_directory_that_comes_in_pieces_is_one_directory() {
    let pieces = InMemory::new().file("d/a", "1").file("e/b", "2").directory("d").file("d/c", "3");
    let whole = InMemory::new().file("d/a", "1").file("d/c", "3").file("e/b", "2");
    let wrap = AddOptions { wrap: true, ..AddOptions::default() };
    let (pieces, whole) = (add(pieces, wrap.clone()).await.unwrap(), add(whole, wrap).await.unwrap());
    assert_eq!(pieces.roots, whole.roots);
}

#[tokio::test]
async fn directories_that_were_left_are_written_early_when_there_are_many_entries() {
    let mut content = InMemory::new();
    for directory in 0..40 {
        content =
            content.directory(format!("top/{directory:02}")).directory(format!("top/{directory:02}/sub"));
        for index in 0..2000 {
            content = content.file(format!("top/{directory:02}/sub/{index:04}"), "x");
        }
    }
    let gave = add(content, v1()).await.unwrap();
    check(&gave);
    let names = gave.names();
    assert_eq!(names.len(), 80_081);
    let directories = &names[80_000..];
    assert_eq!(directories[..3], ["top/00/sub", "top/00", "top/01/sub"]);
    assert_eq!(directories[79..], ["top/39", "top"]);
    let first = gave.roots[0].cid;
    let written = |name: &str| {
        let cid = gave.lines.iter().find(|line| line.name == name).and_then(|line| line.cid);
        gave.blocks.iter().position(|made| Some(made.block.cid) == cid)
    };
    // All of these directories are equal, and the first was written before the last files came.
    assert!(written("top/00/sub") < written("top"), "{first}");

    let mut late = InMemory::new();
    for index in 0..70_000 {
        late = late.file(format!("top/{}/{index}", index / 1000), "x");
    }
    let message = refused(late.file("top/0/late", "x"), v1()).await;
    assert!(message.starts_with("\"0/late\" comes after its directory was left"), "{message}");
}

#[tokio::test]
async fn a_directory_that_was_just_named_is_not_written_early() {
    let mut content = InMemory::new().directory("top/a");
    for index in 2..65_536 {
        content = content.file(format!("top/a/{index}"), "x");
    }
    // With this entry there are so many that directories are written.
    let gave = add(content.directory("top/b").file("top/b/x", "x"), v1()).await.unwrap();
    assert_eq!(gave.names()[65_535..], ["top/a", "top/b", "top"]);
    let of = |name: &str| gave.lines.iter().find(|line| line.name == name).unwrap().cid.unwrap();
    let b = gave.blocks.iter().find(|made| made.block.cid == of("top/b")).unwrap();
    assert_eq!(links(&b.block), [of("top/b/x")]);
}

#[tokio::test]
async fn a_block_that_was_just_handed_on_is_not_handed_on_again() {
    let gave = add(file("same", vec![0; 1000]), small_chunks()).await.unwrap();
    check(&gave);
    // All leaves are equal: two kinds of blocks are left.
    assert_eq!(gave.blocks.len(), 2);
}

#[tokio::test]
async fn shards_get_what_the_references_file_system_leaves_behind() {
    let shard = AddOptions { shard: true, ..AddOptions::default() };
    let gave = add(file("big.bin", vec![b'x'; 614_400]), shard).await.unwrap();
    let sizes: Vec<_> = gave.blocks.iter().map(|made| made.block.data.len()).collect();
    // Two leaves (the first of them twice), the root, and the 98 bytes that make the reference's second shard 90376 bytes.
    assert_eq!(sizes, [262_158, 90_126, 152, 4, 94]);
}

#[tokio::test]
async fn attributes_are_kept_where_there_is_a_node_for_them() {
    let entry = |kind| Entry {
        path: "a".into(),
        kind,
        mode: Some(0o100_644),
        modified: Some((1_700_000_000, 5)),
        origin: None,
    };
    let with = || InMemory::new().entry(entry(EntryKind::File), "abc");
    let kept = add(with(), v1()).await.unwrap();
    assert_eq!(kept.roots[0].cid.codec(), naming::CODEC_DAG_PB);
    let data = hex::encode(&kept.blocks[0].block.data);
    // Type, data, size, mode 0644, seconds and nanoseconds.
    assert_eq!(data, "0a19080212036162631803 38a403 420b0880e2cfaa06 1505000000".replace(' ', ""));
    let raw = AddOptions { raw_leaves: Some(true), ..v1() };
    let message = "raw-leaves can't be used with UnixFS metadata like mode or modification time";
    assert_eq!(refused(with(), raw).await, message);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_and_pieces_change_nothing() {
    let data: Bytes =
        (0..3_000_000_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for chunker in ["size-4096", "size-262144", "rabin-5000", "buzhash"] {
        let options = AddOptions { chunker: chunker.into(), ..v1() };
        let content = || file("d/a", data.clone()).file("d/b", "b").file("d/c", data.slice(7..));
        let here = add(content(), options.clone()).await.unwrap();
        check(&here);
        let one_thread = options.clone();
        let content = Pieces { content: content(), rest: Bytes::new() };
        let there = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(add(content, one_thread)).unwrap()
        });
        assert_eq!(here, there.join().unwrap());
    }
}

/// Gives bytes in odd pieces, and is not always ready.
struct Pieces {
    content: InMemory,
    rest: Bytes,
}

#[async_trait]
impl Content for Pieces {
    async fn next(&mut self) -> Result<Option<Entry>> {
        self.rest = Bytes::new();
        self.content.next().await
    }

    async fn read(&mut self) -> Result<Option<Bytes>> {
        if self.rest.is_empty() {
            let Some(more) = self.content.read().await? else { return Ok(None) };
            self.rest = more;
        }
        let len = (1 + self.rest.len() * 7919 % 70_001).min(self.rest.len());
        if len.is_multiple_of(3) {
            tokio::task::yield_now().await;
        }
        Ok(Some(self.rest.split_to(len)))
    }
}

/// Endless, and counts what it gave.
struct Endless(Arc<AtomicUsize>, bool);

#[async_trait]
impl Content for Endless {
    async fn next(&mut self) -> Result<Option<Entry>> {
        Ok((!std::mem::replace(&mut self.1, true))
            .then(Entry::default)
            .map(|entry| Entry { path: "x".into(), ..entry }))
    }

    async fn read(&mut self) -> Result<Option<Bytes>> {
        self.0.fetch_add(1 << 20, Ordering::Relaxed);
        Ok(Some(Bytes::from_static(&[0; 1 << 20])))
    }
}

/// Takes so many blocks; then it fails, or never answers.
struct Stuck {
    blocks: usize,
    fails: bool,
}

#[async_trait]
impl BlockSink for Stuck {
    async fn put(&mut self, _: DagBlock) -> Result<()> {
        if self.blocks == 0 {
            if self.fails {
                return Err(Error::new(ErrorKind::StorageFull, "no space left"));
            }
            return std::future::pending().await;
        }
        self.blocks -= 1;
        Ok(())
    }

    fn allocations(&self) -> Vec<PeerId> {
        Vec::new()
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_takes_nothing_stops_the_reading() {
    let read = Arc::new(AtomicUsize::new(0));
    let (lines, _told) = Lines::new(1);
    let mut content = Endless(read.clone(), false);
    let mut sink = Stuck { blocks: 0, fails: false };
    let options = v1();
    let adding = import(&mut content, &options, &mut sink, &lines);
    tokio::time::timeout(std::time::Duration::from_secs(60), adding).await.unwrap_err();
    let read = read.load(Ordering::Relaxed);
    assert!(read <= 36 << 20, "{read} bytes were read");
}

#[tokio::test]
async fn a_sink_that_fails_ends_the_add_with_its_error() {
    let (lines, _told) = Lines::new(1);
    let mut content = Endless(Arc::default(), false);
    // Endless zeroes are one block again and again: the node over them is the second.
    let mut sink = Stuck { blocks: 1, fails: true };
    let error = import(&mut content, &v1(), &mut sink, &lines).await.unwrap_err();
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::StorageFull, "no space left".to_owned()));
}

#[tokio::test]
async fn an_import_can_go_on_on_another_thread() {
    fn sent<T: Send>(future: T) -> T {
        future
    }
    let (lines, _told) = Lines::new(1);
    let (mut content, mut sink, options) = (InMemory::new().file("a", "1"), Kept::default(), v1());
    sent(import(&mut content, &options, &mut sink, &lines)).await.unwrap();
}
