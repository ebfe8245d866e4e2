//! What tests of components and of whole peers are made of, for this crate and for everybody who implements one
//! of its contracts.
//!
//! For each contract there is a **conformance suite**: a module with a `Fixture` trait, the cases as public async
//! functions, and a macro that turns them into one named test each. The macro runs every case twice: on the
//! implementation, and through an `Arc<dyn _>` around it.
//!
//! ```text
//! struct Mine;
//! impl storage_suite::Fixture for Mine { … }
//! ipfs_cluster::storage_conformance!(mine, Mine); // mine::direct::a_batch_is_all_or_nothing … ok
//! ```

/// Declares a suite: the list of its cases (`CASES`), and the macro that makes a test of each.
///
/// The module it stands in has a trait `Fixture`, a wrapper `Forwarded<F: Fixture>` that is a `Fixture` too and hands
/// out the implementation behind one more `Arc`, and a function `pub async fn case(fixture: impl Fixture)` for each
/// case. `run` is [`run_case`] or [`run_paused_case`].
macro_rules! conformance_suite {
    ($dollar:tt $suite:ident, $macro_name:ident, $run:ident, [$($case:ident),+ $(,)?]) => {
        /// Names of the cases, in order.
        pub const CASES: &[&str] = &[$(stringify!($case)),+];

        /// Makes one named test of each case: `name::direct::case` and `name::forwarded::case`.
        ///
        /// The second argument is an expression that makes the fixture.
        #[macro_export]
        macro_rules! $macro_name {
            ($dollar module:ident, $dollar fixture:expr) => {
                mod $dollar module {
                    mod direct {
                        #[allow(unused_imports)]
                        use super::super::*;
                        $(
                            #[test]
                            fn $case() {
                                $crate::testing::$run($crate::testing::$suite::$case($dollar fixture));
                            }
                        )+
                    }
                    mod forwarded {
                        #[allow(unused_imports)]
                        use super::super::*;
                        $(
                            #[test]
                            fn $case() {
                                $crate::testing::$run($crate::testing::$suite::$case(
                                    $crate::testing::$suite::Forwarded($dollar fixture),
                                ));
                            }
                        )+
                    }
                }
            };
        }
    };
}

pub mod allocator_suite;
pub mod cluster;
pub mod consensus_suite;
pub mod crash_storage;
pub mod decoders;
pub mod exchange_suite;
#[cfg(feature = "api-rest")]
pub mod fake_kubo;
pub mod faulty_ipfs;
pub mod faulty_storage;
pub mod informer_suite;
pub mod ipfs_suite;
pub mod monitor_suite;
pub mod mutate;
pub mod planted;
#[cfg(target_os = "linux")]
pub mod power_cut;
pub mod random;
pub mod sim;
pub mod state_suite;
pub mod storage_suite;
pub mod tracker_suite;
pub mod transport_suite;

#[cfg(feature = "consensus-crdt")]
pub use crate::consensus::{ForeignBlocks, ReadBlocks};
pub use cluster::{TestCluster, TestClusterConfig};
pub use crash_storage::CrashStorage;
pub use faulty_storage::{FaultyStorage, StorageCall};

use std::future::Future;

use crate::types::{Block, Cid, PeerId, car_header, car_section_head};

/// A peer id for each number, in the order of the numbers, the same in every run. It looks like any other, but nobody
/// has its key.
///
/// # Panics
/// Never: any 32 bytes can stand for an Ed25519 public key in a peer id.
#[allow(clippy::expect_used)] // See above.
pub fn peer(number: u64) -> PeerId {
    // Multihash "identity" over 36 bytes: a key message of type Ed25519 with 32 bytes of key.
    let mut bytes = [0; 38];
    bytes[..6].copy_from_slice(&[0x00, 36, 0x08, 0x01, 0x12, 32]);
    bytes[38 - size_of::<u64>()..].copy_from_slice(&number.to_be_bytes());
    PeerId::from_bytes(&bytes).expect("a multihash that fits")
}

/// A CAR of blocks with one root, and where its header and each section end.
pub fn car(root: Cid, blocks: &[Block]) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = car_header(&[root]);
    let mut ends = vec![bytes.len()];
    for block in blocks {
        bytes.extend(car_section_head(&block.cid, block.data.len()));
        bytes.extend_from_slice(&block.data);
        ends.push(bytes.len());
    }
    (bytes, ends)
}

/// Runs one case of a suite on a runtime of its own, as the conformance macros do.
///
/// One thread, real time, I/O enabled.
///
/// # Panics
/// When the case does, or when no runtime can be made.
#[allow(clippy::expect_used)] // A test without a runtime has nothing better to do.
pub fn run_case(case: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a tokio runtime")
        .block_on(case);
}

/// Runs one case like [`run_case`], on paused time: timers fire as soon as nothing else can happen.
///
/// # Panics
/// When the case does, or when no runtime can be made.
#[allow(clippy::expect_used)] // A test without a runtime has nothing better to do.
pub fn run_paused_case(case: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a tokio runtime")
        .block_on(case);
}
