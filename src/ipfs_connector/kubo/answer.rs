//! Reading what the daemon answers, as a whole or line by line, always with a bound.

use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use http_body_util::BodyExt as _;
use reqwest::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use reqwest::{Body, Response};
use serde::Deserialize;

use super::COMPONENT;
use super::http::{Http, RemoteError, remote_error};
use crate::error::{Error, ErrorKind, Result};

/// Bytes of one line; the daemon's are a few hundred.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of nonsense that become part of our error.
const EXCERPT_BYTES_MAX: usize = 200;
/// Where the daemon says that it failed after it had begun to answer.
const TRAILER_ERROR: &str = "x-stream-error";

/// An answer whose first line was good.
pub(super) struct Answer {
    http: Arc<Http>,
    path: String,
    code: u16,
    body: Body,
    /// Whether its end can be told from a broken connection.
    has_end: bool,
}

impl Answer {
    pub(super) fn new(http: Arc<Http>, path: &str, response: Response) -> Self {
        let headers = response.headers();
        let has_end = headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING);
        let code = response.status().as_u16();
        // As a body, because reqwest's own methods for reading throw the trailers away.
        let body = Body::from(response);
        Self { http, path: path.to_owned(), code, body, has_end }
    }

    /// The next piece; none at the end.
    ///
    /// # Errors
    /// `Unavailable` when the answer breaks off, `Remote` when the daemon says at its end that it failed.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            let frame = self.body.frame().await;
            let frame = match frame {
                None if self.has_end => return Ok(None),
                None => return Err(self.broken("it does not say where it ends".to_owned())),
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    self.http.suspect();
                    let mut cause: &dyn std::error::Error = &error;
                    while let Some(source) = cause.source() {
                        cause = source;
                    }
                    return Err(self.broken(cause.to_string()).with_source(error.without_url()));
                }
            };
            match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => return Ok(Some(data)),
                Err(other) => {
                    let trailers = other.into_trailers().unwrap_or_default();
                    if let Some(message) = trailers.get(TRAILER_ERROR) {
                        let message = String::from_utf8_lossy(message.as_bytes()).into_owned();
                        return Err(remote_error(&self.path, self.code, message));
                    }
                }
            }
        }
    }

    /// The whole answer.
    ///
    /// # Errors
    /// As [`Answer::chunk`]; `Corrupt` when it is longer than allowed.
    pub(super) async fn bytes(mut self, bytes_max: usize) -> Result<Bytes> {
        let Some(first) = self.chunk().await? else { return Ok(Bytes::new()) };
        let mut whole = Vec::new();
        let mut next = Some(first);
        while let Some(chunk) = next {
            if whole.len() + chunk.len() > bytes_max {
                return Err(self.corrupt(&format!("it is longer than {bytes_max} bytes")));
            }
            next = self.chunk().await?;
            if next.is_none() && whole.is_empty() {
                return Ok(chunk);
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.into())
    }

    /// The beginning of the answer, as much as there is.
    pub(super) async fn excerpt(mut self, bytes_max: usize) -> Vec<u8> {
        let mut text = Vec::new();
        while let Ok(Some(chunk)) = self.chunk().await {
            text.extend_from_slice(&chunk[..chunk.len().min(bytes_max - text.len())]);
            if text.len() == bytes_max {
                break;
            }
        }
        text
    }

    /// The answer as lines.
    pub(super) fn lines(self) -> Lines {
        Lines { answer: self, chunk: Bytes::new(), partial: Vec::new() }
    }

    fn broken(&self, why: String) -> Error {
        Error::new(
            ErrorKind::Unavailable,
            format!("the IPFS daemon broke off its answer to {}: {why}", self.path),
        )
        .component(COMPONENT)
    }

    fn corrupt(&self, why: &str) -> Error {
        corrupt(&self.path, why)
    }
}

/// The lines of an answer.
pub(super) struct Lines {
    answer: Answer,
    chunk: Bytes,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
}

impl Lines {
    /// The next line that is not empty; none at the end. Cancel-safe.
    ///
    /// # Errors
    /// As [`Answer::chunk`]; `Corrupt` when a line is longer than any of the daemon's.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(line) = self.buffered()? {
                return Ok(Some(line));
            }
            if !self.fill().await? {
                return Ok(self.last());
            }
        }
    }

    /// The next whole line of those that have come already. Synchronous, because a listing has millions of them.
    ///
    /// # Errors
    /// `Corrupt` when a line is longer than any of the daemon's.
    pub(super) fn buffered(&mut self) -> Result<Option<Bytes>> {
        while let Some(end) = self.chunk.iter().position(|byte| *byte == b'\n') {
            let mut line = self.chunk.split_to(end);
            self.chunk.advance(1);
            if !self.partial.is_empty() {
                self.check_length(line.len())?;
                self.partial.extend_from_slice(&line);
                line = std::mem::take(&mut self.partial).into();
            }
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(line));
            }
        }
        Ok(None)
    }

    /// Waits for more, when [`Lines::buffered`] has none; false at the end. Cancel-safe.
    ///
    /// # Errors
    /// As [`Answer::chunk`]; `Corrupt` when a line is longer than any of the daemon's.
    pub(super) async fn fill(&mut self) -> Result<bool> {
        self.check_length(self.chunk.len())?;
        let rest = std::mem::take(&mut self.chunk);
        self.partial.extend_from_slice(&rest);
        match self.answer.chunk().await? {
            Some(chunk) => {
                self.chunk = chunk;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// A last line without an end of line, once [`Lines::fill`] said that nothing more comes.
    pub(super) fn last(&mut self) -> Option<Bytes> {
        let last = std::mem::take(&mut self.partial);
        (!last.iter().all(u8::is_ascii_whitespace)).then(|| last.into())
    }

    /// Reads a line.
    ///
    /// # Errors
    /// As [`parse`].
    pub(super) fn parse<'a, T: Deserialize<'a>>(&self, line: &'a [u8]) -> Result<T> {
        parse(&self.answer.path, line)
    }

    /// The error of a line that reads well and says what cannot be.
    pub(super) fn corrupt(&self, why: &str) -> Error {
        self.answer.corrupt(why)
    }

    fn check_length(&self, more: usize) -> Result<()> {
        if self.partial.len() + more > LINE_BYTES_MAX {
            return Err(self.answer.corrupt(&format!("it has a line of more than {LINE_BYTES_MAX} bytes")));
        }
        Ok(())
    }
}

/// Reads JSON of the daemon.
///
/// # Errors
/// `Remote` when it is the daemon's way to say an error, `Corrupt` when it is not what it should be.
pub(super) fn parse<'a, T: Deserialize<'a>>(path: &str, json: &'a [u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| {
        if let Ok(RemoteError { message }) = serde_json::from_slice(json) {
            return remote_error(path, 200, message);
        }
        let excerpt = String::from_utf8_lossy(&json[..json.len().min(EXCERPT_BYTES_MAX)]);
        corrupt(path, &format!("{error}, in {excerpt:?}"))
    })
}

/// Says that the answer to a request is not one of an IPFS daemon.
pub(super) fn corrupt(path: &str, why: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("the answer to {path} is not one of an IPFS daemon, check ipfshttp.node_multiaddress: {why}"),
    )
    .component(COMPONENT)
}
