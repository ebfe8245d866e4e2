//! Where an API listens: text to address.

use std::net::IpAddr;

use reqwest::Url;

use crate::error::{Error, ErrorKind, Result};
use crate::types::parse_multiaddr;

/// Port of the REST API when a host is given without one.
const DEFAULT_PORT: u16 = 9094;

/// An API address that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    /// `http://host:port/`, nothing behind it.
    pub(super) url: Url,
}

impl Host {
    /// Reads a multiaddress, `host:port`, a lone host name or an `http://` address.
    ///
    /// # Errors
    /// `InvalidInput` for what is no address, `Unsupported` for one that cannot be talked to.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let authority = if text.is_empty() {
            return Err(Error::invalid_input("failed to parse multiaddr \"\": empty multiaddr"));
        } else if text.starts_with('/') {
            from_multiaddr(text)?
        } else if let Some((scheme, rest)) = text.split_once("://") {
            match scheme.to_ascii_lowercase().as_str() {
                "http" => rest.trim_end_matches('/').to_owned(),
                "https" => return Err(https_unsupported(text)),
                _ => return Err(invalid(text, &format!("unknown scheme {scheme:?}, expected http"))),
            }
        } else {
            with_port(text)
        };
        let url = Url::parse(&format!("http://{authority}"))
            .map_err(|source| invalid(text, &source.to_string()).with_source(source))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid(text, "credentials do not belong into the address, set them as basic auth"));
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() || url.host().is_none() {
            return Err(invalid(text, "expected a multiaddress or host:port and nothing behind it"));
        }
        Ok(Self { url })
    }

    /// The host as the user knows it, with its port.
    pub(super) fn authority(&self) -> String {
        format!(
            "{}:{}",
            self.url.host_str().unwrap_or_default(),
            self.url.port_or_known_default().unwrap_or(80)
        )
    }

    /// Whether it is this machine, which no proxy of the environment can reach.
    pub(super) fn is_loopback(&self) -> bool {
        let name = self.url.host_str().unwrap_or_default();
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        name == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

/// What is said of an address that would need TLS.
pub(super) fn https_unsupported(text: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("host {text:?} asks for https, which this build cannot speak; use the plain http address"),
    )
    .component("client")
}

fn invalid(text: &str, reason: &str) -> Error {
    Error::invalid_input(format!("invalid host {text:?}: {reason}")).component("client")
}

fn from_multiaddr(text: &str) -> Result<String> {
    use multiaddr::Protocol;

    let unsupported = |what: &str| {
        let text =
            format!("host {text:?} asks for {what}, which this client cannot speak; use its tcp address");
        Err(Error::new(ErrorKind::Unsupported, text).component("client"))
    };
    if text.starts_with("/unix/") {
        // Our parser ends the path at its next slash, so it would report another mistake.
        return unsupported("a unix socket");
    }
    let address = parse_multiaddr(text)?;
    let (mut name, mut port) = (None, None);
    for part in address.iter() {
        match part {
            Protocol::Ip4(ip) if name.is_none() => name = Some(ip.to_string()),
            Protocol::Ip6(ip) if name.is_none() => name = Some(format!("[{ip}]")),
            Protocol::Dns(host) | Protocol::Dns4(host) | Protocol::Dns6(host) if name.is_none() => {
                name = Some(host.into_owned());
            }
            Protocol::Tcp(number) if name.is_some() && port.is_none() => port = Some(number),
            Protocol::Http if port.is_some() => {}
            Protocol::Https | Protocol::Tls => return Err(https_unsupported(text)),
            Protocol::P2p(_) | Protocol::Dnsaddr(_) => return unsupported("libp2p"),
            other => {
                return Err(invalid(text, &format!("{other} has no place in the address of an http API")));
            }
        }
    }
    match (name, port) {
        (Some(name), Some(port)) => Ok(format!("{name}:{port}")),
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
        ] {
            assert_eq!(Host::parse(text).unwrap().url.as_str(), url, "{text}");
        }
        assert!(Host::parse("[::1]").unwrap().is_loopback());
        assert!(!Host::parse("10.0.0.1").unwrap().is_loopback());
        assert_eq!(Host::parse("/dns4/example.com/tcp/80").unwrap().authority(), "example.com:80");
    }

    #[test]
    fn what_cannot_be_reached_is_refused_by_name() {
        use ErrorKind::{InvalidInput, Unsupported};
        for (text, kind, part) in [
            ("", InvalidInput, "empty multiaddr"),
            ("/ip4/bad/tcp/1", InvalidInput, "failed to parse multiaddr \"/ip4/bad/tcp/1\": "),
            ("/ip4/127.0.0.1", InvalidInput, "expected a host and a tcp port"),
            ("/ip4/127.0.0.1/udp/1", InvalidInput, "/udp/1 has no place"),
            ("/tcp/1", InvalidInput, "/tcp/1 has no place"),
            ("/ip4/127.0.0.1/tcp/1/https", Unsupported, "https"),
            ("/ip4/127.0.0.1/tcp/1/tls/http", Unsupported, "https"),
            ("https://example.com", Unsupported, "\"https://example.com\""),
            ("/unix/tmp/socket", Unsupported, "unix socket"),
            (
                "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWKqMeRxLjvowrtRFqBWaPALNyB3tJxAiubfhe9UdwgeBK",
                Unsupported,
                "libp2p",
            ),
            ("/dnsaddr/example.com", Unsupported, "libp2p"),
            ("ftp://example.com", InvalidInput, "unknown scheme \"ftp\""),
            ("http://a:b@example.com", InvalidInput, "basic auth"),
            ("example.com:99999", InvalidInput, "invalid port"),
            ("example.com:80/x", InvalidInput, "invalid"),
            ("http://example.com/x", InvalidInput, "nothing behind it"),
        ] {
            let error = Host::parse(text).unwrap_err();
            assert_eq!(error.kind(), kind, "{text}: {error}");
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }
}
