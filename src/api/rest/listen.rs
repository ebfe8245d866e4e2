//! From a listen address to sockets, and from those to connections.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use multiaddr::Protocol;
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};

use super::caller::Caller;
use super::io::Io;
use super::tls::Tls;
use crate::error::{Error, ErrorKind, Result};
use crate::types::Multiaddr;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// What an address says, before names are resolved.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Listen {
    Socket(SocketAddr),
    Name { name: String, port: u16, family: Family },
    Path(PathBuf),
}

/// Which addresses of a name are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Any,
    V4,
    V6,
}

/// A socket that listens.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp {
        listener: TcpListener,
        address: SocketAddr,
        tls: Option<Tls>,
    },
    #[cfg(unix)]
    Unix(super::unix::Listening),
}

/// A connection that has to begin yet.
#[derive(Debug)]
pub(super) enum Accepted {
    Tcp(TcpStream, SocketAddr, Option<Tls>),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
}

impl Listen {
    /// Reads `/ip4/…/tcp/…`, `/ip6/…/tcp/…`, names (`/dns`, `/dns4`, `/dns6`), and `/unix/…`.
    ///
    /// # Errors
    /// `InvalidInput` for anything else; `Unsupported` for sockets in the file system where the system has none.
    pub(super) fn parse(address: &Multiaddr) -> Result<Self> {
        let parts: Vec<_> = address.iter().collect();
        let name = |name: &str, port: u16, family| Self::Name { name: name.to_owned(), port, family };
        match parts.as_slice() {
            [Protocol::Ip4(ip), Protocol::Tcp(port)] => Ok(Self::Socket((*ip, *port).into())),
            [Protocol::Ip6(ip), Protocol::Tcp(port)] => Ok(Self::Socket((*ip, *port).into())),
            [Protocol::Dns(host), Protocol::Tcp(port)] => Ok(name(host, *port, Family::Any)),
            [Protocol::Dns4(host), Protocol::Tcp(port)] => Ok(name(host, *port, Family::V4)),
            [Protocol::Dns6(host), Protocol::Tcp(port)] => Ok(name(host, *port, Family::V6)),
            [Protocol::Unix(path)] if cfg!(unix) => {
                Ok(Self::Path(PathBuf::from(format!("/{}", path.trim_start_matches('/')))))
            }
            [Protocol::Unix(_)] => Err(Error::new(
                ErrorKind::Unsupported,
                format!("restapi.http_listen_multiaddress: cannot listen on {address} on this system; give a TCP address"),
            )
            .component("restapi")),
            _ => Err(Error::invalid_input(format!(
                "restapi.http_listen_multiaddress: cannot listen on {address}; expected /ip4/…/tcp/…, /ip6/…/tcp/…, \
                 /dns4/…/tcp/… or /unix/…"
            ))
            .component("restapi")),
        }
    }
}

/// Listens on an address; a name may have several. TLS is for TCP: a socket in the file system is guarded by the system.
pub(super) async fn listen(address: &Multiaddr, tls: Option<&Tls>) -> Result<Vec<Listener>> {
    let failed = |error: io::Error, place: &dyn std::fmt::Display| {
        Error::io(format!("restapi.http_listen_multiaddress: cannot listen on {place}"), error)
            .component("restapi")
    };
    let sockets = match Listen::parse(address)? {
        Listen::Socket(socket) => vec![socket],
        Listen::Name { name, port, family } => resolve(address, &name, port, family).await?,
        #[cfg(unix)]
        Listen::Path(path) => {
            let listening = super::unix::Listening::bind(&path).await;
            let listening = listening.map_err(|error| failed(error, &path.display()))?;
            return Ok(vec![Listener::Unix(listening)]);
        }
        #[cfg(not(unix))]
        Listen::Path(path) => {
            return Err(failed(io::ErrorKind::Unsupported.into(), &path.display()));
        }
    };
    sockets
        .into_iter()
        .map(|socket| {
            let listener = listen_on(socket).map_err(|error| failed(error, &socket))?;
            let address = listener.local_addr().map_err(|error| failed(error, &socket))?;
            Ok(Listener::Tcp { listener, address, tls: tls.cloned() })
        })
        .collect()
}

impl Listener {
    pub(super) fn socket_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp { address, .. } => Some(*address),
            #[cfg(unix)]
            Self::Unix(_) => None,
        }
    }

    pub(super) fn multiaddress(&self) -> Multiaddr {
        match self {
            Self::Tcp { address, .. } => Multiaddr::from(address.ip()).with(Protocol::Tcp(address.port())),
            #[cfg(unix)]
            Self::Unix(listening) => {
                let path = listening.path().to_string_lossy();
                Multiaddr::from(Protocol::Unix(path.trim_start_matches('/').into()))
            }
        }
    }

    /// Waits for a caller. Cancel-safe.
    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp { listener, tls, .. } => {
                let (stream, address) = listener.accept().await?;
                Ok(Accepted::Tcp(stream, address, tls.clone()))
            }
            #[cfg(unix)]
            Self::Unix(listening) => listening.accept().await.map(Accepted::Unix),
        }
    }
}

impl Accepted {
    /// The connection, ready for requests.
    ///
    /// # Errors
    /// When a handshake fails or takes too long; for the log.
    pub(super) async fn begin(self) -> io::Result<(Io, Caller)> {
        match self {
            Self::Tcp(stream, address, tls) => {
                // Answers are written in one piece, so waiting for more to send only delays them.
                let _ = stream.set_nodelay(true);
                let io = match tls {
                    Some(tls) => Io::Tls(Box::new(tls.begin(stream).await?)),
                    None => Io::Tcp(stream),
                };
                Ok((io, Caller::Tcp(address)))
            }
            #[cfg(unix)]
            Self::Unix(stream) => Ok((Io::Unix(stream), Caller::Unix)),
        }
    }
}

async fn resolve(address: &Multiaddr, name: &str, port: u16, family: Family) -> Result<Vec<SocketAddr>> {
    let unknown = |why: String| {
        Error::new(
            ErrorKind::Unavailable,
            format!("restapi.http_listen_multiaddress: cannot resolve {name} of {address}: {why}"),
        )
        .component("restapi")
    };
    let found = lookup_host((name, port)).await.map_err(|error| unknown(error.to_string()))?;
    let mut sockets: Vec<_> = found
        .filter(|socket| match family {
            Family::Any => true,
            Family::V4 => socket.is_ipv4(),
            Family::V6 => socket.is_ipv6(),
        })
        .collect();
    sockets.sort_unstable();
    sockets.dedup();
    if sockets.is_empty() { Err(unknown("it has no such address".to_owned())) } else { Ok(sockets) }
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address.ip() {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => {
            let socket = TcpSocket::new_v6()?;
            // Otherwise /ip6/::/tcp/9094 would take the port from /ip4/0.0.0.0/tcp/9094.
            socket2::SockRef::from(&socket).set_only_v6(true)?;
            socket
        }
    };
    // A restarted peer gets its port back while old connections are still in their last wait.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_others_are_refused_by_name() {
        for (text, expected) in [
            ("/ip4/127.0.0.1/tcp/9094", Listen::Socket("127.0.0.1:9094".parse().unwrap())),
            ("/ip6/::1/tcp/9094", Listen::Socket("[::1]:9094".parse().unwrap())),
            (
                "/dns4/localhost/tcp/1",
                Listen::Name { name: "localhost".to_owned(), port: 1, family: Family::V4 },
            ),
            #[cfg(unix)]
            ("/unix/run/api.sock", Listen::Path("/run/api.sock".into())),
            #[cfg(unix)]
            ("/unix//run/api.sock", Listen::Path("/run/api.sock".into())),
        ] {
            assert_eq!(Listen::parse(&crate::types::parse_multiaddr(text).unwrap()).unwrap(), expected);
        }
        for (text, kind) in [
            ("/ip4/127.0.0.1/udp/9094", ErrorKind::InvalidInput),
            ("/ip4/127.0.0.1/tcp/9094/http", ErrorKind::InvalidInput),
        ] {
            let error = Listen::parse(&text.parse().unwrap()).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.message().contains("http_listen_multiaddress") && error.message().contains(text));
        }
    }
}
