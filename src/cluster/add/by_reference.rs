//! Adding files where they lie: the daemon beside this peer refers to them, everybody else gets copies.
//!
//! ```text
//! content ─▶ Traced: which files, and a digest of each piece ─▶ importer ─▶ destinations
//!                          the daemon beside us: all blocks are held, only the nodes are stored
//! all is stored ─▶ each file is read once more where it lies, piece by piece as it was ─▶ IpfsConnector::put_reference
//! ─▶ pins
//! ```
//!
//! Leases come before the leaves, as for every add, so garbage collection finds no gap. What is read where the file lies goes
//! to the daemon only if it is what was added: who sends an upload can have no other file of this machine stored.

use std::fs::File;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use blake2b_simd::{Params, State};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use tokio::sync::mpsc;

use super::{COMPONENT, Host, Import, LINES_MAX, again};
use crate::adder::{Content, Entry, EntryKind, Lines, Root};
use crate::cluster::Inner;
use crate::error::{Error, ErrorKind, Result};
use crate::ipfs_connector::{IpfsConnector, Reference};
use crate::types::{AddFormat, AddOptions, Added, Cid, PeerId};

/// Most files of one add by reference.
const FILES_MAX: usize = 1 << 20;
/// Bytes of a file that are compared at a time.
const PIECE_BYTES: usize = 1 << 20;
/// Most pieces of all files of one add: 4 TiB.
const PIECES_MAX: usize = 1 << 22;
/// Enough that nobody finds other bytes to the same.
const DIGEST_BYTES: usize = 16;
/// Files that are handed to the daemon at a time.
const FILES_AT_A_TIME: usize = 4;
/// Pieces of each that are read ahead.
const PIECES_AHEAD: usize = 2;

type Digest = [u8; DIGEST_BYTES];

/// What the parts of one add by reference have in common.
#[derive(Debug, Default)]
pub(super) struct Referring {
    /// What is added comes from addresses, of which no daemon is asked to note anything: all is copied.
    copies: AtomicBool,
    /// The daemon beside this peer has all blocks but the leaves.
    stored_here: AtomicBool,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    files: Vec<Traced>,
    pieces: usize,
    /// How many of the files are known by their CID.
    named: usize,
}

/// A file that was read.
#[derive(Debug)]
struct Traced {
    name: String,
    origin: String,
    cid: Option<Cid>,
    bytes: u64,
    pieces: Vec<Digest>,
}

impl Referring {
    /// Known from the first file on.
    pub(super) fn is_copying(&self) -> bool {
        self.copies.load(Ordering::SeqCst)
    }

    pub(super) fn is_stored_here(&self) {
        self.stored_here.store(true, Ordering::SeqCst);
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line says what became of a file. Lines about files come in the order of the files.
    fn hear(&self, line: &Added) {
        let Some(cid) = line.cid else { return };
        let mut noted = self.noted();
        let next = noted.named;
        if let Some(file) = noted.files.get_mut(next).filter(|file| file.name == line.name) {
            file.cid = Some(cid);
            noted.named += 1;
        }
    }
}

/// What has to be so that content can be added by reference; with raw leaves, because the daemon refers to nothing else.
pub(crate) fn options(options: &AddOptions) -> Result<AddOptions> {
    let refuse = |text: &str| Err(Error::invalid_input(text).component(COMPONENT));
    if options.format == AddFormat::Car {
        return refuse("nocopy is for files: the blocks of a CAR lie nowhere else");
    }
    if options.shard {
        return refuse("nocopy and shard exclude each other: what is sharded does not fit on one daemon");
    }
    if options.raw_leaves == Some(false) {
        return refuse("nocopy needs raw-leaves: nothing else is a part of a file as it lies there");
    }
    Ok(AddOptions { raw_leaves: Some(true), ..options.clone() })
}

/// Puts content on its destinations, and has the daemon beside this peer refer to the files. Gives the roots, and who is to
/// pin them.
pub(super) async fn add(
    inner: &Arc<Inner>,
    content: Box<dyn Content>,
    options: &AddOptions,
    host: &Arc<Host>,
    lines: &Lines,
    import: Import,
) -> Result<(Vec<Root>, Vec<PeerId>)> {
    let referring = Arc::clone(&host.referring);
    let ipfs = Arc::clone(&inner.ipfs);
    let mut content = Tracing { content, ipfs, root: None, referring: Arc::clone(&referring), piece: None };
    let (own, mut heard) = Lines::new(LINES_MAX);
    let work = async {
        let added = again::add(&mut content, options, host, &own, import).await;
        drop(own);
        added
    };
    let hear = async {
        while let Some(line) = heard.recv().await {
            referring.hear(&line);
            lines.tell(line).await;
        }
    };
    let (added, ()) = futures::future::join(work, hear).await;
    let added = added?;
    if referring.is_copying() {
        return Ok(added);
    }
    if !referring.stored_here.load(Ordering::SeqCst) {
        let text = "the IPFS daemon beside this peer failed, and no other can refer to files here; add again without nocopy \
                    or when it is well";
        return Err(Error::new(ErrorKind::Unavailable, text).component(COMPONENT));
    }
    let files = std::mem::take(&mut referring.noted().files);
    stream::iter(files.into_iter().map(Ok))
        .try_for_each_concurrent(FILES_AT_A_TIME, |file| refer(&inner.ipfs, file, options))
        .await?;
    Ok(added)
}

async fn refer(ipfs: &Arc<dyn IpfsConnector>, file: Traced, options: &AddOptions) -> Result<()> {
    let Traced { name, origin, cid, bytes, pieces } = file;
    let cid = cid.ok_or_else(|| {
        Error::internal(format!("it was not told what became of {name}")).component(COMPONENT)
    })?;
    let reference = Reference {
        origin: origin.clone(),
        cid,
        layout: options.layout,
        chunker: options.chunker.clone(),
        cid_version: options.cid_version,
        hash: options.hash.clone(),
    };
    ipfs.put_reference(&reference, read_again(origin, bytes, pieces)).await
}

/// The bytes of a file where it lies, as long as they are those that were added.
fn read_again(origin: String, bytes: u64, pieces: Vec<Digest>) -> BoxStream<'static, Result<Bytes>> {
    let (send, receive) = mpsc::channel(PIECES_AHEAD);
    drop(tokio::task::spawn_blocking(move || {
        let outcome =
            compare(Path::new(&origin), bytes, &pieces, |piece| send.blocking_send(Ok(piece)).is_ok());
        if let Err(error) = outcome {
            // Nobody may be interested any more.
            let _ = send.blocking_send(Err(error));
        }
    }));
    stream::unfold(receive, |mut receive| async move { receive.recv().await.map(|piece| (piece, receive)) })
        .boxed()
}

/// Reads a file in pieces and hands on those that are the same. Stops when `take` wants no more.
fn compare(path: &Path, bytes: u64, pieces: &[Digest], mut take: impl FnMut(Bytes) -> bool) -> Result<()> {
    let cannot = |source: std::io::Error| {
        let text = format!(
            "cannot read {} to refer to it: {source}; with nocopy this peer has to see the files where the IPFS daemon \
             does",
            path.display()
        );
        Error::invalid_input(text).component(COMPONENT).with_source(source)
    };
    let differs = || {
        let text = format!("{} is not, or no longer, what was added: add it again", path.display());
        Error::invalid_input(text).component(COMPONENT)
    };
    // Before it is opened: opening a pipe would wait for its other end.
    let about = std::fs::metadata(path).map_err(cannot)?;
    if !about.is_file() || about.len() != bytes {
        return Err(differs());
    }
    let mut file = File::open(path).map_err(cannot)?;
    for expected in pieces {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut piece).map_err(cannot)?;
        if digest(&piece) != *expected {
            return Err(differs());
        }
        if !take(piece.into()) {
            return Ok(());
        }
    }
    match file.read(&mut [0]).map_err(cannot)? {
        0 => Ok(()),
        _ => Err(differs()),
    }
}

fn digest(piece: &[u8]) -> Digest {
    finished(&hasher().update(piece).finalize())
}

fn hasher() -> State {
    Params::new().hash_length(DIGEST_BYTES).to_state()
}

fn finished(hash: &blake2b_simd::Hash) -> Digest {
    let mut digest = [0; DIGEST_BYTES];
    digest.copy_from_slice(&hash.as_bytes()[..DIGEST_BYTES]);
    digest
}

/// Content whose files are noted as they are read.
struct Tracing {
    content: Box<dyn Content>,
    ipfs: Arc<dyn IpfsConnector>,
    /// Where files must lie, once that was asked and as far as that is known.
    root: Option<Option<PathBuf>>,
    referring: Arc<Referring>,
    /// The piece of the last file that is being read, and its bytes by now.
    piece: Option<(State, usize)>,
}

#[async_trait]
impl Content for Tracing {
    async fn next(&mut self) -> Result<Option<Entry>> {
        self.end_piece()?;
        self.piece = None;
        let entry = self.content.next().await?;
        let Some(Entry { path, kind: EntryKind::File, origin: Some(origin), .. }) = &entry else {
            return Ok(entry);
        };
        if origin.is_empty() {
            // The importer has its own words for that.
            return Ok(entry);
        }
        if is_address(origin) {
            self.copy(origin)?;
            return Ok(entry);
        }
        if self.referring.is_copying() {
            return Err(mixed());
        }
        // Asked for the first file and not before, so that options and content that mean nothing are told first.
        let root = match &self.root {
            Some(root) => root,
            None => self.root.insert(self.ipfs.reference_root().await?),
        };
        check_origin(origin, root.as_deref())?;
        let mut noted = self.referring.noted();
        if noted.files.len() >= FILES_MAX {
            let text = format!("more than {FILES_MAX} files: add them in parts, or without nocopy");
            return Err(Error::invalid_input(text).component(COMPONENT));
        }
        noted.files.push(Traced {
            name: path.clone(),
            origin: origin.clone(),
            cid: None,
            bytes: 0,
            pieces: Vec::new(),
        });
        drop(noted);
        self.piece = Some((hasher(), 0));
        Ok(entry)
    }

    async fn read(&mut self) -> Result<Option<Bytes>> {
        let read = self.content.read().await?;
        match &read {
            Some(bytes) => self.note(bytes)?,
            None => self.end_piece()?,
        }
        Ok(read)
    }
}

impl Tracing {
    /// The reference copies all that it is told not to. Here that is left of it: who adds an address has it copied.
    fn copy(&self, origin: &str) -> Result<()> {
        if !self.referring.noted().files.is_empty() {
            return Err(mixed());
        }
        if !self.referring.copies.swap(true, Ordering::SeqCst) {
            tracing::warn!(origin, "nocopy is for files: what comes from an address is copied");
        }
        Ok(())
    }

    fn note(&mut self, mut bytes: &[u8]) -> Result<()> {
        while let Some((hasher, filled)) = self.piece.as_mut().filter(|_| !bytes.is_empty()) {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE_BYTES - *filled));
            hasher.update(now);
            *filled += now.len();
            bytes = later;
            if *filled == PIECE_BYTES {
                self.end_piece()?;
            }
        }
        Ok(())
    }

    /// Notes the piece that is being read, if there is anything of it.
    fn end_piece(&mut self) -> Result<()> {
        let Some((piece, filled)) = self.piece.as_mut().filter(|(_, filled)| *filled > 0) else {
            return Ok(());
        };
        let mut noted = self.referring.noted();
        noted.pieces += 1;
        if noted.pieces > PIECES_MAX {
            let text = "more than 4 TiB: add it in parts, or without nocopy";
            return Err(Error::invalid_input(text).component(COMPONENT));
        }
        if let Some(file) = noted.files.last_mut() {
            file.bytes += *filled as u64;
            file.pieces.push(finished(&piece.finalize()));
        }
        (*piece, *filled) = (hasher(), 0);
        Ok(())
    }
}

fn is_address(origin: &str) -> bool {
    origin.starts_with("http://") || origin.starts_with("https://")
}

fn mixed() -> Error {
    Error::invalid_input("nocopy is for files or for addresses: add them one after the other")
        .component(COMPONENT)
}

/// What the daemon would refuse, before anything is stored.
fn check_origin(origin: &str, root: Option<&Path>) -> Result<()> {
    let refuse = |text: String| Err(Error::invalid_input(text).component(COMPONENT));
    let path = Path::new(origin);
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return refuse(format!("cannot refer to {origin}: it is no absolute path"));
    }
    if let Some(root) = root.filter(|root| !path.starts_with(root)) {
        return refuse(format!(
            "cannot refer to {origin}: the IPFS daemon refers only to files in {}, where its repository is",
            root.display()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traced(bytes: &[u8]) -> (u64, Vec<Digest>) {
        (bytes.len() as u64, bytes.chunks(PIECE_BYTES).map(digest).collect())
    }

    fn read(path: &Path, (bytes, pieces): &(u64, Vec<Digest>)) -> (Vec<u8>, Result<()>) {
        let mut all = Vec::new();
        let outcome = compare(path, *bytes, pieces, |piece| {
            all.extend_from_slice(&piece);
            true
        });
        (all, outcome)
    }

    #[test]
    fn a_file_is_handed_on_as_far_as_it_is_what_was_added() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut bytes = vec![1; 2 * PIECE_BYTES + 10];
        let was = traced(&bytes);
        std::fs::write(&path, &bytes).unwrap();
        let (all, outcome) = read(&path, &was);
        outcome.unwrap();
        assert!(all == bytes);

        bytes[PIECE_BYTES + 5] = 2;
        std::fs::write(&path, &bytes).unwrap();
        let (all, outcome) = read(&path, &was);
        assert_eq!(all.len(), PIECE_BYTES, "nothing of what is different");
        assert!(outcome.unwrap_err().message().contains("is not, or no longer, what was added"));

        // Somebody else's file, a folder, and nothing.
        std::fs::write(&path, b"secret").unwrap();
        assert!(read(&path, &was).1.is_err() && read(&path, &traced(b"guess!")).0.is_empty());
        assert!(read(folder.path(), &was).1.is_err());
        let missing = read(&folder.path().join("missing"), &was).1.unwrap_err();
        assert!(missing.message().contains("this peer has to see the files"), "{missing}");
        std::fs::write(&path, b"").unwrap();
        read(&path, &traced(b"")).1.unwrap();
    }

    #[test]
    fn files_that_the_daemon_cannot_refer_to_are_refused_by_their_path() {
        let root = Some(Path::new("/home/me"));
        check_origin("/home/me/data/file", root).unwrap();
        check_origin("/home/you/data/file", None).unwrap();
        for (origin, part) in [
            ("/home/melissa/file", "only to files in /home/me"),
            ("/home/me/../you/file", "no absolute path"),
            ("data/file", "no absolute path"),
        ] {
            let error = check_origin(origin, root).unwrap_err();
            assert!(error.message().contains(part), "{error}");
        }
    }
}
