//! How a client says who it is.

use std::fmt;

use reqwest::header::HeaderValue;

use crate::error::{Error, Result};

/// What is sent with every call. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    /// A user and a password.
    Basic { user: String, password: String },
    /// A token.
    Bearer(String),
}

impl Credentials {
    /// The value of `Authorization`, which no log shows.
    ///
    /// # Errors
    /// `InvalidInput` for a user with a colon, and for a token that does not fit into a header. It does not repeat them.
    pub(super) fn header(&self) -> Result<HeaderValue> {
        use base64::Engine as _;
        let text = match self {
            Self::Basic { user, .. } if user.contains(':') => {
                return Err(Error::invalid_input("a user of basic auth has no colon").component("client"));
            }
            Self::Basic { user, password } => {
                let login = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
                format!("Basic {login}")
            }
            Self::Bearer(token) => format!("Bearer {token}"),
        };
        let mut value = HeaderValue::from_str(&text).map_err(|_| {
            Error::invalid_input("the token has characters that no token has").component("client")
        })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { user, .. } => f.debug_struct("Basic").field("user", user).finish_non_exhaustive(),
            Self::Bearer(_) => f.write_str("Bearer"),
        }
    }
}
