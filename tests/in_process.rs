//! Everything that is examined in one process, as one program, because linking is slow: each module is a topic.
//!
//! On their own stand `arch`, which only reads the sources, and `powercut`, which starts itself again as its victim.

#[cfg(all(feature = "add", feature = "consensus-crdt"))]
mod adding;
mod cluster;
mod consensus;
#[cfg(feature = "consensus-crdt")]
mod followers;
mod ipfs_connector;
mod many;
mod parts;
mod rest;
mod state;
mod storage;
mod summary;
mod tracker;
mod watch;
