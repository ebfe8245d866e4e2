//! Interfaces for others than Rust programs, over HTTP.

mod error;
mod json;
pub mod rest;

pub use error::{ApiError, http_status};
#[cfg(feature = "testing")]
pub(crate) use rest::decoders as rest_decoders;
