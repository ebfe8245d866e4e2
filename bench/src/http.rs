//! A lean HTTP/1.1 client: the load generator shares the machine with what it measures.

use std::net::SocketAddr;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const READ_BYTES: usize = 256 * 1024;

/// `user:password` that every request of this program carries.
pub(crate) const CREDENTIALS: &str = "bench:a password of some length";
/// The same in Base64, for a header.
const CREDENTIALS_BASE64: &str = "YmVuY2g6YSBwYXNzd29yZCBvZiBzb21lIGxlbmd0aA==";

static SENDS_CREDENTIALS: OnceLock<()> = OnceLock::new();

/// Makes every request of this program carry [`CREDENTIALS`].
pub(crate) fn send_credentials() {
    let _ = SENDS_CREDENTIALS.set(());
}

/// Whether requests carry [`CREDENTIALS`].
pub(crate) fn sends_credentials() -> bool {
    SENDS_CREDENTIALS.get().is_some()
}

/// One keep-alive connection.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What a request came to.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) lines: u64,
    pub(crate) bytes: u64,
    /// The body, where it was asked for.
    pub(crate) body: Vec<u8>,
    /// Where the next page of a listing begins.
    pub(crate) next: Option<String>,
    /// Time until the first byte of the body (or the end).
    pub(crate) first_byte: std::time::Duration,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(READ_BYTES) })
    }

    /// Sends a request and reads the whole answer, counting its lines. Keeps the body only when asked to.
    pub(crate) async fn request(&mut self, method: &str, target: &str, keep_body: bool) -> Result<Answer> {
        let started = std::time::Instant::now();
        self.send_head(method, target, "", 0).await?;
        self.answer(started, keep_body).await
    }

    /// Sends a body of so many bytes and then reads the whole answer: for those that come when all was sent.
    pub(crate) async fn upload(
        &mut self,
        target: &str,
        content_type: &str,
        length: u64,
        pieces: impl IntoIterator<Item = Bytes>,
    ) -> Result<Answer> {
        let started = std::time::Instant::now();
        self.send_head("POST", target, &format!("Content-Type: {content_type}\r\n"), length).await?;
        for piece in pieces {
            self.stream
                .write_all(&piece)
                .await
                .context("the connection was closed in the middle of an upload")?;
        }
        self.answer(started, true).await
    }

    async fn send_head(&mut self, method: &str, target: &str, more: &str, length: u64) -> Result<()> {
        let mut request =
            format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{more}");
        if sends_credentials() {
            request.push_str("Authorization: Basic ");
            request.push_str(CREDENTIALS_BASE64);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        Ok(self.stream.write_all(request.as_bytes()).await?)
    }

    async fn answer(&mut self, started: std::time::Instant, keep_body: bool) -> Result<Answer> {
        let head_end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            ensure!(self.buffer.len() < HEAD_BYTES_MAX, "the head of the answer is too long");
            self.fill().await?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..head_end]).into_owned();
        self.buffer.drain(..head_end);
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status")?;
        let next = header(&head, "x-next-cursor").map(str::to_owned);
        let first_byte = started.elapsed();
        let mut answer = Answer { status, lines: 0, bytes: 0, body: Vec::new(), next, first_byte };
        if status == 204 || status == 304 {
            return Ok(answer);
        }
        if let Some(length) = header(&head, "content-length") {
            let mut left: usize = length.parse().context("content-length")?;
            while left > 0 {
                if self.buffer.is_empty() {
                    self.fill().await?;
                }
                let taken = left.min(self.buffer.len());
                count(&mut answer, &self.buffer[..taken], keep_body);
                self.buffer.drain(..taken);
                left -= taken;
            }
            return Ok(answer);
        }
        ensure!(
            header(&head, "transfer-encoding").is_some_and(|how| how.eq_ignore_ascii_case("chunked")),
            "neither length nor chunks: {head}"
        );
        self.read_chunks(&mut answer, started, keep_body).await?;
        Ok(answer)
    }

    async fn read_chunks(
        &mut self,
        answer: &mut Answer,
        started: std::time::Instant,
        keep_body: bool,
    ) -> Result<()> {
        // Bytes of the buffer that are used up; dropped in bulk, because chunks can be small.
        let mut at = 0;
        let mut first = true;
        loop {
            let line_end = loop {
                if let Some(end) = find(&self.buffer[at..], b"\r\n") {
                    break at + end;
                }
                self.buffer.drain(..at);
                at = 0;
                self.fill().await?;
            };
            let size = std::str::from_utf8(&self.buffer[at..line_end]).context("chunk size")?;
            let mut left = usize::from_str_radix(size.trim(), 16).context("chunk size")?;
            at = line_end + 2;
            if first {
                answer.first_byte = started.elapsed();
                first = false;
            }
            if left == 0 {
                break;
            }
            left += 2;
            while left > 0 {
                if at == self.buffer.len() {
                    self.buffer.clear();
                    at = 0;
                    self.fill().await?;
                }
                let taken = left.min(self.buffer.len() - at);
                let content = taken - 2usize.saturating_sub(left - taken).min(taken);
                count(answer, &self.buffer[at..at + content], keep_body);
                at += taken;
                left -= taken;
            }
        }
        // Trailers end with an empty line.
        self.buffer.drain(..at);
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let trailer = String::from_utf8_lossy(&self.buffer[..end]).to_string();
                self.buffer.drain(..end + 2);
                if trailer.is_empty() {
                    return Ok(());
                }
                if let Some((name, value)) = trailer.split_once(':')
                    && name.eq_ignore_ascii_case("x-stream-error")
                    && !value.trim().is_empty()
                {
                    bail!("the stream ended with an error: {}", value.trim());
                }
            } else {
                self.fill().await?;
            }
        }
    }

    async fn fill(&mut self) -> Result<()> {
        self.buffer.reserve(READ_BYTES);
        let read = self.stream.read_buf(&mut self.buffer).await?;
        ensure!(read > 0, "the connection was closed in the middle of an answer");
        Ok(())
    }
}

fn count(answer: &mut Answer, bytes: &[u8], keep: bool) {
    answer.bytes += bytes.len() as u64;
    answer.lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
    if keep {
        answer.body.extend_from_slice(bytes);
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}
