//! Writing directories, those below first.

use std::collections::btree_map::IntoIter;

use super::{Child, Directory, ENTRY_BYTES, KEPT_ENTRIES, Line, Named, Tree};
use crate::adder::import::blocks::Blocks;
use crate::adder::import::dag::{self, Attributes};
use crate::adder::import::hamt::Hamt;
use crate::adder::import::naming::Naming;
use crate::error::Result;
use crate::types::Cid;

/// A directory becomes a trie from this size on: bytes of its names and CIDs. That is Kubo 0.39's rule; the reference's
/// newer library still makes one block of exactly so many.
const SHARDED_FROM_BYTES: usize = 256 * 1024;

/// A directory that waits for those below it.
struct Frame {
    name: Box<str>,
    path: String,
    attributes: Attributes,
    left: IntoIter<Box<str>, Child>,
    done: Vec<Named>,
    lines: Vec<Line>,
}

impl Frame {
    fn new(name: Box<str>, path: String, directory: Directory) -> Self {
        let left = directory.entries.into_iter();
        let done = Vec::with_capacity(left.len());
        Self { name, path, attributes: directory.attributes, left, done, lines: Vec::new() }
    }
}

impl Tree {
    /// Writes directories that the walk has left, when much is kept.
    pub(in crate::adder::import) async fn relieve(&mut self, blocks: &mut Blocks<'_>) -> Result<()> {
        if self.entries < self.entries_max {
            return Ok(());
        }
        let mut path = self.name.clone();
        let mut directory = &mut self.root;
        let mut at = self.at.iter();
        loop {
            let here = at.next();
            let left: Vec<Box<str>> = directory
                .entries
                .iter()
                .filter(|(name, child)| matches!(child, Child::Open(_)) && Some(*name) != here)
                .map(|(name, _)| name.clone())
                .collect();
            for name in left {
                let Some(Child::Open(inner)) = directory.entries.remove(&name) else { continue };
                let (entry, lines) = finish(join(&path, &name), *inner, self.naming, blocks).await?;
                let done =
                    Child::Done { cid: entry.cid, dag_bytes: entry.dag_bytes, directories: Some(lines) };
                directory.entries.insert(name, done);
            }
            let Some(here) = here else { break };
            path = join(&path, here);
            directory = match directory.entries.get_mut(here) {
                Some(Child::Open(inner)) => inner,
                _ => break,
            };
        }
        (self.entries, self.bytes) = self.root.held();
        // What is kept now is in the way of the walk. To look again soon would be to look at it again and again.
        self.entries_max = KEPT_ENTRIES.max(self.entries * 2);
        Ok(())
    }

    /// Writes all of them. The lines are about every directory, the root's is the last.
    pub(in crate::adder::import) async fn finish(self, blocks: &mut Blocks<'_>) -> Result<Vec<Line>> {
        Ok(finish(self.name, self.root, self.naming, blocks).await?.1)
    }
}

impl Directory {
    /// Entries and bytes that are kept.
    fn held(&self) -> (usize, usize) {
        let mut held = (0, 0);
        let mut open = vec![self];
        while let Some(directory) = open.pop() {
            held.0 += directory.entries.len();
            for (name, child) in &directory.entries {
                held.1 += name.len() + ENTRY_BYTES;
                match child {
                    Child::Open(inner) => open.push(inner),
                    Child::Done { directories, .. } => {
                        let lines = directories.iter().flatten();
                        held.1 += lines.map(|line| line.path.len() + ENTRY_BYTES).sum::<usize>();
                    }
                }
            }
        }
        held
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") }
}

/// Writes a directory and all below it, without recursion: how deep they are is not ours to choose.
async fn finish(
    path: String,
    directory: Directory,
    naming: Naming,
    blocks: &mut Blocks<'_>,
) -> Result<(Named, Vec<Line>)> {
    let mut above: Vec<Frame> = Vec::new();
    let mut frame = Frame::new(Box::default(), path, directory);
    loop {
        match frame.left.next() {
            Some((name, Child::Open(inner))) => {
                let inner = Frame::new(name.clone(), join(&frame.path, &name), *inner);
                above.push(std::mem::replace(&mut frame, inner));
            }
            Some((name, Child::Done { cid, dag_bytes, directories })) => {
                frame.done.push(Named { name, cid, dag_bytes });
                frame.lines.extend(directories.into_iter().flatten());
            }
            None => {
                let (cid, dag_bytes) = write(&frame.done, frame.attributes, naming, blocks).await?;
                let named = Named { name: frame.name, cid: cid.to_bytes().into_boxed_slice(), dag_bytes };
                let mut lines = frame.lines;
                lines.push(Line { path: frame.path, cid, dag_bytes });
                let Some(mut parent) = above.pop() else { return Ok((named, lines)) };
                parent.done.push(named);
                parent.lines.append(&mut lines);
                frame = parent;
            }
        }
    }
}

/// Writes one directory, whose entries are in the order of their names.
async fn write(
    entries: &[Named],
    attributes: Attributes,
    naming: Naming,
    blocks: &mut Blocks<'_>,
) -> Result<(Cid, u64)> {
    let estimate: usize = entries.iter().map(|entry| entry.name.len() + entry.cid.len()).sum();
    let block = if estimate < SHARDED_FROM_BYTES {
        let below = entries.iter().fold(0, |sum: u64, entry| sum.saturating_add(entry.dag_bytes));
        naming.dag_pb(dag::directory(entries, attributes), below)
    } else {
        // A trie has no place for attributes in Kubo 0.39, whose CIDs these are.
        let mut hamt = Hamt::new(entries)?;
        let mut made = Vec::new();
        while hamt.advance(naming, &mut made) {
            blocks.put_all(&mut made).await?;
        }
        hamt.finish(naming)
    };
    let root = (block.block.cid, block.dag_bytes);
    blocks.put(block).await?;
    Ok(root)
}
