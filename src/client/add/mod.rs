//! Content to the cluster: what is uploaded, and the call that does it.

mod body;
mod encode;
mod resume;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use reqwest::Url;
use serde::de::DeserializeOwned;
use tokio::io::AsyncRead;

pub(super) use self::body::Outgoing;
pub use self::resume::ResumableCar;
use self::walk::{Named, Which};
use super::error::ApiError;
use super::{Client, Request};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{AddFormat, AddOptions, Added};

type Reader = Box<dyn AsyncRead + Send + Unpin>;

/// What is uploaded with [`Client::add`]: files, folders, URLs, bytes, in this order.
///
/// Nothing is read before the upload begins, and never more is in memory than is on its way, about 10 MiB.
#[derive(Debug, Default)]
#[must_use = "an upload is nothing until it is added"]
pub struct Upload {
    given: Vec<Given>,
    which: Which,
    sent: Sent,
}

/// What was given, before anything was looked at.
#[derive(Debug)]
enum Given {
    Path(PathBuf),
    Url(Url),
    Bytes(String, Bytes),
    Reader(String, OneReader),
    Rest { path: PathBuf, from: u64, to: u64 },
}

/// What is uploaded, with its name.
#[derive(Debug)]
enum Source {
    Path(Named),
    Url(Url, Vec<u8>),
    Bytes {
        name: Vec<u8>,
        bytes: Bytes,
    },
    Reader {
        name: Vec<u8>,
        reader: OneReader,
    },
    /// Part of a file.
    Rest {
        named: Named,
        from: u64,
        to: u64,
    },
}

/// A reader, until somebody reads it.
#[derive(Clone)]
struct OneReader(Arc<Mutex<Option<Reader>>>);

impl fmt::Debug for OneReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneReader")
    }
}

impl Upload {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A file, a symbolic link (as such), or with [`recursive`](Self::recursive) a folder with all that is in it,
    /// sorted by name. It is added under its last name.
    pub fn path(mut self, path: impl Into<PathBuf>) -> Self {
        self.given.push(Given::Path(path.into()));
        self
    }

    /// What a GET of an `http` or `https` address gives, under the last name of its path, or of its host.
    ///
    /// # Errors
    /// `InvalidInput` for what is no such address.
    pub fn url(mut self, url: &str) -> Result<Self> {
        let invalid =
            |why: &str| Error::invalid_input(format!("error parsing path: {why}")).component("client");
        let url = Url::parse(url).map_err(|error| invalid(&error.to_string()).with_source(error))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid(&format!("{url} is neither http nor https")));
        }
        self.given.push(Given::Url(url));
        Ok(self)
    }

    /// Bytes, under a name.
    pub fn bytes(mut self, name: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        self.given.push(Given::Bytes(name.into(), bytes.into()));
        self
    }

    /// What is read, under a name: standard input, or whatever a program makes. It can be read once, so when a host
    /// vanishes in the middle, no other is asked.
    pub fn reader(
        mut self,
        name: impl Into<String>,
        reader: impl AsyncRead + Send + Unpin + 'static,
    ) -> Self {
        let reader: Reader = Box::new(reader);
        self.given.push(Given::Reader(name.into(), OneReader(Arc::new(Mutex::new(Some(reader))))));
        self
    }

    /// Folders with all that is in them; without it a folder is an error.
    pub fn recursive(mut self, recursive: bool) -> Self {
        self.which.recursive = recursive;
        self
    }

    /// Also what begins with a dot, inside of folders. What is named by [`path`](Self::path) is always meant.
    pub fn hidden(mut self, hidden: bool) -> Self {
        self.which.hidden = hidden;
        self
    }

    /// How far the upload is, to be asked while it runs.
    pub fn sent(&self) -> Sent {
        self.sent.clone()
    }

    /// Bytes that there will be to send, none where that is not known before: of URLs and readers. Walks all folders.
    pub fn total_bytes(&self) -> impl Future<Output = Option<u64>> + Send + 'static {
        let mut known = Some(0);
        let mut paths = Vec::new();
        for given in &self.given {
            match given {
                Given::Path(path) => paths.push(path.clone()),
                Given::Bytes(_, bytes) => known = known.map(|known| known + bytes.len() as u64),
                Given::Rest { from, to, .. } => {
                    known = known.map(|known| known + to.saturating_sub(*from));
                }
                Given::Url(_) | Given::Reader(..) => known = None,
            }
        }
        let which = self.which;
        async move {
            let known = known?;
            let walk = move || paths.iter().map(|path| walk::file_bytes(path, which)).sum::<u64>();
            Some(known + tokio::task::spawn_blocking(walk).await.ok()?)
        }
    }

    /// Finds out what can be known to fail before anything is sent, and under which names everything is added.
    async fn prepare(self, options: &AddOptions) -> Result<Outgoing> {
        let invalid = |text: &str| Err(Error::invalid_input(text).component("client"));
        if self.given.is_empty() {
            return invalid("need at least one path");
        }
        if options.format == AddFormat::Car && (options.wrap || self.given.len() > 1) {
            return invalid("only a single CAR file can be added and wrap-with-directory is not supported");
        }
        // Nobody else finds again what comes from elsewhere. The reference's client also refuses files.
        if options.no_copy
            && self.given.iter().any(|given| matches!(given, Given::Bytes(..) | Given::Reader(..)))
        {
            return invalid("nocopy option is only valid for files and URLs");
        }
        let Self { given, which, sent } = self;
        let named = move || given.into_iter().map(|given| given.named(which)).collect::<Result<Vec<_>>>();
        let sources = tokio::task::spawn_blocking(named).await.map_err(|error| {
            Error::internal(format!("looking at files ended: {error}")).component("client")
        })??;
        let mut names = BTreeSet::new();
        for name in sources.iter().map(Source::name) {
            if !names.insert(name) {
                let name = String::from_utf8_lossy(name);
                return invalid(&format!(
                    "two paths are both called {name}: only one of them would be there; add them one by one"
                ));
            }
        }
        Ok(Outgoing::new(sources, which, sent))
    }
}

impl From<&Path> for Upload {
    fn from(path: &Path) -> Self {
        Self::new().path(path)
    }
}

impl From<PathBuf> for Upload {
    fn from(path: PathBuf) -> Self {
        Self::new().path(path)
    }
}

impl Given {
    fn named(self, which: Which) -> Result<Source> {
        Ok(match self {
            Self::Path(path) => {
                let named = walk::named(&path)?;
                walk::check(&named.path, which)?;
                Source::Path(named)
            }
            Self::Url(url) => {
                let name = name_of(&url);
                Source::Url(url, name)
            }
            Self::Bytes(name, bytes) => Source::Bytes { name: name.into_bytes(), bytes },
            Self::Reader(name, reader) => Source::Reader { name: name.into_bytes(), reader },
            Self::Rest { path, from, to } => Source::Rest { named: walk::named(&path)?, from, to },
        })
    }
}

impl Source {
    fn name(&self) -> &[u8] {
        match self {
            Self::Path(Named { name, .. })
            | Self::Rest { named: Named { name, .. }, .. }
            | Self::Url(_, name) => name,
            Self::Bytes { name, .. } | Self::Reader { name, .. } => name,
        }
    }
}

/// The last name of a URL's path, or its host where there is none.
fn name_of(url: &Url) -> Vec<u8> {
    let path = unescaped(url.path().trim_end_matches('/'));
    let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    match last {
        b"" | b"." | b".." => url.host_str().unwrap_or_default().as_bytes().to_vec(),
        last => last.to_vec(),
    }
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits =
            after.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

/// How far an upload is. Clones tell of the same one.
#[derive(Clone, Debug, Default)]
pub struct Sent(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    bytes: AtomicU64,
    is_all: AtomicBool,
}

impl Sent {
    /// Bytes of content that went on their way. Begins anew when another host has to be asked.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Whether there is nothing left to send.
    pub fn is_all(&self) -> bool {
        self.0.is_all.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: u64) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn restart(&self) {
        self.0.bytes.store(0, Ordering::Relaxed);
        self.0.is_all.store(false, Ordering::Relaxed);
    }

    fn finish(&self) {
        self.0.is_all.store(true, Ordering::Relaxed);
    }
}

impl Client {
    /// Uploads content and has it pinned. Gives what was added while it is being sent, the root last; a stream that ends
    /// without an error means that everything is in the cluster, and that its root is in the pinset (without
    /// [`no_pin`](AddOptions::no_pin)). The daemons may still be pinning it then, see [`Client::status`].
    ///
    /// Nothing happens before the stream is polled, and it has to be polled for the upload to go on. Dropping it ends
    /// the upload. Another host is asked when no answer came and everything can be read from its beginning again.
    ///
    /// ```no_run
    /// use futures::TryStreamExt as _;
    /// use ipfs_cluster::client::{Client, Upload};
    /// use ipfs_cluster::types::AddOptions;
    ///
    /// # async fn run(client: Client) -> ipfs_cluster::Result<()> {
    /// let photos = Upload::new().path("photos").recursive(true);
    /// let mut added = client.add(photos, &AddOptions::default());
    /// while let Some(file) = added.try_next().await? {
    ///     println!("{:?} {}", file.cid, file.name);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As in the [module documentation](crate::client), `Remote` for what went wrong while it was added, and before anything is
    /// sent `InvalidInput` for options that cannot go together, two things of one name, and folders that are not
    /// [`recursive`](Upload::recursive). For files and URLs that cannot be read `NotFound`, `Io`, and `Conflict` for
    /// a file that became shorter meanwhile; then the upload has ended, and nothing is pinned. The first error ends the
    /// stream.
    pub fn add(&self, upload: impl Into<Upload>, options: &AddOptions) -> BoxStream<'static, Result<Added>> {
        self.add_as(upload, options)
    }

    /// As [`add`](Self::add), with the lines read as any type: `Box<serde_json::value::RawValue>` gives the text as it
    /// came.
    ///
    /// # Errors
    /// As there.
    pub fn add_as<T: DeserializeOwned + Send + 'static>(
        &self,
        upload: impl Into<Upload>,
        options: &AddOptions,
    ) -> BoxStream<'static, Result<T>> {
        let (upload, options) = (upload.into(), options.clone());
        let transport = Arc::clone(&self.transport);
        let request = Request::add(&options, upload.which.recursive, upload.which.hidden);
        let lines = async_stream::try_stream! {
            let body = upload.prepare(&options).await?;
            let _ends_with_this = body.guard();
            // What the connection says of a body that ended is not why it did.
            let cause = |error: Error| match body.failure() {
                Some(failure) if ApiError::of(&error).is_none() => failure,
                _ => error,
            };
            let answer = transport.upload(&request, &body).await.map_err(cause)?;
            let mut lines = answer.or_refusal().await.map_err(cause)?.items::<T>();
            while let Some(line) = lines.next().await {
                yield line.map_err(cause)?;
            }
            if !body.is_whole() {
                let text = "the answer ended before everything was sent: it cannot have been added";
                Err(cause(Error::new(ErrorKind::Remote, text).component("client")))?;
            }
        };
        lines.boxed()
    }
}
