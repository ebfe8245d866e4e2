//! Writing a listing to a connection.
//!
//! By hand, because hyper sends trailers only to callers that announce that they take them, and clients of the
//! reference do not: they would take a listing that broke off for a whole one.

use std::io;
use std::time::Duration;

use bytes::Buf;
use hyper::header::CONNECTION;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use super::activity::Takeover;
use super::answer::{self, Content, Listing};
use super::ear::{Ear, next};
use super::lines::Flow;
use super::lines::{Failures, Lines};
use crate::api::json::Civil;
use crate::types::Timestamp;

/// Writes the answer. The caller must close the connection afterwards unless `keep_alive`; after an error it must do so
/// in a way that the other side notices.
///
/// # Errors
/// When the connection fails or its other side takes nothing for `stall`; when a listing fails and the other side
/// cannot be told otherwise.
pub(super) async fn write<Io>(
    io: &mut Io,
    takeover: Takeover,
    keep_alive: bool,
    now: Timestamp,
    stall: Duration,
    stop: &CancellationToken,
) -> io::Result<()>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let Takeover { listing, chunked, .. } = takeover;
    let mut head = head(&listing, chunked, keep_alive, now);
    // Its line in the access log is written when this function ends, however it does.
    let Listing { content, mut record, flow, .. } = listing;
    let mut ear = (flow == Flow::Endless).then(|| Ear::new(stop));
    let mut sent = |bytes: usize| {
        if let Some(record) = &mut record {
            record.sent(bytes);
        }
    };
    match content {
        Content::Empty => {
            head.extend_from_slice(b"\r\n");
            send(io, &head[..], stall).await
        }
        Content::Failed(error) => {
            let body = answer::error_body(&error);
            head.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
            sent(body.len());
            send(io, (&head[..]).chain(&body[..]), stall).await
        }
        Content::Lines(lines) if chunked => {
            head.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            send(io, &head[..], stall).await?;
            write_chunks(io, lines, flow, sent, stall, &mut ear).await
        }
        Content::Lines(mut lines) => {
            head.extend_from_slice(b"\r\n");
            send(io, &head[..], stall).await?;
            while let Some(page) = next(&mut lines, io, &mut ear).await? {
                // Without trailers, a connection that breaks off is the only way to say so.
                let page = page.map_err(io::Error::other)?;
                sent(page.len());
                send(io, &page[..], stall).await?;
            }
            Ok(())
        }
    }
}

async fn write_chunks<Io>(
    io: &mut Io,
    mut lines: Lines,
    flow: Flow,
    mut sent: impl FnMut(usize),
    stall: Duration,
    ear: &mut Option<Ear<'_>>,
) -> io::Result<()>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let mut failures = Failures::default();
    while let Some(page) = next(&mut lines, io, ear).await? {
        match page {
            Ok(page) => {
                let size = format!("{:x}\r\n", page.len());
                sent(page.len());
                send(io, size.as_bytes().chain(&page[..]).chain(&b"\r\n"[..]), stall).await?;
            }
            Err(error) if failures.push(&error) => {}
            Err(_) => break,
        }
    }
    let mut end = b"0\r\n".to_vec();
    for value in failures.values(flow) {
        end.extend_from_slice(b"X-Stream-Error: ");
        end.extend_from_slice(value.as_bytes());
        end.extend_from_slice(b"\r\n");
    }
    end.extend_from_slice(b"\r\n");
    send(io, &end[..], stall).await
}

fn head(listing: &Listing, chunked: bool, keep_alive: bool, now: Timestamp) -> Vec<u8> {
    let status = listing.status();
    let (version, reason) = (u8::from(chunked), status.canonical_reason().unwrap_or_default());
    let mut head = format!("HTTP/1.{version} {} {reason}\r\n", status.as_u16()).into_bytes();
    // That one is ours to say.
    for (name, value) in listing.headers.iter().filter(|(name, _)| *name != CONNECTION) {
        head.extend_from_slice(answer::canonical(name.as_str()).as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"Content-Type: ");
    head.extend_from_slice(listing.content_type.as_bytes());
    head.extend_from_slice(b"\r\nTrailer: X-Stream-Error\r\nDate: ");
    head.extend_from_slice(http_date(now).as_bytes());
    head.extend_from_slice(b"\r\n");
    if !keep_alive {
        head.extend_from_slice(b"Connection: close\r\n");
    }
    head
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(time: Timestamp) -> String {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let Civil { year, month, day, hour, minute, second, weekday } = Civil::of(time.unix_seconds());
    format!(
        "{}, {day:02} {} {year:04} {hour:02}:{minute:02}:{second:02} GMT",
        DAYS[weekday % DAYS.len()],
        MONTHS[(month - 1) % MONTHS.len()],
    )
}

/// Sends everything, as long as the other side takes something now and then.
async fn send<Io: AsyncWrite + Unpin>(io: &mut Io, mut data: impl Buf, stall: Duration) -> io::Result<()> {
    while data.has_remaining() {
        let write = io.write_buf(&mut data);
        let written = if stall.is_zero() {
            write.await?
        } else {
            tokio::time::timeout(stall, write).await.map_err(|_| io::ErrorKind::TimedOut)??
        };
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::api::error::ApiError;
    use crate::error::Error;
    use crate::types::{Block, Pin, PinOptions};

    const STALL: Duration = Duration::from_secs(60);

    async fn written(content: Content, chunked: bool) -> (String, io::Result<()>) {
        let mut listing = Listing::from(content);
        listing.headers.append("x-test", "one".parse().unwrap());
        listing.headers.append("x-test", "two".parse().unwrap());
        let (mut caller, mut server) = tokio::io::duplex(64 * 1024);
        let takeover = Takeover { listing, chunked, keep_alive: true };
        let now = "1994-11-06T08:49:37Z".parse().unwrap();
        let outcome = write(&mut server, takeover, chunked, now, STALL, &CancellationToken::new()).await;
        drop(server);
        let mut text = String::new();
        caller.read_to_string(&mut text).await.unwrap();
        (text, outcome)
    }

    fn lines(end: Option<Error>) -> Content {
        let pin = Pin::new(Block::raw("x").cid, PinOptions::default());
        let pages = [Ok(vec![pin])].into_iter().chain(end.map(Err));
        Content::Lines(Lines::of(futures::stream::iter(pages.collect::<Vec<_>>()).boxed()))
    }

    const HEADERS: &str = "X-Test: one\r\nX-Test: two\r\nContent-Type: application/json\r\n\
                           Trailer: X-Stream-Error\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n";

    #[tokio::test]
    async fn a_listing_without_lines_is_204_and_one_that_fails_at_once_is_a_document() {
        let (text, _) = written(Content::Empty, true).await;
        assert_eq!(text, format!("HTTP/1.1 204 No Content\r\n{HEADERS}\r\n"));
        let (text, _) = written(Content::Failed(ApiError::new(500, "no")), true).await;
        let body = "{\"code\":500,\"message\":\"no\"}\n";
        assert_eq!(
            text,
            format!(
                "HTTP/1.1 500 Internal Server Error\r\n{HEADERS}Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
        );
    }

    #[tokio::test]
    async fn the_trailer_is_empty_on_success_and_tells_every_error_otherwise() {
        let (text, _) = written(lines(None), true).await;
        assert!(text.starts_with(&format!("HTTP/1.1 200 OK\r\n{HEADERS}Transfer-Encoding: chunked\r\n\r\n")));
        assert!(text.ends_with("}\n\r\n0\r\nX-Stream-Error: \r\n\r\n"), "{text}");
        let (text, outcome) = written(lines(Some(Error::internal("half-way"))), true).await;
        assert!(text.ends_with("}\n\r\n0\r\nX-Stream-Error: half-way\r\n\r\n"), "{text}");
        outcome.unwrap();
    }

    #[tokio::test]
    async fn an_old_caller_gets_no_chunks_and_a_broken_connection_for_an_error() {
        let (text, outcome) = written(lines(None), false).await;
        assert!(
            text.starts_with(&format!("HTTP/1.0 200 OK\r\n{HEADERS}Connection: close\r\n\r\n{{")),
            "{text}"
        );
        assert!(text.ends_with("}\n") && outcome.is_ok());
        let (_, outcome) = written(lines(Some(Error::internal("half-way"))), false).await;
        outcome.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_takes_nothing_is_given_up() {
        let (_caller, mut server) = tokio::io::duplex(64);
        let takeover = Takeover { listing: lines(None).into(), chunked: true, keep_alive: true };
        let started = tokio::time::Instant::now();
        let stop = CancellationToken::new();
        let error =
            write(&mut server, takeover, true, Timestamp::UNIX_EPOCH, STALL, &stop).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed(), STALL);
    }
}
