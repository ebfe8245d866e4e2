//! Configuration: the files of a peer's folder and what is in them.
//!
//! - [`ServiceJson`] is the file `service.json`: ordered sections, those that are not served yet kept as they are.
//! - [`ConfigSection`] is one component's part of it, a plain serde struct beside the component. Here are those that
//!   say more than one component takes: [`ClusterSection`] and [`SoloSection`]. [`ServiceJson::read`] gives one with
//!   `CLUSTER_*` variables laid over it.
//! - [`kept`] knows the sections of parts that this version does not have.
//! - [`Identity`] is the peer's key pair, [`FolderLock`] keeps other processes out, [`peerstore`] is the list of
//!   addresses that are tried at the start.
//!
//! Every file is replaced as a whole: a crash leaves the old one or the new one.

pub mod duration;
pub mod kept;
pub mod overlay;
pub mod peerstore;

mod cluster;
#[cfg(feature = "testing")]
pub(crate) mod decoders;
mod file;
mod identity;
mod json;
mod lock;
pub(crate) mod number;
mod secret;
mod sections;
mod service_json;
mod strings;
#[cfg(test)]
pub(crate) mod testing;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

pub use cluster::{ClusterSection, ConnectionManagerConfig, PubSubConfig, ResourceManagerConfig};
pub use file::create_folder;
#[cfg(feature = "api-rest")]
pub(crate) use file::{MODE_PRIVATE, read_text, write_atomically};
pub use identity::Identity;
pub use lock::{FolderLock, LOCK_FILE};
pub use overlay::{Environment, Loaded, process_environment};
pub use secret::{Hidden, SECRET_BYTES, Secret};
pub use sections::{SERVED_SECTIONS, SoloSection, StorageEngine};
pub use service_json::{FILE_BYTES_MAX, ServiceJson};
pub use strings::{Addresses, FromText, OneOrMany, Strings};

/// A component's part of `service.json`.
///
/// `Default` is what the reference's `init` writes; a missing key takes it (`#[serde(default)]`), except where
/// the reference takes "false", "0" or "none" for missing: then the field says so.
pub trait ConfigSection: Serialize + DeserializeOwned + Default {
    /// Where it sits in the file, for example `pin_tracker.stateless`; also how errors name it.
    const PATH: &'static str;
    /// What its environment variables start with, for example `CLUSTER_STATELESS_`.
    const ENV_PREFIX: &'static str;
    /// Keys that older versions wrote: neither used nor reported.
    const ACCEPTED_KEYS: &'static [&'static str] = &[];
    /// Keys that a section has to have where it is in the file, although `Default` has a value for them.
    const REQUIRED_KEYS: &'static [&'static str] = &[];

    /// Checks values that parse but cannot work.
    ///
    /// # Errors
    /// `InvalidInput` naming the key.
    fn validate(&self) -> Result<()>;
}

/// `InvalidInput` with this text, unless the condition holds.
pub(crate) fn check(holds: bool, text: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::invalid_input(text)) }
}
