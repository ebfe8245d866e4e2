//! From content to blocks: the same CIDs as `ipfs add` of Kubo 0.39 with the same options.
//!
//! [`read`] walks the content and cuts files into chunks ([`chunker`]); [`batch`] has many chunks hashed at a time, on all
//! cores; [`write`] takes them in their order, gives files a [`layout`] and directories a [`tree`], and hands blocks on. Read
//! and write go on at the same time. What is in between is bounded by one number of bytes, so memory does not depend on the
//! size of what is added, but for the entries of directories that may still grow.

mod batch;
mod blocks;
mod chunker;
mod dag;
mod hamt;
mod layout;
mod naming;
mod read;
mod tree;
mod write;

#[cfg(test)]
mod tests;

use tokio::sync::mpsc;

use self::blocks::Blocks;
use self::chunker::Chunker;
use self::naming::Naming;
use self::read::Reader;
use self::write::Writer;
use super::car::import_car;
use super::{BlockSink, Content, Lines, Root};
use crate::error::{Error, Result};
use crate::types::{AddFormat, AddLayout, AddOptions};

/// Batches between reader and writer. Their bytes have a bound of their own.
const BATCHES_MAX: usize = 64;

/// What options say about making blocks.
struct Settings {
    naming: Naming,
    chunker: Chunker,
    layout: AddLayout,
    raw_leaves: Option<bool>,
    raw_by_default: bool,
    wrap: bool,
    no_copy: bool,
    shard: bool,
    progress: bool,
}

impl Settings {
    fn new(options: &AddOptions) -> Result<Self> {
        Ok(Self {
            naming: Naming::new(options.cid_version, &options.hash)?,
            chunker: Chunker::parse(&options.chunker)?,
            layout: options.layout,
            raw_leaves: options.raw_leaves,
            raw_by_default: options.cid_version > 0,
            wrap: options.wrap,
            no_copy: options.no_copy,
            shard: options.shard,
            progress: options.progress,
        })
    }
}

/// Makes blocks of content, hands them to the sink, tells lines, and returns what the top-level entries became.
///
/// Lines and roots come in the order of the content; lines about directories after all of their root's files. With `wrap`
/// there is one root, which has no name. Entries keep their mode and modification time where they say one; those who want
/// the CIDs of the reference's REST API, which ignores both, give entries without.
///
/// CIDs are those of Kubo 0.39 also where the reference's newer library makes others: a directory whose names and CIDs
/// have exactly 256 KiB is sharded, and sharded directories keep no attributes.
///
/// Not cancel-safe: blocks that were handed on stay where they are.
///
/// # Errors
/// `InvalidInput` in the reference's words for options that mean nothing, and for content that cannot be added (a name twice,
/// nothing at all, more entries than fit into memory); `Unsupported` for hash functions that we do not have; what
/// content and sink fail with.
pub async fn import(
    content: &mut dyn Content,
    options: &AddOptions,
    sink: &mut dyn BlockSink,
    lines: &Lines,
) -> Result<Vec<Root>> {
    match options.format {
        AddFormat::UnixFs => {}
        AddFormat::Car => return import_car(content, options, sink, lines).await,
    }
    let settings = Settings::new(options)?;
    let (send, receive) = mpsc::channel(BATCHES_MAX);
    let reader = Reader::new(&settings, lines, send);
    let writer = Writer::new(&settings, lines, Blocks::new(sink));
    // The writer goes first: when it fails, the reader's complaint that nobody takes its batches is not heard.
    let (roots, ()) = futures::future::try_join(writer.run(receive), reader.run(content)).await?;
    Ok(roots)
}

fn object_too_large() -> Error {
    Error::invalid_input("object size limit exceeded")
}
