//! Where an API listens: text to address.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use multiaddr::Protocol;
use reqwest::Url;

use crate::error::{Error, ErrorKind, Result};
use crate::types::{Multiaddr, parse_multiaddr};

/// Port of the REST API when a host is given without one.
const DEFAULT_PORT: u16 = 9094;
/// Most addresses of a name that are tried.
const ADDRESSES_MAX: usize = 16;
/// What stands for the host in requests over a Unix socket, as in the reference.
const UNIX_HOST: &str = "restapi";

/// An API address that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    /// `http://host:port/` or `https://host:port/`, nothing behind it. What is no name of the network has one that only
    /// serves for the paths.
    pub(super) url: Url,
    pub(super) via: Via,
}

/// How to get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Via {
    /// Over TCP, to these addresses of the name.
    Tcp(Family),
    /// Over a socket of the file system.
    Unix(PathBuf),
    /// Over a stream of libp2p.
    Peer(Multiaddr),
}

/// Which addresses of a name are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Any,
    V4,
    V6,
}

impl Family {
    fn has(self, address: &SocketAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// What was read of a multiaddress that is not libp2p's.
struct Tcp {
    authority: String,
    family: Family,
    is_encrypted: bool,
}

impl Host {
    /// Reads a multiaddress, `host:port`, a lone host name, or an `http://` or `https://` address. With `https`, those
    /// that go over TCP are encrypted whatever they say.
    ///
    /// # Errors
    /// `InvalidInput` for what is no address, `Unsupported` for one that cannot be talked to.
    pub(super) fn parse(text: &str, https: bool) -> Result<Self> {
        let text = text.trim();
        let tcp = if text.is_empty() {
            return Err(Error::invalid_input("failed to parse multiaddr \"\": empty multiaddr"));
        } else if text.starts_with('/') {
            let address = parse_multiaddr(text)?;
            match address.iter().next() {
                Some(Protocol::Unix(path)) => return Self::unix(text, &path),
                _ if is_peer(&address) => return Self::peer(text, address),
                _ => from_multiaddr(text, &address)?,
            }
        } else {
            let (authority, is_encrypted) = match text.split_once("://") {
                Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
                    "http" => (rest.trim_end_matches('/').to_owned(), false),
                    "https" => (rest.trim_end_matches('/').to_owned(), true),
                    _ => {
                        let why = format!("unknown scheme {scheme:?}, expected http or https");
                        return Err(invalid(text, &why));
                    }
                },
                None => (with_port(text), false),
            };
            Tcp { authority, family: Family::Any, is_encrypted }
        };
        let scheme = if https || tcp.is_encrypted { "https" } else { "http" };
        let url = Url::parse(&format!("{scheme}://{}", tcp.authority))
            .map_err(|source| invalid(text, &source.to_string()).with_source(source))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid(text, "credentials do not belong into the address, set them as basic auth"));
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() || url.host().is_none() {
            return Err(invalid(text, "expected a multiaddress or host:port and nothing behind it"));
        }
        Ok(Self { url, via: Via::Tcp(tcp.family) })
    }

    fn unix(text: &str, path: &str) -> Result<Self> {
        if !cfg!(unix) {
            let why =
                format!("host {text:?} asks for a unix socket, which this system lacks; use its tcp address");
            return Err(Error::new(ErrorKind::Unsupported, why).component("client"));
        }
        let path = PathBuf::from(format!("/{}", path.trim_start_matches('/')));
        Ok(Self { url: nominal(text, UNIX_HOST)?, via: Via::Unix(path) })
    }

    fn peer(text: &str, address: Multiaddr) -> Result<Self> {
        if !cfg!(feature = "transport-libp2p") {
            let why =
                format!("host {text:?} asks for libp2p, which this build cannot speak; use its tcp address");
            return Err(Error::new(ErrorKind::Unsupported, why).component("client"));
        }
        if address.iter().count() == 1 && matches!(address.iter().next(), Some(Protocol::P2p(_))) {
            return Err(invalid(text, "it only includes a peer ID, not where that is"));
        }
        // The name is a peer id, whose case matters: it is sent and shown as it is, and never through a URL.
        Ok(Self { url: nominal(text, UNIX_HOST)?, via: Via::Peer(address) })
    }

    /// The host as the user knows it, with its port.
    pub(super) fn authority(&self) -> String {
        match &self.via {
            Via::Tcp(_) => authority(&self.url),
            Via::Unix(path) => path.display().to_string(),
            Via::Peer(address) => address.to_string(),
        }
    }

    /// An address of a request as it is shown, in the reference's form.
    pub(super) fn shown(&self, url: &Url) -> String {
        let path = || url.as_str().strip_prefix(self.url.as_str()).unwrap_or_default();
        match &self.via {
            Via::Tcp(_) => url.to_string(),
            Via::Unix(_) => format!("http+unix://{UNIX_HOST}/{}", path()),
            Via::Peer(address) => format!("libp2p://{}/{}", peer_name(address), path()),
        }
    }

    /// Whether it is this machine, which no proxy of the environment can reach.
    pub(super) fn is_loopback(&self) -> bool {
        let name = self.url.host_str().unwrap_or_default();
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        name == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    pub(super) fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// This host by each address that its name has, in the order of the system; by its name where the name is needed
    /// to know it again (https), and where only a proxy may know it.
    ///
    /// # Errors
    /// `Unavailable` when the name has no address of the family.
    pub(super) async fn addresses(&self) -> Result<Vec<Url>> {
        let Via::Tcp(family) = self.via else { return Ok(vec![self.url.clone()]) };
        let name = match self.url.host_str() {
            Some(name) if self.url.domain().is_some() && !self.is_https() => name,
            _ => return Ok(vec![self.url.clone()]),
        };
        let port = self.url.port_or_known_default().unwrap_or(DEFAULT_PORT);
        let Ok(found) = tokio::net::lookup_host((name, port)).await else {
            return Ok(vec![self.url.clone()]);
        };
        let mut urls = Vec::new();
        for address in found.filter(|address| family.has(address)) {
            let mut url = self.url.clone();
            if url.set_ip_host(address.ip()).is_ok() && !urls.contains(&url) && urls.len() < ADDRESSES_MAX {
                urls.push(url);
            }
        }
        if urls.is_empty() {
            let text = format!("lookup {name}: it has no address of the kind that was asked for");
            return Err(Error::new(ErrorKind::Unavailable, text).component("client"));
        }
        Ok(urls)
    }
}

/// The host of an address and its port, always.
pub(super) fn authority(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(80))
}

/// Who is meant: the peer's id, or the name under which ids are found.
pub(super) fn peer_name(address: &Multiaddr) -> String {
    let mut name = String::new();
    for part in address.iter() {
        match part {
            Protocol::P2p(peer) => name = peer.to_string(),
            Protocol::Dnsaddr(host) if name.is_empty() => name = host.into_owned(),
            _ => {}
        }
    }
    name
}

/// Whether an address leads to a peer of libp2p, as the reference tells.
fn is_peer(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::P2p(_) | Protocol::Dnsaddr(_)))
}

fn nominal(text: &str, host: &str) -> Result<Url> {
    Url::parse(&format!("http://{host}/"))
        .map_err(|source| invalid(text, &source.to_string()).with_source(source))
}

fn invalid(text: &str, reason: &str) -> Error {
    Error::invalid_input(format!("invalid host {text:?}: {reason}")).component("client")
}

fn from_multiaddr(text: &str, address: &Multiaddr) -> Result<Tcp> {
    let (mut name, mut port, mut family, mut is_encrypted) = (None, None, Family::Any, false);
    for part in address.iter() {
        match part {
            Protocol::Ip4(ip) if name.is_none() => name = Some(ip.to_string()),
            Protocol::Ip6(ip) if name.is_none() => name = Some(format!("[{ip}]")),
            Protocol::Dns(host) if name.is_none() => name = Some(host.into_owned()),
            Protocol::Dns4(host) if name.is_none() => (name, family) = (Some(host.into_owned()), Family::V4),
            Protocol::Dns6(host) if name.is_none() => (name, family) = (Some(host.into_owned()), Family::V6),
            Protocol::Tcp(number) if name.is_some() && port.is_none() => port = Some(number),
            Protocol::Http if port.is_some() => {}
            Protocol::Https | Protocol::Tls if port.is_some() => is_encrypted = true,
            other => {
                return Err(invalid(text, &format!("{other} has no place in the address of an http API")));
            }
        }
    }
    match (name, port) {
        (Some(name), Some(port)) => Ok(Tcp { authority: format!("{name}:{port}"), family, is_encrypted }),
        _ => Err(invalid(text, "expected a host and a tcp port, for example /ip4/127.0.0.1/tcp/9094")),
    }
}

/// Adds the default port to a name or address that has none; a bad one is left for the URL parser to name.
fn with_port(text: &str) -> String {
    let after_address = text.rsplit(']').next().unwrap_or(text);
    if after_address.contains(':') { text.to_owned() } else { format!("{text}:{DEFAULT_PORT}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_an_address_is_understood() {
        for (text, url) in [
            ("/ip4/127.0.0.1/tcp/9094", "http://127.0.0.1:9094/"),
            ("/ip4/127.0.0.1/tcp/9094/http", "http://127.0.0.1:9094/"),
            ("/ip6/::1/tcp/9094", "http://[::1]:9094/"),
            ("/dns4/example.com/tcp/80", "http://example.com/"),
            ("/dns/cluster/tcp/1234", "http://cluster:1234/"),
            ("localhost:9094", "http://localhost:9094/"),
            (" localhost ", "http://localhost:9094/"),
            ("[::1]", "http://[::1]:9094/"),
            ("[::1]:80", "http://[::1]/"),
            ("http://10.0.0.1:5000/", "http://10.0.0.1:5000/"),
            ("https://example.com", "https://example.com/"),
            ("/ip4/127.0.0.1/tcp/1/https", "https://127.0.0.1:1/"),
            ("/dns/example.com/tcp/1/tls/http", "https://example.com:1/"),
        ] {
            assert_eq!(Host::parse(text, false).unwrap().url.as_str(), url, "{text}");
        }
        assert!(Host::parse("[::1]", false).unwrap().is_loopback());
        assert!(!Host::parse("10.0.0.1", false).unwrap().is_loopback());
        assert_eq!(Host::parse("/dns4/example.com/tcp/80", false).unwrap().authority(), "example.com:80");
    }

    #[test]
    fn what_cannot_be_reached_is_refused_by_name() {
        use ErrorKind::InvalidInput;
        #[cfg(not(feature = "transport-libp2p"))]
        use ErrorKind::Unsupported;
        for (text, kind, part) in [
            ("", InvalidInput, "empty multiaddr"),
            ("/ip4/bad/tcp/1", InvalidInput, "failed to parse multiaddr \"/ip4/bad/tcp/1\": "),
            ("/ip4/127.0.0.1", InvalidInput, "expected a host and a tcp port"),
            ("/ip4/127.0.0.1/udp/1", InvalidInput, "/udp/1 has no place"),
            ("/tcp/1", InvalidInput, "/tcp/1 has no place"),
            ("/https/ip4/127.0.0.1/tcp/1", InvalidInput, "/https has no place"),
            ("/unix/", InvalidInput, "there is no path"),
            #[cfg(feature = "transport-libp2p")]
            (
                "/p2p/12D3KooWKqMeRxLjvowrtRFqBWaPALNyB3tJxAiubfhe9UdwgeBK",
                InvalidInput,
                "only includes a peer ID",
            ),
            #[cfg(not(feature = "transport-libp2p"))]
            ("/dnsaddr/example.com", Unsupported, "libp2p"),
            ("ftp://example.com", InvalidInput, "unknown scheme \"ftp\""),
            ("http://a:b@example.com", InvalidInput, "basic auth"),
            ("example.com:99999", InvalidInput, "invalid port"),
            ("example.com:80/x", InvalidInput, "invalid"),
            ("http://example.com/x", InvalidInput, "nothing behind it"),
        ] {
            let error = Host::parse(text, false).unwrap_err();
            assert_eq!(error.kind(), kind, "{text}: {error}");
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn https_can_be_asked_of_every_host_that_goes_over_tcp() {
        for text in ["/ip4/127.0.0.1/tcp/9094", "localhost", "http://localhost:9094"] {
            assert_eq!(Host::parse(text, true).unwrap().url.scheme(), "https", "{text}");
        }
        #[cfg(unix)]
        assert!(!Host::parse("/unix/api.sock", true).unwrap().is_https());
    }

    #[cfg(unix)]
    #[test]
    fn a_socket_is_shown_as_the_reference_shows_it() {
        let host = Host::parse("/unix/run/cluster/api.sock", false).unwrap();
        assert_eq!(host.via, Via::Unix("/run/cluster/api.sock".into()));
        assert_eq!(host.authority(), "/run/cluster/api.sock");
        let url = host.url.join("pins?local=true").unwrap();
        assert_eq!(host.shown(&url), "http+unix://restapi/pins?local=true");
    }

    #[cfg(feature = "transport-libp2p")]
    #[test]
    fn peers_are_known_by_their_id_or_by_the_name_that_leads_to_it() {
        const PEER: &str = "12D3KooWKqMeRxLjvowrtRFqBWaPALNyB3tJxAiubfhe9UdwgeBK";
        for (text, name) in [
            (format!("/ip4/127.0.0.1/tcp/1/p2p/{PEER}"), PEER),
            (format!("/dns4/example.com/tcp/1/ipfs/{PEER}"), PEER),
            (format!("/dnsaddr/example.com/p2p/{PEER}"), PEER),
            ("/dnsaddr/example.com".to_owned(), "example.com"),
        ] {
            let host = Host::parse(&text, true).unwrap();
            assert!(matches!(host.via, Via::Peer(_)), "{text}");
            let url = host.url.join("id").unwrap();
            assert_eq!(host.shown(&url), format!("libp2p://{name}/id"));
        }
    }

    #[tokio::test]
    async fn a_name_stands_for_each_of_its_addresses() {
        let urls = |text: &'static str, https| async move {
            let urls = Host::parse(text, https).unwrap().addresses().await.unwrap();
            urls.into_iter().map(String::from).collect::<Vec<_>>()
        };
        assert_eq!(urls("/dns4/localhost/tcp/7", false).await, ["http://127.0.0.1:7/"]);
        assert!(urls("localhost:7", false).await.contains(&"http://127.0.0.1:7/".to_owned()));
        assert_eq!(urls("/dns4/localhost/tcp/7", true).await, ["https://localhost:7/"]);
        assert_eq!(urls("/dns4/no.such.host.invalid/tcp/7", false).await, ["http://no.such.host.invalid:7/"]);
        assert_eq!(urls("/ip4/10.0.0.1/tcp/7", false).await, ["http://10.0.0.1:7/"]);
    }
}
