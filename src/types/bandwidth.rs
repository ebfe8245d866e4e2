//! How much travels between peers.

use serde::{Deserialize, Serialize};

/// What one protocol has moved between peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Bytes received since the peer started.
    pub total_in: i64,
    /// Bytes sent since the peer started.
    pub total_out: i64,
    /// Bytes received each second, lately.
    pub rate_in: f64,
    /// Bytes sent each second, lately.
    pub rate_out: f64,
}
