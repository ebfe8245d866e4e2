//! Adding content: what is asked for, and what is told about it.

use serde::{Deserialize, Serialize};

use super::{Cid, PeerId, PinOptions, Resume, cid, pin_info};

/// What uploaded bytes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AddFormat {
    /// Files and folders, of which a UnixFS DAG is made.
    #[default]
    UnixFs,
    /// One CARv1 file with one root, whose blocks are taken as they are.
    Car,
}

/// How the leaves of a file hang together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AddLayout {
    /// All leaves are equally deep: best for access anywhere.
    #[default]
    Balanced,
    /// The beginning is less deep than the end: best for reading from the beginning.
    Trickle,
}

/// How content is added. The defaults are those of the reference's REST API.
///
/// `chunker`, `hash` and `cid_version` are texts and numbers as callers give them: they are read when the content is,
/// and what is wrong with them is an error then, as in the reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddOptions {
    /// How the roots are pinned. `mode` is not looked at: what is added is pinned recursively. `pin_update` neither.
    pub pin: PinOptions,
    /// What the bytes are.
    pub format: AddFormat,
    /// How leaves hang together.
    pub layout: AddLayout,
    /// Where files are cut: `size-N` (bytes), `rabin`, `rabin-AVG`, `rabin-MIN-AVG-MAX`, `buzhash`, `default`.
    pub chunker: String,
    /// Leaves are blocks of bytes and nothing else. None: as `cid_version` says, true above 0.
    pub raw_leaves: Option<bool>,
    /// 0 or 1.
    pub cid_version: i64,
    /// Name of a hash function, as multihash calls it: those that Kubo adds with. With `identity` a block, which is then its
    /// own CID, has at most 64 bytes.
    pub hash: String,
    /// Everything that is added becomes an entry of one more directory, which is then the root.
    pub wrap: bool,
    /// The daemon of the peer that is asked refers to files where they lie, instead of copying them; others get copies. Every
    /// file has to say where that is. Leaves are raw.
    pub no_copy: bool,
    /// Blocks go to the daemon of the peer that is asked, and from there to those that pin the content.
    pub local: bool,
    /// Blocks are stored and not pinned.
    pub no_pin: bool,
    /// The DAG is split over peers in shards of `pin.shard_size` bytes.
    pub shard: bool,
    /// Lines tell of bytes read, not only of what is done.
    pub progress: bool,
    /// Where it breaks off, it can go on later. Only for a CAR that is not sharded.
    pub resume: Option<Resume>,
}

impl Default for AddOptions {
    fn default() -> Self {
        Self {
            pin: PinOptions::default(),
            format: AddFormat::default(),
            layout: AddLayout::default(),
            chunker: "size-262144".to_owned(),
            raw_leaves: None,
            cid_version: 0,
            hash: "sha2-256".to_owned(),
            wrap: false,
            no_copy: false,
            local: false,
            no_pin: false,
            shard: false,
            progress: false,
            resume: None,
        }
    }
}

/// One line about content that is being added, in the form of the reference's `AddedOutput`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// The path below what was uploaded; empty for a wrapping directory.
    pub name: String,
    /// What it became; None in lines about progress.
    #[serde(default, with = "cid::option_text")]
    pub cid: Option<Cid>,
    /// Bytes read of a file so far (progress); bytes of all blocks (CAR).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes: u64,
    /// Bytes of all blocks below it and its own (UnixFS); bytes of the file (CAR).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub size: u64,
    /// Peers that the blocks went to.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "pin_info::null_as_default")]
    pub allocations: Vec<PeerId>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde gives a reference.
fn is_zero(number: &u64) -> bool {
    *number == 0
}
