//! Directories of one root: names and what they link to, until nothing more can come into them.
//!
//! A directory needs all its entries before it can be written, and clients do not promise to send a directory in one
//! piece. So entries are kept. Where that becomes much, directories that the walk has left are written early, and an
//! entry that then still comes is an error. Lines about directories come after all others, children first, as in the
//! reference.

mod finish;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;

use super::dag::{Attributes, Part};
use super::naming::Naming;
use crate::adder::Root;
use crate::error::{Error, Result};
use crate::types::Cid;

/// Entries that are kept before directories are written early.
const KEPT_ENTRIES: usize = 65_536;
/// Memory for all directories of a root, in bytes: about three million entries.
const TREE_BYTES_MAX: usize = 512 * 1024 * 1024;
/// What an entry needs besides its name, in bytes: its CID, sizes, and its share of a tree.
const ENTRY_BYTES: usize = 160;
/// Directories within each other.
const DEPTH_MAX: usize = 1024;

/// An entry of a directory that is written.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) name: Box<str>,
    pub(super) cid: Box<[u8]>,
    pub(super) dag_bytes: u64,
}

/// A line about a directory, until its time comes.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) path: String,
    pub(super) cid: Cid,
    pub(super) dag_bytes: u64,
}

/// A directory that grows.
#[derive(Debug, Default)]
struct Directory {
    entries: BTreeMap<Box<str>, Child>,
    attributes: Attributes,
}

#[derive(Debug)]
enum Child {
    Open(Box<Directory>),
    /// A file or a symbolic link, or a directory that is written, with the lines about it and all below it.
    Done {
        cid: Box<[u8]>,
        dag_bytes: u64,
        directories: Option<Vec<Line>>,
    },
}

/// The directories of a root.
#[derive(Debug)]
pub(super) struct Tree {
    name: String,
    naming: Naming,
    root: Directory,
    /// Where the walk is.
    at: Vec<Box<str>>,
    entries: usize,
    /// Directories are written early from this number of entries on.
    entries_max: usize,
    bytes: usize,
}

impl Tree {
    /// An empty directory, which will be a root of this name.
    pub(super) fn new(name: &str, attributes: Attributes, naming: Naming) -> Self {
        Self {
            name: name.to_owned(),
            naming,
            root: Directory { attributes, ..Directory::default() },
            at: Vec::new(),
            entries: 0,
            entries_max: KEPT_ENTRIES,
            bytes: 0,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Adds a directory. One that is there already stays as it is.
    ///
    /// # Errors
    /// `InvalidInput` when something else has its name, or one above it.
    pub(super) fn add_directory(&mut self, path: &str, attributes: Attributes) -> Result<()> {
        let (parent, name) = self.parent_of(path)?;
        let at = parent.child(path, name)?;
        let is_new = match at {
            Slot::Vacant(slot) => {
                slot.insert(Child::Open(Box::new(Directory { attributes, ..Directory::default() })));
                true
            }
            Slot::Occupied(slot) => match slot.get() {
                Child::Open(_) => false,
                Child::Done { directories: Some(_), .. } => return Err(comes_too_late(path)),
                Child::Done { .. } => return Err(exists(path)),
            },
        };
        // The walk is in it now: what is in it is about to come.
        self.at.push(name.into());
        if is_new { self.count(name.len()) } else { Ok(()) }
    }

    /// Adds a file or a symbolic link.
    ///
    /// # Errors
    /// `InvalidInput` when its name is taken.
    pub(super) fn add(&mut self, path: &str, part: &Part) -> Result<()> {
        let (parent, name) = self.parent_of(path)?;
        match parent.child(path, name)? {
            Slot::Vacant(slot) => {
                let cid = part.cid.clone().into_boxed_slice();
                slot.insert(Child::Done { cid, dag_bytes: part.dag_bytes, directories: None });
            }
            Slot::Occupied(_) => return Err(exists(path)),
        }
        self.count(name.len())
    }

    fn count(&mut self, name_bytes: usize) -> Result<()> {
        self.entries += 1;
        self.bytes += name_bytes + ENTRY_BYTES;
        if self.bytes > TREE_BYTES_MAX {
            return Err(Error::invalid_input(format!(
                "too many entries in {:?}: its directories need more than {TREE_BYTES_MAX} bytes of memory, add them apart",
                self.name
            )));
        }
        Ok(())
    }

    /// The directory that a path is in, made where it is not there, and the path's last part.
    fn parent_of<'a>(&mut self, path: &'a str) -> Result<(&mut Directory, &'a str)> {
        let (parents, name) =
            path.rsplit_once('/').map_or((None, path), |(parents, name)| (Some(parents), name));
        let mut depth = 0;
        let mut made = 0;
        let mut made_bytes = 0;
        let mut directory = &mut self.root;
        for part in parents.into_iter().flat_map(|parents| parents.split('/')) {
            depth += 1;
            if depth > DEPTH_MAX {
                return Err(Error::invalid_input(format!(
                    "directories are more than {DEPTH_MAX} deep, add the inner ones apart"
                )));
            }
            let is_here = self.at.get(depth - 1).is_some_and(|at| **at == *part);
            if !is_here {
                self.at.truncate(depth - 1);
                self.at.push(part.into());
            }
            if !directory.entries.contains_key(part) {
                directory.entries.insert(part.into(), Child::Open(Box::default()));
                made += 1;
                made_bytes += part.len() + ENTRY_BYTES;
            }
            directory = match directory.entries.get_mut(part) {
                Some(Child::Open(inner)) => inner,
                Some(Child::Done { directories: Some(_), .. }) => return Err(comes_too_late(path)),
                _ => return Err(Error::invalid_input(format!("{part:?} of {path:?} is not a directory"))),
            };
        }
        self.at.truncate(depth);
        self.entries += made;
        self.bytes += made_bytes;
        Ok((directory, name))
    }
}

impl Directory {
    fn child(&mut self, path: &str, name: &str) -> Result<Slot<'_, Box<str>, Child>> {
        if name.is_empty() {
            return Err(Error::invalid_input(format!("path {path:?} has an empty part")));
        }
        Ok(self.entries.entry(name.into()))
    }
}

fn exists(path: &str) -> Error {
    Error::invalid_input(format!("directory already has entry by that name: {path:?}"))
}

fn comes_too_late(path: &str) -> Error {
    Error::invalid_input(format!(
        "{path:?} comes after its directory was left, which is too late in an upload this large: send each directory in one piece"
    ))
}

impl From<Line> for Root {
    fn from(line: Line) -> Self {
        Self { name: line.path, cid: line.cid, dag_bytes: line.dag_bytes }
    }
}
