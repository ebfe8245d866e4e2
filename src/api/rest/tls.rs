//! TLS: the certificate from its files, and the beginning of a connection.

use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, version};
use tokio_rustls::server::TlsStream;

use super::drain::{LINGER, LINGER_BYTES, drain};
use crate::error::{Error, ErrorKind, Result};

/// Longest file of certificates or of a key, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Handshakes that are under way at a time; others wait, within their time.
const HANDSHAKES_MAX: usize = 512;
/// For a handshake, when heads may take as long as they like.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that tell what a connection begins with.
const BEGINNING_BYTES: usize = 5;
/// What the reference says to callers that do not encrypt.
const NOT_ENCRYPTED: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// A connection whose handshake is done.
pub(super) type Encrypted = TlsStream<Rewound>;

/// Where the certificate of the API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestTls {
    /// The certificate and those that vouch for it, in PEM.
    pub cert_file: PathBuf,
    /// The key of the certificate, in PEM.
    pub key_file: PathBuf,
}

/// Begins connections; cheap to clone.
#[derive(Clone)]
pub(super) struct Tls {
    acceptor: TlsAcceptor,
    handshakes: Arc<Semaphore>,
    timeout: Duration,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files. They are small and this happens once, before anything is served.
    ///
    /// # Errors
    /// `NotFound` and `Io` for a file that cannot be read, `InvalidInput` for what is in them; both name the file.
    pub(super) fn load(files: &RestTls, head_timeout: Duration) -> Result<Self> {
        let broken = |path: &Path, why: &dyn fmt::Display| {
            invalid(format!("error loading TLS certificate/key: {}: {why}", path.display()))
        };
        let (certificate, key) = (&files.cert_file, &files.key_file);
        let chain = CertificateDer::pem_slice_iter(&read(certificate)?)
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|error| broken(certificate, &error))?;
        if chain.is_empty() {
            return Err(broken(certificate, &"there is no certificate in it, expected PEM"));
        }
        let secret = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| broken(key, &error))?;
        // Given, never installed: which provider a program uses is not for a library to say.
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .map_err(|error| Error::internal(format!("TLS cannot be set up: {error}")).component("restapi"))?
            .with_no_client_auth()
            .with_single_cert(chain, secret)
            .map_err(|error| broken(certificate, &error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            timeout: if head_timeout.is_zero() { HANDSHAKE_TIMEOUT } else { head_timeout },
        })
    }

    /// Shakes hands, within the time for it. A caller that speaks plain HTTP is told so.
    ///
    /// # Errors
    /// When it is not done in time, or the other side does it wrong; for the log.
    pub(super) async fn begin(&self, stream: TcpStream) -> io::Result<Encrypted> {
        let in_time = tokio::time::timeout(self.timeout, self.shake_hands(stream)).await;
        in_time
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long")))
    }

    async fn shake_hands(&self, mut stream: TcpStream) -> io::Result<Encrypted> {
        let mut beginning = [0; BEGINNING_BYTES];
        stream.read_exact(&mut beginning).await?;
        if looks_like_http(&beginning) {
            stream.write_all(NOT_ENCRYPTED).await?;
            stream.shutdown().await?;
            drain(stream, LINGER, LINGER_BYTES).await;
            return Err(io::Error::other("the caller speaks plain HTTP"));
        }
        let _slot = self.handshakes.acquire().await.map_err(io::Error::other)?;
        self.acceptor.accept(Rewound { beginning, read: 0, stream }).await
    }
}

/// Whether it is the beginning of a request, by what the reference takes for one.
fn looks_like_http(beginning: &[u8; BEGINNING_BYTES]) -> bool {
    [b"GET /", b"HEAD ", b"POST ", b"PUT /", b"OPTIO", b"DELET", b"PATCH"].contains(&beginning)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = |error| {
        Error::io(format!("error loading TLS certificate/key: open {}", path.display()), error)
            .component("restapi")
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let text = format!("{} is longer than {FILE_BYTES_MAX} bytes", path.display());
        return Err(invalid(format!("error loading TLS certificate/key: {text}")));
    }
    Ok(bytes)
}

fn invalid(text: String) -> Error {
    Error::new(ErrorKind::InvalidInput, text).component("restapi")
}

/// A socket whose first bytes were read already, and are read again.
#[derive(Debug)]
pub(super) struct Rewound {
    beginning: [u8; BEGINNING_BYTES],
    read: usize,
    stream: TcpStream,
}

impl Rewound {
    pub(super) fn get_ref(&self) -> &TcpStream {
        &self.stream
    }
}

impl AsyncRead for Rewound {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let rest = &this.beginning[this.read..];
        if rest.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let length = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..length]);
        this.read += length;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("empty"), "").unwrap();
        std::fs::write(path("key"), "-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----\n").unwrap();
        std::fs::write(path("huge"), vec![b'a'; 1024 * 1024 + 1]).unwrap();
        for (name, kind, part) in [
            ("missing", ErrorKind::NotFound, "missing"),
            ("empty", ErrorKind::InvalidInput, "no certificate"),
            ("huge", ErrorKind::InvalidInput, "longer than 1048576 bytes"),
        ] {
            let files = RestTls { cert_file: path(name), key_file: path("key") };
            let error = Tls::load(&files, Duration::ZERO).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            let text = error.to_string();
            assert!(text.contains("error loading TLS certificate/key: ") && text.contains(part), "{text}");
            assert!(text.contains(name), "{text}");
        }
    }
}
