//! A caller that sees everything: a raw HTTP/1.1 client.

use std::net::SocketAddr;

use ipfs_cluster::transport::{ByteStream, PeerStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// An answer as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) version: String,
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// How many chunks it had; none when it was not chunked.
    pub(crate) chunks: Option<usize>,
    pub(crate) trailers: Vec<(String, String)>,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The documents of a listing.
    pub(crate) fn lines(&self) -> Vec<serde_json::Value> {
        assert!(self.body.is_empty() || self.body.ends_with(b"\n"));
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The values of the trailer `X-Stream-Error`.
    pub(crate) fn stream_errors(&self) -> Vec<&str> {
        let is_ours = |name: &str| name.eq_ignore_ascii_case("x-stream-error");
        self.trailers.iter().filter(|(name, _)| is_ours(name)).map(|(_, value)| value.as_str()).collect()
    }
}

/// One connection.
pub(crate) struct Caller {
    stream: PeerStream,
    buffer: Vec<u8>,
    /// The last request was a HEAD, whose answer has no body whatever its headers say.
    head: bool,
}

impl Caller {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap())
    }

    /// On a connection of any kind.
    pub(crate) fn over(stream: impl ByteStream + 'static) -> Self {
        Self { stream: Box::new(stream), buffer: Vec::new(), head: false }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.head = bytes.as_ref().starts_with(b"HEAD ");
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Closes our side for writing.
    pub(crate) async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// A request without a body, and its answer.
    pub(crate) async fn call(&mut self, method: &str, path: &str) -> Received {
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        self.answer().await
    }

    /// A request with a body, and its answer.
    pub(crate) async fn call_with(&mut self, method: &str, path: &str, body: &str) -> Received {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
        self.send(head + body).await;
        self.answer().await
    }

    /// Waits for the first bytes of an answer, which is read later.
    pub(crate) async fn begun(&mut self) {
        assert!(self.fill().await.unwrap() > 0);
    }

    /// Reads one answer; panics when there is none.
    pub(crate) async fn answer(&mut self) -> Received {
        self.try_answer().await.unwrap()
    }

    /// Reads one answer.
    pub(crate) async fn try_answer(&mut self) -> std::io::Result<Received> {
        let status_line = self.line().await?;
        let (version, rest) = status_line.split_once(' ').unwrap();
        let status = rest[..3].parse().unwrap();
        let headers = self.fields().await?;
        let mut received = Received {
            version: version.to_owned(),
            status,
            headers,
            body: Vec::new(),
            chunks: None,
            trailers: Vec::new(),
        };
        if self.head || status < 200 || status == 204 {
            return Ok(received);
        }
        if received.header("transfer-encoding") == Some("chunked") {
            let mut chunks = 0;
            loop {
                let size = usize::from_str_radix(&self.line().await?, 16).unwrap();
                if size == 0 {
                    break;
                }
                received.body.extend(self.bytes(size).await?);
                assert_eq!(self.line().await?, "");
                chunks += 1;
            }
            received.chunks = Some(chunks);
            received.trailers = self.fields().await?;
        } else if let Some(length) = received.header("content-length") {
            let length = length.parse().unwrap();
            received.body = self.bytes(length).await?;
        } else {
            while self.fill().await? > 0 {}
            received.body = std::mem::take(&mut self.buffer);
        }
        Ok(received)
    }

    /// Whether the server closes the connection without sending anything more.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && !matches!(self.fill().await, Ok(1..))
    }

    /// Reads some bytes, as they come.
    pub(crate) async fn some(&mut self) -> std::io::Result<usize> {
        self.buffer.clear();
        self.fill().await
    }

    /// Reads until this was there.
    pub(crate) async fn until(&mut self, text: &str) {
        while !self.buffer.windows(text.len()).any(|bytes| bytes == text.as_bytes()) {
            assert!(self.fill().await.unwrap() > 0, "it ended before {text:?}");
        }
    }

    async fn fill(&mut self) -> std::io::Result<usize> {
        self.buffer.reserve(64 * 1024);
        self.stream.read_buf(&mut self.buffer).await
    }

    async fn line(&mut self) -> std::io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.buffer.drain(..end + 2).take(end).collect();
                return Ok(String::from_utf8(line).unwrap());
            }
            if self.fill().await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn fields(&mut self) -> std::io::Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').unwrap();
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    async fn bytes(&mut self, count: usize) -> std::io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            if self.fill().await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.drain(..count).collect())
    }
}
