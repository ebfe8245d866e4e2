//! Configuration primitives: what every component's configuration section is, and how it reads and writes.
//!
//! A section is a plain serde struct that lives beside its component, named as in the reference's
//! `service.json`. Here is what they share: Go's durations, string-or-list values, secrets, the identity
//! file and the `CLUSTER_*` environment overlay.

pub mod duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Result;

/// A component's part of `service.json`.
///
/// `Default` is what the reference's `init` writes; a missing key takes it (`#[serde(default)]`).
pub trait ConfigSection: Serialize + DeserializeOwned + Default {
    /// Where it sits in the file, for example `pin_tracker.stateless`; also how errors name it.
    const PATH: &'static str;
    /// What its environment variables start with, for example `CLUSTER_STATELESS_`.
    const ENV_PREFIX: &'static str;

    /// Checks values that parse but cannot work.
    ///
    /// # Errors
    /// `InvalidInput` naming the key.
    fn validate(&self) -> Result<()>;
}
