//! Where a daemon's RPC API is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use multiaddr::Protocol;
use reqwest::Url;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::error::{Error, Result};
use crate::types::{Multiaddr, parse_multiaddr};

/// The address of a daemon's RPC API: a multiaddress (`/ip4/127.0.0.1/tcp/5001`, `/dns4/kubo/tcp/5001`,
/// `/unix/run/ipfs.sock`) or a URL (`http://127.0.0.1:5001`). Written as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KuboAddress {
    text: String,
    target: Target,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    /// `host:port`, with brackets around IPv6, and what stands before `/api/v0/`.
    Tcp {
        host_port: String,
        base: String,
    },
    Unix(PathBuf),
}

impl KuboAddress {
    /// Where Kubo listens when nobody said otherwise.
    pub(super) fn local_default() -> Self {
        Self {
            text: "/ip4/127.0.0.1/tcp/5001".to_owned(),
            target: Target::Tcp {
                host_port: "127.0.0.1:5001".to_owned(),
                base: "http://127.0.0.1:5001".to_owned(),
            },
        }
    }

    /// What stands before the command in a request's URL, as errors show it.
    pub(super) fn shown_url(&self) -> String {
        match &self.target {
            Target::Tcp { base, .. } => format!("{base}/api/v0/"),
            Target::Unix(_) => "http+unix://ipfs/api/v0/".to_owned(),
        }
    }

    /// What stands before the command in a request's URL.
    pub(super) fn url(&self) -> String {
        match &self.target {
            Target::Tcp { base, .. } => format!("{base}/api/v0/"),
            Target::Unix(_) => "http://ipfs/api/v0/".to_owned(),
        }
    }

    /// What a failed connection attempt names: `dial tcp 127.0.0.1:5001: connect`.
    pub(super) fn dial_text(&self) -> String {
        match &self.target {
            Target::Tcp { host_port, .. } => format!("dial tcp {host_port}: connect"),
            Target::Unix(path) => format!("dial unix {}: connect", path.display()),
        }
    }

    /// The socket, when it is one.
    pub(super) fn unix_path(&self) -> Option<&Path> {
        match &self.target {
            Target::Tcp { .. } => None,
            Target::Unix(path) => Some(path),
        }
    }

    fn from_url(text: &str) -> Result<Self> {
        let invalid = |why: &str| {
            Error::invalid_input(format!(
                "invalid address of the IPFS daemon {text:?}: {why} (expected for example \"http://127.0.0.1:5001\")"
            ))
        };
        let url = Url::parse(text).map_err(|error| invalid(&error.to_string()))?;
        match url.scheme() {
            "http" => {}
            "https" => return Err(invalid("https is not supported, use http or a unix socket")),
            _ => return Err(invalid("the scheme must be http")),
        }
        if !url.username().is_empty() || url.password().is_some() {
            // It would stand in every log line and error.
            return Err(invalid("user and password are not supported in it"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(invalid("it must end before ? and #"));
        }
        let host = url.host_str().ok_or_else(|| invalid("the host is missing"))?;
        let port = url.port_or_known_default().ok_or_else(|| invalid("the port is missing"))?;
        let host_port = format!("{host}:{port}");
        let path = url.path().trim_end_matches('/');
        let path = path.strip_suffix("/api/v0").unwrap_or(path);
        let base = format!("http://{host_port}{path}");
        Ok(Self { text: text.to_owned(), target: Target::Tcp { host_port, base } })
    }

    fn from_multiaddr(text: &str, address: &Multiaddr) -> Result<Self> {
        let invalid = |why: &str| {
            Error::invalid_input(format!(
                "invalid address of the IPFS daemon {text:?}: {why} (expected for example \"/ip4/127.0.0.1/tcp/5001\")"
            ))
        };
        let mut parts = address.iter();
        let host = match parts.next() {
            Some(Protocol::Ip4(ip)) => ip.to_string(),
            Some(Protocol::Ip6(ip)) => format!("[{ip}]"),
            Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => name.into_owned(),
            _ => return Err(invalid("it must begin with ip4, ip6, dns, dns4, dns6 or unix")),
        };
        let Some(Protocol::Tcp(port)) = parts.next() else {
            return Err(invalid("a tcp port must follow the host"));
        };
        match (parts.next(), parts.next()) {
            (None | Some(Protocol::Http), None) => {}
            (Some(Protocol::Https | Protocol::Tls), _) => return Err(invalid("https is not supported")),
            _ => return Err(invalid("nothing but http may follow the port")),
        }
        let host_port = format!("{host}:{port}");
        let base = format!("http://{host_port}");
        // A name in a multiaddress may hold what a URL cannot.
        Url::parse(&base).map_err(|error| invalid(&error.to_string()))?;
        Ok(Self { text: text.to_owned(), target: Target::Tcp { host_port, base } })
    }
}

impl FromStr for KuboAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if !text.starts_with('/') {
            return Self::from_url(text);
        }
        // Not by the multiaddress parser: in the reference everything after /unix is the path.
        if let Some(path) = text.strip_prefix("/unix/") {
            if path.trim_matches('/').is_empty() {
                return Err(Error::invalid_input(format!(
                    "invalid address of the IPFS daemon {text:?}: the path of the socket is missing"
                )));
            }
            return Ok(Self {
                text: text.to_owned(),
                target: Target::Unix(PathBuf::from(format!("/{}", path.trim_start_matches('/')))),
            });
        }
        Self::from_multiaddr(text, &parse_multiaddr(text)?)
    }
}

impl TryFrom<&str> for KuboAddress {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self> {
        text.parse()
    }
}

impl TryFrom<String> for KuboAddress {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl TryFrom<Multiaddr> for KuboAddress {
    type Error = Error;

    fn try_from(address: Multiaddr) -> Result<Self> {
        Self::from_multiaddr(&address.to_string(), &address)
    }
}

impl fmt::Display for KuboAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for KuboAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for KuboAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let address = match &*text {
            address if address.starts_with('/') || address.contains("://") => address.parse(),
            // In files the reference expects a multiaddress, and so does its text.
            other => parse_multiaddr(other).and_then(Self::try_from),
        };
        address.map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_every_kind_are_understood() {
        for (text, url, dial) in [
            ("/ip4/127.0.0.1/tcp/5001", "http://127.0.0.1:5001/api/v0/", "dial tcp 127.0.0.1:5001: connect"),
            (
                "/ip4/127.0.0.1/tcp/5001/http",
                "http://127.0.0.1:5001/api/v0/",
                "dial tcp 127.0.0.1:5001: connect",
            ),
            ("/ip6/::1/tcp/5001", "http://[::1]:5001/api/v0/", "dial tcp [::1]:5001: connect"),
            ("/dns4/kubo.local/tcp/80", "http://kubo.local:80/api/v0/", "dial tcp kubo.local:80: connect"),
            ("/unix/run/ipfs/api.sock", "http://ipfs/api/v0/", "dial unix /run/ipfs/api.sock: connect"),
            ("http://127.0.0.1:5001", "http://127.0.0.1:5001/api/v0/", "dial tcp 127.0.0.1:5001: connect"),
            ("http://127.0.0.1:5001/", "http://127.0.0.1:5001/api/v0/", "dial tcp 127.0.0.1:5001: connect"),
            (
                "http://127.0.0.1:5001/api/v0/",
                "http://127.0.0.1:5001/api/v0/",
                "dial tcp 127.0.0.1:5001: connect",
            ),
            ("http://[::1]:5001", "http://[::1]:5001/api/v0/", "dial tcp [::1]:5001: connect"),
            ("http://localhost", "http://localhost:80/api/v0/", "dial tcp localhost:80: connect"),
            ("http://proxy:8080/kubo", "http://proxy:8080/kubo/api/v0/", "dial tcp proxy:8080: connect"),
        ] {
            let address: KuboAddress = text.parse().unwrap();
            assert_eq!((address.url().as_str(), address.dial_text().as_str()), (url, dial), "{text}");
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn an_address_that_cannot_work_says_why() {
        for (text, why) in [
            ("", "relative URL without a base"),
            ("127.0.0.1:5001", "relative URL without a base"),
            ("https://127.0.0.1:5001", "https is not supported"),
            ("http://user:secret@127.0.0.1:5001", "user and password"),
            ("http://127.0.0.1:5001/?arg=1", "it must end before ? and #"),
            ("ftp://127.0.0.1", "the scheme must be http"),
            ("/ip4/127.0.0.1", "a tcp port must follow the host"),
            ("/ip4/127.0.0.1/udp/5001", "a tcp port must follow the host"),
            ("/ip4/127.0.0.1/tcp/5001/tls", "https is not supported"),
            ("/ip4/127.0.0.1/tcp/5001/ws", "nothing but http may follow the port"),
            ("/p2p/12D3KooWApga4bncThrVGQKb7k52uMR3amfGvaAZ8dm6jDN85nAj", "it must begin with ip4"),
            ("/ip4/nonsense/tcp/1", "failed to parse multiaddr"),
            ("/unix/", "the path of the socket is missing"),
        ] {
            let error = text.parse::<KuboAddress>().unwrap_err();
            assert!(error.message().contains(why), "{text}: {error}");
        }
    }
}
