//! Parts of a peer written by somebody else: nothing here uses more of the library than any other crate can.
//!
//! Each module is one contract, something of use, and meant to be read from top to bottom as a guide to your own:
//!
//! | module | contract | what |
//! |---|---|---|
//! | [`allocator`] | `PinAllocator` | spreads pins by rendezvous hashing, in proportion to free space |
//! | [`connector`] | `IpfsConnector` | one peer, two IPFS daemons: pinned means that both hold it |
//! | [`consensus`] | `Consensus` | several peers of one process agree through one totally ordered log |
//!
//! The steps are the same each time. Implement the trait; its documentation says what every method promises. Add
//! `ipfs-cluster` with the feature `testing` to the development dependencies, write the suite's `Fixture`, which makes
//! your part for a test, and let one macro line turn the suite into named tests (`cargo test -p outside-parts`). What
//! only your part does, you test yourself, below that line.

pub mod allocator;
pub mod connector;
pub mod consensus;
