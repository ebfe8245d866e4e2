//! What several measurements are made with.

use ipfs_cluster::testing::state_suite::cid;
use ipfs_cluster::types::{Pin, PinOptions, Timestamp};

/// A pin as a collection of many has it, with a name that begins with `name`.
pub(crate) fn pin(number: u64, name: &str) -> Pin {
    let mut pin = Pin::new(
        cid(number * 4 + 2), // version 1, dag-pb
        PinOptions {
            replication_factor_min: -1,
            replication_factor_max: -1,
            name: format!("{name}-{number}"),
            metadata: [("collection".to_owned(), (number % 1_000).to_string())].into(),
            ..PinOptions::default()
        },
    );
    pin.timestamp = Some(Timestamp::from_unix_seconds(1_700_000_000 + number as i64 / 1_000));
    pin
}
