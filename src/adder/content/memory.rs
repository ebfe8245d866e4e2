use async_trait::async_trait;
use bytes::Bytes;

use crate::adder::{Content, Entry, EntryKind};
use crate::error::Result;

/// Entries whose bytes are in memory, in the order in which they were added.
///
/// ```
/// use ipfs_cluster::adder::content::InMemory;
///
/// let content = InMemory::new().directory("site").file("site/index.html", "<h1>hello</h1>");
/// # let _ = content;
/// ```
#[derive(Debug, Default)]
pub struct InMemory {
    entries: Vec<(Entry, Bytes)>,
    /// How many were given.
    given: usize,
    current: Bytes,
}

impl InMemory {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file. Directories on the way to it need not be added.
    #[must_use]
    pub fn file(self, path: impl Into<String>, data: impl Into<Bytes>) -> Self {
        self.entry(Entry { path: path.into(), ..Entry::default() }, data)
    }

    /// Adds a directory, which may stay empty.
    #[must_use]
    pub fn directory(self, path: impl Into<String>) -> Self {
        self.entry(Entry { path: path.into(), kind: EntryKind::Directory, ..Entry::default() }, Bytes::new())
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, path: impl Into<String>, target: impl Into<String>) -> Self {
        let kind = EntryKind::Symlink(target.into());
        self.entry(Entry { path: path.into(), kind, ..Entry::default() }, Bytes::new())
    }

    /// Adds an entry as it is, with the bytes that it has if it is a file.
    #[must_use]
    pub fn entry(mut self, entry: Entry, data: impl Into<Bytes>) -> Self {
        self.entries.push((entry, data.into()));
        self
    }
}

#[async_trait]
impl Content for InMemory {
    async fn next(&mut self) -> Result<Option<Entry>> {
        self.current = Bytes::new();
        Ok(self.entries.get(self.given).map(|(entry, data)| {
            self.given += 1;
            if entry.kind == EntryKind::File {
                self.current = data.clone();
            }
            entry.clone()
        }))
    }

    async fn read(&mut self) -> Result<Option<Bytes>> {
        Ok(Some(std::mem::take(&mut self.current)).filter(|bytes| !bytes.is_empty()))
    }

    fn rewind(&mut self) -> bool {
        (self.given, self.current) = (0, Bytes::new());
        true
    }
}
