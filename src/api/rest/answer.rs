//! What goes back to a caller.

use bytes::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::lines::{Beginning, Lines};
use crate::api::error::ApiError;
use crate::api::json;

/// The trailer that tells what went wrong after the first line of a listing; empty when nothing did.
pub(super) const STREAM_ERROR: HeaderName = HeaderName::from_static("x-stream-error");
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(super) const VARY: HeaderValue = HeaderValue::from_static("Origin");

/// An answer.
#[derive(Debug)]
pub(super) enum Answer {
    /// One that is known whole.
    Whole(Response<Bytes>),
    /// A listing.
    Listing(Listing),
}

/// A listing, which announces its trailer whatever it turns out to be.
#[derive(Debug)]
pub(super) enum Listing {
    /// 200 and lines.
    Lines(Lines),
    /// 204.
    Empty,
    /// The error came before the first line.
    Failed(ApiError),
}

impl Listing {
    pub(super) async fn of(lines: Lines) -> Self {
        match lines.begin().await {
            Beginning::Lines(lines) => Self::Lines(lines),
            Beginning::Empty => Self::Empty,
            Beginning::Failed(error) => Self::Failed(error.into()),
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Lines(_) => StatusCode::OK,
            Self::Empty => StatusCode::NO_CONTENT,
            Self::Failed(error) => status(error),
        }
    }
}

impl From<ApiError> for Answer {
    fn from(error: ApiError) -> Self {
        Self::Whole(error_response(&error))
    }
}

fn status(error: &ApiError) -> StatusCode {
    StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// An answer without content or content type (405, 307).
pub(super) fn bare(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response.headers_mut().insert(header::VARY, VARY);
    response
}

/// An answer with a document, its line end included.
pub(super) fn document(status: StatusCode, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = bare(status);
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    *response.body_mut() = body.into();
    response
}

/// 200 with a value in its serde form.
pub(super) fn json(value: &impl Serialize) -> Answer {
    Answer::Whole(match body(value) {
        Ok(body) => document(StatusCode::OK, body),
        Err(error) => error_response(&error),
    })
}

/// 204, with a content type as in the reference.
pub(super) fn no_content() -> Answer {
    Answer::Whole(document(StatusCode::NO_CONTENT, Bytes::new()))
}

/// The answer of an error.
pub(super) fn error_response(error: &ApiError) -> Response<Bytes> {
    document(status(error), error_body(error))
}

/// The document of an error.
pub(super) fn error_body(error: &ApiError) -> Vec<u8> {
    // A number and a text; if that could fail there would be nothing to say.
    body(error).unwrap_or_default()
}

fn body(value: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    let mut body = Vec::new();
    json::value(&mut body, value)
        .map_err(|error| ApiError::new(500, format!("the answer cannot be written: {error}")))?;
    body.push(b'\n');
    Ok(body)
}
