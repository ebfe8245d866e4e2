//! From a listen address to sockets.

use std::net::{IpAddr, SocketAddr};

use multiaddr::Protocol;
use tokio::net::{TcpListener, TcpSocket, lookup_host};

use crate::error::{Error, ErrorKind, Result};
use crate::types::Multiaddr;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// What an address says, before names are resolved.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Listen {
    Socket(SocketAddr),
    Name { name: String, port: u16, family: Family },
}

/// Which addresses of a name are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Any,
    V4,
    V6,
}

impl Listen {
    /// Reads `/ip4/…/tcp/…`, `/ip6/…/tcp/…`, and names (`/dns`, `/dns4`, `/dns6`).
    ///
    /// # Errors
    /// `Unsupported` for sockets in the file system; `InvalidInput` for anything else.
    pub(super) fn parse(address: &Multiaddr) -> Result<Self> {
        let parts: Vec<_> = address.iter().collect();
        let name = |name: &str, port: u16, family| Self::Name { name: name.to_owned(), port, family };
        match parts.as_slice() {
            [Protocol::Ip4(ip), Protocol::Tcp(port)] => Ok(Self::Socket((*ip, *port).into())),
            [Protocol::Ip6(ip), Protocol::Tcp(port)] => Ok(Self::Socket((*ip, *port).into())),
            [Protocol::Dns(host), Protocol::Tcp(port)] => Ok(name(host, *port, Family::Any)),
            [Protocol::Dns4(host), Protocol::Tcp(port)] => Ok(name(host, *port, Family::V4)),
            [Protocol::Dns6(host), Protocol::Tcp(port)] => Ok(name(host, *port, Family::V6)),
            [Protocol::Unix(_), ..] => Err(Error::new(
                ErrorKind::Unsupported,
                format!("restapi.http_listen_multiaddress: cannot listen on {address}; give a TCP address"),
            )
            .component("restapi")),
            _ => Err(Error::invalid_input(format!(
                "restapi.http_listen_multiaddress: cannot listen on {address}; expected /ip4/…/tcp/…, /ip6/…/tcp/… or \
                 /dns4/…/tcp/…"
            ))
            .component("restapi")),
        }
    }
}

/// Listens on an address; a name may have several.
pub(super) async fn listen(address: &Multiaddr) -> Result<Vec<TcpListener>> {
    let sockets = match Listen::parse(address)? {
        Listen::Socket(socket) => vec![socket],
        Listen::Name { name, port, family } => resolve(address, &name, port, family).await?,
    };
    sockets
        .into_iter()
        .map(|socket| {
            listen_on(socket).map_err(|error| {
                Error::io(format!("restapi.http_listen_multiaddress: cannot listen on {socket}"), error)
                    .component("restapi")
            })
        })
        .collect()
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

fn listen_on(address: SocketAddr) -> std::io::Result<TcpListener> {
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
        ] {
            assert_eq!(Listen::parse(&text.parse().unwrap()).unwrap(), expected);
        }
        for (text, kind) in [
            ("/unix/api.sock", ErrorKind::Unsupported),
            ("/ip4/127.0.0.1/udp/9094", ErrorKind::InvalidInput),
            ("/ip4/127.0.0.1/tcp/9094/http", ErrorKind::InvalidInput),
        ] {
            let error = Listen::parse(&text.parse().unwrap()).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.message().contains("http_listen_multiaddress") && error.message().contains(text));
        }
    }
}
