//! Where a configuration is, and getting it.

use std::net::IpAddr;

use ipfs_cluster::config::FILE_BYTES_MAX;
use ipfs_cluster::ipfs_connector::{KuboConfig, KuboConnector};
use ipfs_cluster::types::{parse_cid, parse_peer};
use ipfs_cluster::{Error, ErrorKind, Result};
use reqwest::Url;
use tracing::{info, warn};

use crate::service::source::{Refusal, get, without_credentials};

/// The gateway of the local IPFS daemon, where nobody moved it.
pub const DEFAULT_GATEWAY: &str = "127.0.0.1:8080";
/// Multicodec of a CID that stands for a key, and so for a name.
const LIBP2P_KEY: u64 = 0x72;

/// An address that a configuration can be fetched from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    url: String,
    via: Via,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Via {
    /// It was an address.
    Url,
    /// A name, looked up in DNS.
    DnsLink(String),
    /// A path of IPFS.
    Path(String),
}

impl Source {
    /// What a user means: an address (`http://…`, `https://…`), a path (`/ipfs/…`, `/ipns/…`), a CID, a key of IPNS, or a
    /// name with a DNSLink. All but the first go through the gateway.
    ///
    /// # Errors
    /// `InvalidInput` for what is none of it, and for a gateway that is none.
    pub fn from_argument(argument: &str, gateway: &str) -> Result<Self> {
        let refuse = |why: &str| {
            Err(Error::invalid_input(format!(
                "{argument:?} is no place for a configuration: {why}; expected http://…, https://…, /ipns/…, /ipfs/…, a \
                 CID, or a name with a DNSLink"
            )))
        };
        if argument.is_empty() {
            return Err(Error::invalid_input("configuration URL not provided"));
        }
        if argument.starts_with("http://") || argument.starts_with("https://") {
            return match Url::parse(argument) {
                Ok(url) if url.host().is_some() => Ok(Self { url: argument.to_owned(), via: Via::Url }),
                _ => refuse("it is no URL"),
            };
        }
        // What a URL would read as something else than a part of the path.
        let odd = |c: char| {
            c.is_control() || c.is_whitespace() || matches!(c, '?' | '#' | '\\' | '%' | '"' | '<' | '>')
        };
        if argument.contains(odd) {
            return refuse("it has a character that no path has");
        }
        let (namespace, rest) = match argument {
            _ if argument.starts_with("/ipfs/") || argument.starts_with("ipfs://") => {
                ("ipfs", &argument[6..])
            }
            _ if argument.starts_with("/ipns/") || argument.starts_with("ipns://") => {
                ("ipns", &argument[6..])
            }
            _ if argument.contains("://") => return refuse("it is neither http nor https"),
            _ if argument.starts_with('/') => return refuse("it is neither below /ipfs nor below /ipns"),
            _ => (namespace_of(argument.split('/').next().unwrap_or(argument)), argument),
        };
        let rest = rest.trim_start_matches('/');
        let rest = rest.strip_prefix("ipfs/").filter(|_| argument.starts_with("ipfs://")).unwrap_or(rest);
        if rest.trim_end_matches('/').is_empty() || rest.split('/').any(|name| matches!(name, "." | "..")) {
            return refuse("it is no path");
        }
        if namespace == "ipfs" && parse_cid(rest.split('/').next().unwrap_or_default()).is_err() {
            return refuse("what stands behind /ipfs/ is no CID");
        }
        let path = format!("/{namespace}/{rest}");
        let url = format!("{}{path}", gateway_url(gateway)?);
        let root = rest.split('/').next().unwrap_or_default();
        let is_key = parse_cid(root).is_ok() || parse_peer(root).is_ok();
        let is_name =
            namespace == "ipns" && !is_key && root == argument.split('/').next().unwrap_or_default();
        Ok(Self { url, via: if is_name { Via::DnsLink(path) } else { Via::Path(path) } })
    }

    /// What is written into the file.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What the user is told that the argument was taken for; nothing for an address.
    pub fn explanation(&self, argument: &str, gateway: &str) -> String {
        let taken_for = match &self.via {
            Via::Url => return String::new(),
            Via::DnsLink(path) => format!("an DNSLink-powered address: {path}"),
            Via::Path(path) => format!("an IPFS path: {path}"),
        };
        format!(
            "{argument} will be assumed to be {taken_for}.\nIt will be resolved using the local IPFS daemon's gateway \
             ({gateway}).\nIf this is not the case, specify the full url starting with http:// or https://.\n(You can \
             override the gateway URL by setting IPFS_GATEWAY)\n\n"
        )
    }
}

fn namespace_of(word: &str) -> &'static str {
    match parse_cid(word) {
        Ok(cid) if cid.codec() == LIBP2P_KEY => "ipns",
        Ok(_) => "ipfs",
        // A key of IPNS, or a name.
        Err(_) => "ipns",
    }
}

/// With a scheme and without a slash at the end.
fn gateway_url(gateway: &str) -> Result<String> {
    let url = with_scheme(gateway).trim_end_matches('/').to_owned();
    match Url::parse(&url) {
        Ok(parsed) if matches!(parsed.scheme(), "http" | "https") && parsed.host().is_some() => Ok(url),
        _ => Err(Error::invalid_input(format!(
            "{gateway:?} is no gateway: expected for example {DEFAULT_GATEWAY} or https://ipfs.io"
        ))),
    }
}

/// The reference writes addresses of its default gateway without one, and then cannot fetch them.
fn with_scheme(address: &str) -> String {
    if address.contains("://") { address.to_owned() } else { format!("http://{address}") }
}

/// A source as it may be shown: without a password.
pub fn shown(source: &str) -> String {
    super::shown(&Url::parse(source).map_or_else(
        |_| source.to_owned(),
        |url| match url.password() {
            None if url.username().is_empty() => source.to_owned(),
            _ => without_credentials(&url),
        },
    ))
}

/// The path of IPFS that a source is, if it is one behind the local gateway or the one named: then it can be had from the
/// local daemon too.
pub fn ipfs_path(source: &str, gateway: &str) -> Option<String> {
    let url = Url::parse(&with_scheme(source)).ok()?;
    let gateway = gateway_url(gateway).ok().and_then(|gateway| Url::parse(&gateway).ok());
    let is_gateway =
        gateway.is_some_and(|gateway| gateway.host() == url.host() && gateway.port() == url.port());
    let host = url.host_str()?.trim_matches(['[', ']']);
    let is_local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let path = url.path();
    let is_path = path.starts_with("/ipns/") || path.starts_with("/ipfs/");
    (is_path && (is_gateway || is_local)).then(|| path.to_owned())
}

/// The text at a source. Where the gateway does not answer, the daemon behind it is asked itself. Cancel-safe.
///
/// # Errors
/// As [`get`].
pub async fn fetch(source: &str, gateway: &str, ipfs: &KuboConfig) -> Result<String> {
    let failed = match get(&with_scheme(source)).await {
        Err(error) if is_silence(&error) => error,
        answer => return answer,
    };
    let Some(path) = ipfs_path(source, gateway) else { return Err(failed) };
    info!("the gateway does not answer, asking the IPFS daemon itself for {path}");
    match cat(&path, ipfs).await {
        Ok(text) => Ok(text),
        Err(error) => {
            warn!("no configuration from the IPFS daemon either: {error}");
            Err(failed)
        }
    }
}

/// Whether nobody answered, as opposed to an answer that says no.
pub fn is_silence(error: &Error) -> bool {
    error.kind() == ErrorKind::Unavailable && error.downcast_source::<Refusal>().is_none()
}

async fn cat(path: &str, ipfs: &KuboConfig) -> Result<String> {
    let connector = KuboConnector::with_config(ipfs.clone())?;
    let bytes = connector.cat(path, usize::try_from(FILE_BYTES_MAX).unwrap_or(usize::MAX));
    let bytes = tokio::time::timeout(super::ipfs::WAIT_MAX, bytes)
        .await
        .map_err(|_| Error::new(ErrorKind::Timeout, format!("the IPFS daemon does not find {path}")))??;
    String::from_utf8(bytes.to_vec())
        .map_err(|source| Error::invalid_input(format!("the configuration at {path} is not UTF-8: {source}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CID: &str = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";
    const KEY: &str = "k51qzi5uqu5dhl8zpelw0xrmnj1smsgnvjxf1blr1lbc4hkkxp8gtjp5rq6t0t";
    const KEY_CID: &str = "bafzaajaiaejca4syrpdu6gdx4wsdnokxkprgzxf4wrstuc34gxw5k5jrag2so5gk";

    fn url(argument: &str, gateway: &str) -> Result<String> {
        Source::from_argument(argument, gateway).map(|source| source.url().to_owned())
    }

    #[test]
    fn what_a_user_names_becomes_an_address() {
        for (argument, gateway, expected) in [
            ("http://x/y", DEFAULT_GATEWAY, "http://x/y".to_owned()),
            ("https://x", DEFAULT_GATEWAY, "https://x".to_owned()),
            ("some.dns.example", DEFAULT_GATEWAY, "http://127.0.0.1:8080/ipns/some.dns.example".to_owned()),
            (
                "a.example/x/service.json",
                "https://gw/",
                "https://gw/ipns/a.example/x/service.json".to_owned(),
            ),
            ("/ipns/a.example", "gw:80", "http://gw:80/ipns/a.example".to_owned()),
            ("ipns://a.example", "gw", "http://gw/ipns/a.example".to_owned()),
            (CID, "gw", format!("http://gw/ipfs/{CID}")),
            (&format!("/ipfs/{CID}/x"), "gw", format!("http://gw/ipfs/{CID}/x")),
            (&format!("ipfs://{CID}"), "gw", format!("http://gw/ipfs/{CID}")),
            (KEY, "gw", format!("http://gw/ipns/{KEY}")),
            (KEY_CID, "gw", format!("http://gw/ipns/{KEY_CID}")),
        ] {
            assert_eq!(url(argument, gateway).unwrap(), expected, "{argument}");
        }
    }

    #[test]
    fn only_a_name_is_called_one() {
        for (argument, text) in [
            (
                "some.dns.example",
                "some.dns.example will be assumed to be an DNSLink-powered address: /ipns/some.dns.example.\n",
            ),
            (KEY, "will be assumed to be an IPFS path: /ipns/k51"),
            ("12D3KooWRN8KRjpyg9rsW2w7StbBRGper65psTZm68cjud9KAkaW", "an IPFS path: /ipns/12D3"),
            ("/ipns/a.example", "/ipns/a.example will be assumed to be an IPFS path: /ipns/a.example.\n"),
        ] {
            let source = Source::from_argument(argument, "gw").unwrap();
            let said = source.explanation(argument, "gw");
            assert!(said.contains(text) && said.contains("gateway (gw).\n"), "{argument}: {said}");
        }
        assert_eq!(Source::from_argument("http://x/", "gw").unwrap().explanation("http://x/", "gw"), "");
    }

    #[test]
    fn what_is_no_place_is_refused_with_what_is() {
        for bad in [
            "ftp://x/y",
            "/etc/passwd",
            "/ipfs/x",
            "/ipns/",
            "a b",
            "a\nb",
            "a?b",
            "x/../y",
            "http://",
            "ipfs://",
        ] {
            let error = url(bad, DEFAULT_GATEWAY).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad}");
            assert!(error.message().contains("a name with a DNSLink"), "{bad}: {error}");
        }
        assert_eq!(url("", DEFAULT_GATEWAY).unwrap_err().message(), "configuration URL not provided");
        for bad in ["", "ftp://x", "a b", "http://"] {
            assert!(url("name.example", bad).unwrap_err().message().contains("is no gateway"), "{bad}");
        }
    }

    #[test]
    fn only_a_path_behind_our_gateway_can_be_had_from_the_daemon() {
        for (source, gateway, expected) in [
            ("127.0.0.1:8080/ipns/x", DEFAULT_GATEWAY, Some("/ipns/x")),
            ("http://127.0.0.1:9/ipfs/x/y", DEFAULT_GATEWAY, Some("/ipfs/x/y")),
            ("http://[::1]:9/ipns/x", DEFAULT_GATEWAY, Some("/ipns/x")),
            ("http://localhost/ipns/x", DEFAULT_GATEWAY, Some("/ipns/x")),
            ("https://gw.example/ipns/x", "https://gw.example", Some("/ipns/x")),
            ("https://gw.example/ipns/x", DEFAULT_GATEWAY, None),
            ("http://127.0.0.1:8080/service.json", DEFAULT_GATEWAY, None),
        ] {
            assert_eq!(ipfs_path(source, gateway).as_deref(), expected, "{source}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(shown("http://u:p@x/y"), "http://x/y");
        assert_eq!(shown("127.0.0.1:8080/ipns/x\u{1b}"), "127.0.0.1:8080/ipns/x\\u{1b}");
        assert_eq!(shown("http://x"), "http://x");
    }
}
