//! Making nodes of hashed leaves, handing all blocks on, and telling what became of each entry.

use tokio::sync::mpsc;

use super::Settings;
use super::batch::{Leaf, Started, Step};
use super::blocks::Blocks;
use super::dag::{self, Attributes, Part};
use super::layout::Layout;
use super::tree::{Line, Tree};
use crate::adder::{DagBlock, Lines, Root};
use crate::error::{Error, Result};
use crate::types::{Added, Cid};

/// Roots of one add. Each is a pin.
const ROOTS_MAX: usize = 65_536;

/// Takes steps in their order.
pub(super) struct Writer<'a> {
    settings: &'a Settings,
    lines: &'a Lines,
    blocks: Blocks<'a>,
    /// The file that leaves belong to.
    file: Option<Layout>,
    /// The directory that is, or will be, a root.
    tree: Option<Tree>,
    roots: Vec<Root>,
    made: Vec<DagBlock>,
    had_entry: bool,
}

impl<'a> Writer<'a> {
    pub(super) fn new(settings: &'a Settings, lines: &'a Lines, blocks: Blocks<'a>) -> Self {
        let tree = settings.wrap.then(|| Tree::new("", Attributes::default(), settings.naming));
        let (roots, made) = (Vec::new(), Vec::new());
        Self { settings, lines, blocks, file: None, tree, roots, made, had_entry: false }
    }

    /// Returns when all that was read is handed on.
    pub(super) async fn run(mut self, mut batches: mpsc::Receiver<Started>) -> Result<Vec<Root>> {
        while let Some(batch) = batches.recv().await {
            let (steps, permit) = batch.steps().await?;
            for step in steps {
                self.step(step).await?;
            }
            drop(permit);
        }
        if let Some(tree) = self.tree.take().filter(|_| self.had_entry) {
            self.finish_tree(tree).await?;
        }
        if self.roots.is_empty() {
            return Err(Error::invalid_input("nothing to add: no file and no directory came"));
        }
        Ok(self.roots)
    }

    async fn step(&mut self, step: Step<Leaf>) -> Result<()> {
        match step {
            Step::Leaf(Leaf { block, file_bytes }) => {
                let (layout, naming) = (self.settings.layout, self.settings.naming);
                let file = self.file.get_or_insert_with(|| Layout::new(layout, naming));
                file.add(block, file_bytes, &mut self.made);
                self.blocks.put_all(&mut self.made).await
            }
            Step::FileEnd { path, attributes } => {
                let (layout, naming) = (self.settings.layout, self.settings.naming);
                let file = self.file.take().unwrap_or_else(|| Layout::new(layout, naming));
                let root = file.finish(attributes, &mut self.made);
                self.blocks.put_all(&mut self.made).await?;
                self.add(path, root).await
            }
            Step::Symlink { path, target, attributes } => {
                let block = self.settings.naming.dag_pb(dag::symlink(&target, attributes), 0);
                let root =
                    Part { cid: block.block.cid.to_bytes(), dag_bytes: block.dag_bytes, file_bytes: 0 };
                self.blocks.put(block).await?;
                self.add(path, root).await
            }
            Step::Directory { path, attributes } => self.add_directory(&path, attributes).await,
        }
    }

    /// Adds a file or symbolic link to the directory it is in, or makes a root of it.
    async fn add(&mut self, path: String, part: Part) -> Result<()> {
        let below = self.enter(&path).await?;
        let is_first = !std::mem::replace(&mut self.had_entry, true);
        match (&mut self.tree, below) {
            (Some(tree), Some(below)) => tree.add(below, &part)?,
            _ => {
                self.add_root(Root { name: path.clone(), cid: cid_of(&part)?, dag_bytes: part.dag_bytes })?
            }
        }
        if self.settings.shard {
            self.put_leftovers(is_first, &part).await?;
        }
        self.tell(Line { cid: cid_of(&part)?, dag_bytes: part.dag_bytes, path }).await;
        match &mut self.tree {
            Some(tree) => tree.relieve(&mut self.blocks).await,
            None => Ok(()),
        }
    }

    async fn add_directory(&mut self, path: &str, attributes: Attributes) -> Result<()> {
        if self.settings.wrap || path.contains('/') {
            if let (Some(below), Some(tree)) = (self.enter(path).await?, &mut self.tree) {
                tree.add_directory(below, attributes)?;
            }
        } else if self.tree.as_ref().is_none_or(|tree| tree.name() != path) {
            self.leave().await?;
            self.tree = Some(Tree::new(path, attributes, self.settings.naming));
        }
        self.had_entry = true;
        match &mut self.tree {
            Some(tree) => tree.relieve(&mut self.blocks).await,
            None => Ok(()),
        }
    }

    /// Goes to the root that a path is in. What is below it comes back; None when the path is a root itself.
    async fn enter<'p>(&mut self, path: &'p str) -> Result<Option<&'p str>> {
        if self.settings.wrap {
            return Ok(Some(path));
        }
        let Some((root, below)) = path.split_once('/') else {
            self.leave().await?;
            return Ok(None);
        };
        if self.tree.as_ref().is_none_or(|tree| tree.name() != root) {
            self.leave().await?;
            self.tree = Some(Tree::new(root, Attributes::default(), self.settings.naming));
        }
        Ok(Some(below))
    }

    async fn leave(&mut self) -> Result<()> {
        match self.tree.take() {
            Some(tree) => self.finish_tree(tree).await,
            None => Ok(()),
        }
    }

    async fn finish_tree(&mut self, tree: Tree) -> Result<()> {
        let lines = tree.finish(&mut self.blocks).await?;
        let mut root = None;
        for line in lines {
            root = Some(Root { name: line.path.clone(), cid: line.cid, dag_bytes: line.dag_bytes });
            self.tell(line).await;
        }
        root.map_or(Ok(()), |root| self.add_root(root))
    }

    fn add_root(&mut self, root: Root) -> Result<()> {
        if self.roots.len() >= ROOTS_MAX {
            return Err(Error::invalid_input(format!(
                "more than {ROOTS_MAX} entries at the top: wrap them with a directory"
            )));
        }
        self.roots.push(root);
        Ok(())
    }

    /// The reference builds its directories in a mutable file system, of which two blocks remain: an empty directory, and
    /// for a file that is a root one that names it by its CID. Nobody needs them, but the CIDs of shards depend on them.
    async fn put_leftovers(&mut self, is_first: bool, part: &Part) -> Result<()> {
        let naming = self.settings.naming;
        if is_first {
            self.blocks.put(naming.dag_pb(dag::directory(&[], Attributes::default()), 0)).await?;
        }
        if self.tree.is_none() {
            let name = cid_of(part)?.to_string().into_boxed_str();
            let cid = part.cid.clone().into_boxed_slice();
            let entry = super::tree::Named { name, cid, dag_bytes: part.dag_bytes };
            let directory = dag::directory(&[entry], Attributes::default());
            self.blocks.put(naming.dag_pb(directory, part.dag_bytes)).await?;
        }
        Ok(())
    }

    async fn tell(&mut self, line: Line) {
        let allocations = self.blocks.allocations();
        self.lines
            .tell(Added { name: line.path, cid: Some(line.cid), bytes: 0, size: line.dag_bytes, allocations })
            .await;
    }
}

fn cid_of(part: &Part) -> Result<Cid> {
    Cid::try_from(part.cid.as_slice())
        .map_err(|source| Error::internal(format!("a CID of ours is not one: {source}")).component("adder"))
}
