//! The set of a peer that does not run: what an operator asks of it.

use std::io::Write;
use std::sync::Arc;

use super::COMPONENT;
use super::key;
use super::node::Node;
use super::records::{self, BLOCKS, META, META_DIRTY, META_FORMAT};
use super::wire::corrupt;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Batch, Durability, Storage};
use crate::types::Cid;

/// What is on disk of a set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CrdtInfo {
    /// Blocks that no other block links to, in ascending order, with their heights.
    pub heads: Vec<(Cid, u64)>,
    /// Whether some of the DAG may be missing below them, which the next run looks into.
    pub is_dirty: bool,
}

impl CrdtInfo {
    /// The greatest height of a head; 0 if there is none.
    pub fn max_height(&self) -> u64 {
        self.heads.iter().map(|(_, height)| *height).max().unwrap_or(0)
    }
}

/// The set in a store that nobody else has open. All calls block.
#[derive(Debug)]
pub struct CrdtStore(Arc<dyn Storage>);

impl CrdtStore {
    /// Takes a store, which may be empty.
    ///
    /// # Errors
    /// `Unsupported` when a newer program wrote it; `Corrupt`, `Io`.
    pub fn open(storage: Arc<dyn Storage>) -> Result<Self> {
        match storage.get(META, META_FORMAT)?.as_deref() {
            None | Some(&[records::FORMAT]) => Ok(Self(storage)),
            Some(&[format]) => Err(Error::new(
                ErrorKind::Unsupported,
                format!("the stored crdt has format {format}, this program reads {}", records::FORMAT),
            )
            .component(COMPONENT)),
            Some(_) => Err(corrupt("the format of the stored crdt is unreadable")),
        }
    }

    /// Heads and mark.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn info(&self) -> Result<CrdtInfo> {
        let snapshot = self.0.snapshot()?;
        let heads = records::heads(&*snapshot)?;
        Ok(CrdtInfo {
            heads: heads.into_iter().map(|head| (head.cid, head.height)).collect(),
            is_dirty: self.0.get(META, META_DIRTY)?.is_some(),
        })
    }

    /// Marks the set, so that the next run looks through the whole DAG, or takes the mark away. On disk when it returns.
    ///
    /// # Errors
    /// `Io`, `StorageFull`.
    pub fn set_dirty(&self, dirty: bool) -> Result<()> {
        let mut batch = Batch::new();
        if dirty {
            batch.put(META, META_DIRTY, Vec::new());
        } else {
            batch.delete(META, META_DIRTY);
        }
        self.0.write(batch, Durability::Synced)
    }

    /// Writes the DAG in the language of Graphviz, as the reference does, and says how many blocks it has. Blocks that
    /// are not here are named by those that link to them and left out. Memory is an eighth of a byte a block, and what is
    /// open at once.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn write_dot(&self, to: &mut (dyn Write + Send)) -> Result<u64> {
        let failed = |source| Error::io("writing the graph", source);
        let heads = self.info()?.heads;
        let mut visited = Visited::default();
        let mut blocks = 0;
        writeln!(to, "digraph CRDTDAG {{\nsubgraph heads {{").map_err(failed)?;
        for (head, _) in &heads {
            writeln!(to, "{head}").map_err(failed)?;
        }
        writeln!(to, "}}").map_err(failed)?;
        // Depth first, the first link first.
        let mut open: Vec<Cid> = heads.iter().rev().map(|(head, _)| *head).collect();
        while let Some(cid) = open.pop() {
            let Some(digest) = key::block_digest(&cid) else { continue };
            let Some(id) = records::block_id(&*self.0, &digest)? else { continue };
            if !visited.insert(id.number) {
                continue;
            }
            let Some(block) = self.0.get(BLOCKS, &digest)? else { continue };
            let node = Node::parse(cid, block)?;
            write_node(to, &node).map_err(failed)?;
            open.extend(node.links.iter().rev());
            blocks += 1;
        }
        writeln!(to, "}}").map_err(failed)?;
        Ok(blocks)
    }
}

fn write_node(to: &mut (dyn Write + Send), node: &Node) -> std::io::Result<()> {
    let name = node.cid.to_string();
    let short = &name[name.len().saturating_sub(4)..];
    let (added, removed) = (node.delta.elements.len(), node.delta.tombstones.len());
    writeln!(to, "{name} [label=\"{} | {short}: +{added} -{removed}\"]", node.delta.priority)?;
    write!(to, "{name} -> {{")?;
    for link in &node.links {
        write!(to, "{link} ")?;
    }
    writeln!(to, "}}\nsubgraph sg_{name} {{")?;
    for link in &node.links {
        writeln!(to, "{link}")?;
    }
    writeln!(to, "}}")
}

/// Blocks by their numbers, which are dense.
#[derive(Default)]
struct Visited(Vec<u64>);

impl Visited {
    /// Whether it was not there yet.
    fn insert(&mut self, number: u64) -> bool {
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        let is_new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_new_once() {
        let mut visited = Visited::default();
        for number in [0, 63, 64, 1000] {
            assert!(visited.insert(number) && !visited.insert(number));
        }
        assert!(visited.insert(1));
    }
}
