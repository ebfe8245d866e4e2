//! Steps of an import, many at a time, so that hashing them is worth a way to another thread.

use bytes::Bytes;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

use super::dag::{self, Attributes, Kind};
use super::naming::Naming;
use crate::adder::DagBlock;
use crate::error::{Error, Result};

/// A batch is sent on when it has so many bytes.
const BATCH_BYTES: usize = 1024 * 1024;
/// Or so many steps.
const BATCH_STEPS: usize = 1024;
/// Less than this is hashed at once, without a way to another thread. In bytes.
const IN_PLACE_BYTES: usize = 16 * 1024;
/// What a step weighs besides its bytes.
const STEP_BYTES: usize = 256;

/// What comes next.
#[derive(Debug)]
pub(super) enum Step<L> {
    Leaf(L),
    /// The leaves since the last entry are this file.
    FileEnd {
        path: String,
        attributes: Attributes,
    },
    Directory {
        path: String,
        attributes: Attributes,
    },
    Symlink {
        path: String,
        target: String,
        attributes: Attributes,
    },
}

/// A piece of a file, and what becomes of it.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) data: Bytes,
    pub(super) form: Form,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    Raw,
    Node(Kind, Attributes),
}

/// A leaf, and bytes of the file in it.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) block: DagBlock,
    pub(super) file_bytes: u64,
}

/// Steps that are collected.
#[derive(Debug, Default)]
pub(super) struct Batch {
    steps: Vec<Step<Chunk>>,
    weight: usize,
    leaf_bytes: usize,
}

impl Batch {
    pub(super) fn push(&mut self, step: Step<Chunk>) {
        self.weight += STEP_BYTES
            + match &step {
                Step::Leaf(chunk) => {
                    self.leaf_bytes += chunk.data.len();
                    chunk.data.len()
                }
                Step::FileEnd { path, .. } | Step::Directory { path, .. } => path.len(),
                Step::Symlink { path, target, .. } => path.len() + target.len(),
            };
        self.steps.push(step);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.weight >= BATCH_BYTES || self.steps.len() >= BATCH_STEPS
    }

    /// Memory that it needs, in bytes.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// Starts hashing. The permit is for the memory, until all of it is used.
    pub(super) fn start(self, naming: Naming, permit: OwnedSemaphorePermit) -> Started {
        let steps = self.steps;
        let work = move || steps.into_iter().map(|step| hashed(step, naming)).collect();
        let leaves = if self.leaf_bytes < IN_PLACE_BYTES { Leaves::Ready(work()) } else { spawned(work) };
        Started { leaves, _permit: permit }
    }
}

/// A batch whose leaves are being made.
#[derive(Debug)]
pub(super) struct Started {
    leaves: Leaves,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Leaves {
    Ready(Vec<Step<Leaf>>),
    Running(JoinHandle<Vec<Step<Leaf>>>),
}

impl Started {
    /// The steps in their order, once all leaves are made, and the permit.
    pub(super) async fn steps(self) -> Result<(Vec<Step<Leaf>>, OwnedSemaphorePermit)> {
        let steps = match self.leaves {
            Leaves::Ready(steps) => steps,
            Leaves::Running(task) => task.await.map_err(|source| did_not_finish(&source))?,
        };
        Ok((steps, self._permit))
    }
}

fn hashed(step: Step<Chunk>, naming: Naming) -> Step<Leaf> {
    match step {
        Step::Leaf(Chunk { data, form }) => {
            let file_bytes = data.len() as u64;
            let block = match form {
                Form::Raw => naming.raw(data),
                Form::Node(kind, attributes) => naming.dag_pb(dag::leaf(kind, &data, attributes), 0),
            };
            Step::Leaf(Leaf { block, file_bytes })
        }
        Step::FileEnd { path, attributes } => Step::FileEnd { path, attributes },
        Step::Directory { path, attributes } => Step::Directory { path, attributes },
        Step::Symlink { path, target, attributes } => Step::Symlink { path, target, attributes },
    }
}

fn spawned(work: impl FnOnce() -> Vec<Step<Leaf>> + Send + 'static) -> Leaves {
    if has_one_thread() { Leaves::Ready(work()) } else { Leaves::Running(tokio::task::spawn_blocking(work)) }
}

/// Runs what computes for long where it is in nobody's way.
pub(super) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    if has_one_thread() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|source| did_not_finish(&source))
}

/// A runtime with one thread is a simulation, whose order of events must not depend on other threads, or somebody who
/// wants no others. So is none at all.
fn has_one_thread() -> bool {
    !Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() != RuntimeFlavor::CurrentThread)
}

fn did_not_finish(source: &tokio::task::JoinError) -> Error {
    Error::internal(format!("hashing did not finish: {source}")).component("adder")
}
