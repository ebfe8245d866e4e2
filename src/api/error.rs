//! How errors look over HTTP.

use std::fmt;

use serde::Serialize;

use crate::error::{Error, ErrorKind};

/// The one text that the reference answers with 404 instead of 500.
const NOT_PINNED: &str = "pin is not part of the pinset";

/// The HTTP status of an error from the cluster, as the reference answers it.
///
/// | error | status |
/// |---|---|
/// | `pin is not part of the pinset` | 404 |
/// | `QueueFull`, `ShutDown`: try later, or another peer | 503 |
/// | everything else, also input that the cluster itself refuses (replication factors, expiry, follower mode) | 500 |
///
/// Input that the API itself cannot read is 400 and never gets here.
pub fn http_status(error: &Error) -> u16 {
    match error.kind() {
        ErrorKind::NotFound if error.message() == NOT_PINNED => 404,
        ErrorKind::QueueFull | ErrorKind::ShutDown => 503,
        ErrorKind::InvalidInput
        | ErrorKind::NotFound
        | ErrorKind::Conflict
        | ErrorKind::Unsupported
        | ErrorKind::ReadOnly
        | ErrorKind::Unavailable
        | ErrorKind::Timeout
        | ErrorKind::Cancelled
        | ErrorKind::NotEnoughPeers
        | ErrorKind::Unauthorized
        | ErrorKind::Remote
        | ErrorKind::Locked
        | ErrorKind::Corrupt
        | ErrorKind::StorageFull
        | ErrorKind::Io
        | ErrorKind::Internal => 500,
    }
}

/// An error answer: its status, and the text for the caller. Its serde form is the body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApiError {
    /// The HTTP status.
    #[serde(rename = "code")]
    pub status: u16,
    /// What went wrong.
    pub message: String,
}

impl ApiError {
    /// An answer with a status.
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// The request cannot be read.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    /// There is nothing at this path.
    pub(crate) fn not_found() -> Self {
        Self::new(404, "not found")
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let status = http_status(&error);
        match error.kind() {
            ErrorKind::Internal | ErrorKind::Corrupt | ErrorKind::Io | ErrorKind::StorageFull => {
                tracing::warn!(?error, status, "a request failed");
            }
            _ => tracing::debug!(?error, status, "a request was refused"),
        }
        Self::new(status, error.message())
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, self.message)
    }
}

impl std::error::Error for ApiError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_missing_pin_is_404() {
        assert_eq!(http_status(&Error::not_found(NOT_PINNED)), 404);
        assert_eq!(http_status(&Error::not_found("no such file")), 500);
        assert_eq!(http_status(&Error::invalid_input("pin.ExpireAt set before current time")), 500);
        assert_eq!(http_status(&Error::shut_down("cluster")), 503);
    }
}
