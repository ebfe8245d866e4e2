//! How the leaves of a file hang together. Only the way from the root to the newest leaf is kept.
//!
//! Blocks come out in the order in which the reference has them, which shards depend on: each node as soon as it is known
//! that it will not grow, that is before the leaf that comes after it.

use super::dag::{self, Attributes, Part};
use super::naming::Naming;
use crate::adder::DagBlock;
use crate::types::AddLayout;

/// Links of a node, as in the reference.
pub(super) const LINKS_MAX: usize = 174;
/// Subtrees of the same depth of a node in the trickle layout.
const SUBTREES_PER_DEPTH: usize = 4;

/// A file that grows.
#[derive(Debug)]
pub(super) struct Layout {
    naming: Naming,
    shape: Shape,
}

#[derive(Debug)]
enum Shape {
    /// Open nodes, from the one that leaves are added to up to the root.
    Balanced(Vec<Vec<Part>>),
    /// Open nodes, from the root down to the one that leaves are added to.
    Trickle(Vec<Branch>),
}

/// An open node of the trickle layout: leaves first, then subtrees, four of each depth.
#[derive(Debug, Default)]
struct Branch {
    parts: Vec<Part>,
    /// Its subtrees are less deep than this; the root's depth has no limit.
    depth_max: Option<usize>,
    subtrees: usize,
}

impl Layout {
    pub(super) fn new(layout: AddLayout, naming: Naming) -> Self {
        let shape = match layout {
            AddLayout::Balanced => Shape::Balanced(vec![Vec::new()]),
            AddLayout::Trickle => Shape::Trickle(vec![Branch::default()]),
        };
        Self { naming, shape }
    }

    /// Adds a leaf with so many bytes of the file. It goes to `out` too, behind the nodes that it finds full.
    pub(super) fn add(&mut self, leaf: DagBlock, file_bytes: u64, out: &mut Vec<DagBlock>) {
        let part = part(&leaf, file_bytes);
        match &mut self.shape {
            Shape::Balanced(levels) => {
                close_full(levels, self.naming, out);
                if let Some(lowest) = levels.first_mut() {
                    lowest.push(part);
                }
            }
            Shape::Trickle(branches) => {
                make_room(branches, self.naming, out);
                if let Some(branch) = branches.last_mut() {
                    branch.parts.push(part);
                }
            }
        }
        out.push(leaf);
    }

    /// Closes what is open. The root comes last, and what it is comes back.
    ///
    /// A balanced file with one leaf is that leaf, which then already has the attributes.
    pub(super) fn finish(self, attributes: Attributes, out: &mut Vec<DagBlock>) -> Part {
        let naming = self.naming;
        match self.shape {
            Shape::Balanced(levels) => {
                let top = levels.len().saturating_sub(1);
                let mut carried = None;
                for (height, mut parts) in levels.into_iter().enumerate() {
                    parts.extend(carried.take());
                    carried = match <[Part; 1]>::try_from(parts) {
                        Ok([only]) if top == 0 => Some(only),
                        Ok(parts) => Some(close(&parts, naming, Attributes::default(), out)),
                        Err(parts) if height == top => Some(close(&parts, naming, attributes, out)),
                        Err(parts) => Some(close(&parts, naming, Attributes::default(), out)),
                    };
                }
                carried.unwrap_or_else(|| close(&[], naming, attributes, out))
            }
            Shape::Trickle(mut branches) => {
                while branches.len() > 1 {
                    close_branch(&mut branches, naming, out);
                }
                let parts = branches.pop().map(|root| root.parts).unwrap_or_default();
                close(&parts, naming, attributes, out)
            }
        }
    }
}

fn part(block: &DagBlock, file_bytes: u64) -> Part {
    Part { cid: block.block.cid.to_bytes(), dag_bytes: block.dag_bytes, file_bytes }
}

fn close(parts: &[Part], naming: Naming, attributes: Attributes, out: &mut Vec<DagBlock>) -> Part {
    let below = parts.iter().fold(0, |sum: u64, part| sum.saturating_add(part.dag_bytes));
    let node = naming.dag_pb(dag::file(parts, attributes), below);
    let part = part(&node, parts.iter().map(|part| part.file_bytes).sum());
    out.push(node);
    part
}

/// Nodes that are full get a parent, before what does not fit into them comes.
fn close_full(levels: &mut Vec<Vec<Part>>, naming: Naming, out: &mut Vec<DagBlock>) {
    let mut height = 0;
    while levels.get(height).is_some_and(|parts| parts.len() >= LINKS_MAX) {
        let parts = std::mem::take(&mut levels[height]);
        let node = close(&parts, naming, Attributes::default(), out);
        height += 1;
        match levels.get_mut(height) {
            Some(parent) => parent.push(node),
            None => levels.push(vec![node]),
        }
    }
}

/// Goes to the node that takes the next leaf: closes those that take nothing more, opens the next subtree.
fn make_room(branches: &mut Vec<Branch>, naming: Naming, out: &mut Vec<DagBlock>) {
    while let Some(branch) = branches.last() {
        if branch.parts.len() < LINKS_MAX {
            return;
        }
        let depth = 1 + branch.subtrees / SUBTREES_PER_DEPTH;
        if branch.depth_max.is_none_or(|max| depth < max) {
            branches.push(Branch { depth_max: Some(depth), ..Branch::default() });
        } else {
            close_branch(branches, naming, out);
        }
    }
}

fn close_branch(branches: &mut Vec<Branch>, naming: Naming, out: &mut Vec<DagBlock>) {
    if let Some(branch) = branches.pop() {
        let node = close(&branch.parts, naming, Attributes::default(), out);
        if let Some(parent) = branches.last_mut() {
            parent.parts.push(node);
            parent.subtrees += 1;
        }
    }
}
