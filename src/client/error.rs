//! The refusal of an API, as a type that callers can look for.

use reqwest::StatusCode;
use serde::Deserialize;

use crate::error::{Error, ErrorKind};

/// What the API said when it refused: the body `{"code":…,"message":…}` of its answer.
///
/// It is the source of the [`Error`] that client methods return, so that a program can tell "the peer said
/// no" from "there was no answer":
///
/// ```
/// use ipfs_cluster::client::ApiError;
/// # use ipfs_cluster::Error;
/// fn is_unknown_pin(error: &Error) -> bool {
///     ApiError::of(error).is_some_and(|refusal| refusal.code == 404)
/// }
/// # assert!(is_unknown_pin(&ApiError { code: 404, message: "pin is not part of the pinset".into() }.into_error()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
pub struct ApiError {
    /// The code in the body, which is the HTTP status; 500 for an error that ended a listing.
    pub code: u16,
    /// The peer's own words.
    pub message: String,
}

impl ApiError {
    /// The refusal behind an error; none when the error arose on this side or on the way.
    pub fn of(error: &Error) -> Option<&Self> {
        error.downcast_source()
    }

    /// Reads the body of an answer with an error status. What is not such a document is the message itself,
    /// because it comes from a proxy or an older server and says more than a parse error would.
    pub(super) fn from_answer(status: StatusCode, body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Body {
            code: Option<i64>,
            message: Option<String>,
        }
        let (code, message) = match serde_json::from_slice::<Body>(body) {
            Ok(Body { code, message: Some(message) }) => (code, message),
            _ => (None, String::from_utf8_lossy(body).trim_end().to_owned()),
        };
        let code = code.and_then(|code| u16::try_from(code).ok()).filter(|code| *code != 0);
        let message = if message.is_empty() { format!("the server answered {status}") } else { message };
        Self { code: code.unwrap_or(status.as_u16()), message }
    }

    fn kind(&self) -> ErrorKind {
        match self.code {
            400 | 413 | 414 | 431 => ErrorKind::InvalidInput,
            401 | 403 => ErrorKind::Unauthorized,
            404 => ErrorKind::NotFound,
            405 | 501 => ErrorKind::Unsupported,
            409 => ErrorKind::Conflict,
            408 | 504 => ErrorKind::Timeout,
            429 | 502 | 503 => ErrorKind::Unavailable,
            _ => ErrorKind::Remote,
        }
    }

    /// As an error of this crate. A method and not `From`: a second `From<_> for Error` would leave `?` in everybody's
    /// closures without a type, as soon as somebody switches the `client` feature on.
    pub fn into_error(self) -> Error {
        Error::new(self.kind(), self.message.clone()).component("client").with_source(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_answer_is_read_as_the_references_client_reads_it() {
        for (status, body, code, message) in [
            (404, r#"{"code":404,"message":"not found"}"#, 404, "not found"),
            (500, "{\"code\":503,\"message\":\"later\"}\n", 503, "later"),
            (
                400,
                "{\"code\":400,\"message\":\"a\"}\n{\"cid\":\"b\"}\n",
                400,
                "{\"code\":400,\"message\":\"a\"}\n{\"cid\":\"b\"}",
            ),
            (404, "404 page not found\n", 404, "404 page not found"),
            (502, "<html>bad gateway</html>", 502, "<html>bad gateway</html>"),
            (500, "{}", 500, "{}"),
            (500, r#"{"code":0,"message":"zero"}"#, 500, "zero"),
            (500, r#"{"code":99999999,"message":"big"}"#, 500, "big"),
            (405, "", 405, "the server answered 405 Method Not Allowed"),
        ] {
            let refusal = ApiError::from_answer(StatusCode::from_u16(status).unwrap(), body.as_bytes());
            assert_eq!(refusal, ApiError { code, message: message.to_owned() }, "{status} {body}");
        }
    }

    #[test]
    fn a_refusal_is_found_again_behind_the_error() {
        let error = ApiError { code: 404, message: "not found".into() }.into_error();
        assert_eq!((error.kind(), error.to_string()), (ErrorKind::NotFound, "not found".to_owned()));
        assert_eq!(ApiError::of(&error.context("asking")).map(|refusal| refusal.code), Some(404));
        assert_eq!(ApiError::of(&Error::invalid_input("x")), None);
    }
}
