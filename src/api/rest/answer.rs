//! What goes back to a caller.

use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::access_log::Record;
use super::lines::{Beginning, Flow, Lines};
use crate::api::error::ApiError;
use crate::api::json;

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An answer.
#[derive(Debug)]
pub(super) enum Answer {
    /// One of a handler that is known whole.
    Whole(Response<Bytes>),
    /// One that no handler gave, and that has no configured headers therefore (405, 307).
    Bare(Response<Bytes>),
    /// A listing.
    Listing(Listing),
}

/// A listing, which announces its trailer whatever it turns out to be.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) content: Content,
    /// Headers that it has besides its own.
    pub(super) headers: HeaderMap,
    /// Its line in the access log, written when the listing is.
    pub(super) record: Option<Record>,
    pub(super) content_type: HeaderValue,
    pub(super) flow: Flow,
}

/// What is in a listing.
#[derive(Debug)]
pub(super) enum Content {
    /// 200 and lines.
    Lines(Lines),
    /// 204.
    Empty,
    /// The error came before the first line.
    Failed(ApiError),
}

impl Listing {
    /// Waits for how it begins.
    pub(super) async fn of(lines: Lines) -> Self {
        match lines.begin().await {
            Beginning::Lines(lines) => Content::Lines(lines),
            Beginning::Empty => Content::Empty,
            Beginning::Failed(error) => Content::Failed(error.into()),
        }
        .into()
    }

    /// Lines that come as things happen; it begins at once.
    pub(super) fn endless(lines: Lines, content_type: HeaderValue) -> Self {
        let mut listing = Self { content_type, flow: Flow::Endless, ..Content::Lines(lines).into() };
        // Neither kept nor held back by anybody on the way.
        listing.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        listing.headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
        listing
    }

    /// Lines about an upload that goes on; it begins at once.
    #[cfg(feature = "add")]
    pub(super) fn of_upload(lines: Lines) -> Self {
        let mut listing = Self { flow: Flow::Upload, ..Content::Lines(lines).into() };
        listing.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        listing.headers.insert(HeaderName::from_static("x-chunked-output"), HeaderValue::from_static("1"));
        listing.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        listing
    }

    pub(super) fn status(&self) -> StatusCode {
        match &self.content {
            Content::Lines(_) => StatusCode::OK,
            Content::Empty => StatusCode::NO_CONTENT,
            Content::Failed(error) => status(error),
        }
    }
}

impl From<Content> for Listing {
    fn from(content: Content) -> Self {
        Self { content, headers: HeaderMap::new(), record: None, content_type: JSON, flow: Flow::Plain }
    }
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Whole(response) | Self::Bare(response) => response.status(),
            Self::Listing(listing) => listing.status(),
        }
    }

    /// Notes the answer in the line of its request, which is complete then, or travels on with a listing.
    pub(super) fn noted(mut self, record: Option<Record>) -> Self {
        let Some(mut record) = record else { return self };
        record.status(self.status().as_u16());
        match &mut self {
            Self::Whole(response) | Self::Bare(response) => record.sent(response.body().len()),
            Self::Listing(listing) => listing.record = Some(record),
        }
        self
    }
}

/// `content-type` as `Content-Type`.
pub(super) fn canonical(name: &str) -> String {
    let mut start = true;
    name.chars()
        .map(|c| {
            let c = if start { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
            start = c == '-';
            c
        })
        .collect()
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
