#[cfg(feature = "client")]
pub mod client;
pub mod clock;
pub mod config;
pub mod error;
pub mod types;
pub use error::{Error, ErrorKind, Result};
