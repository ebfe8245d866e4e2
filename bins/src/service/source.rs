//! Fetches a configuration that is somewhere else.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use futures::StreamExt as _;
use ipfs_cluster::config::FILE_BYTES_MAX;
use ipfs_cluster::{Error, ErrorKind, Result};
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use tracing::{error, info};

/// For the whole configuration, redirects included.
const FETCH_TIMEOUT: Duration = Duration::from_secs(60);
/// For one connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Redirects that are followed, as in Go's client.
const REDIRECTS_MAX: usize = 10;
/// Most bytes of an answer that is no configuration, in the error.
const REFUSAL_BYTES_MAX: usize = 1024;

/// Somebody answered, with a status that is no success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: u16,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.status)
    }
}

impl std::error::Error for Refusal {}

/// The text at an address, by one GET. Blocks, for a minute at most.
///
/// # Errors
/// With the reference's texts: `Unavailable` when there is no answer, and when the status is 300 or more, with the
/// beginning of the answer; `InvalidInput` for an answer that is too large or no text.
pub fn fetch(url: &str) -> Result<String> {
    // On a thread of its own, because whoever calls may be in a runtime already.
    let fetched = std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|source| Error::io("starting the runtime", source))?;
            runtime.block_on(get(url))
        });
        worker.join()
    });
    fetched.unwrap_or_else(|_| Err(Error::internal("fetching the configuration panicked")))
}

/// The text at an address, as [`fetch`] gives it. Cancel-safe.
///
/// # Errors
/// As [`fetch`]. One whose source is a [`Refusal`] is an answer; any other `Unavailable` is none.
pub async fn get(url: &str) -> Result<String> {
    let Ok(parsed) = Url::parse(url) else {
        return Err(not_fetched(url, "it is not a URL"));
    };
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(not_fetched(url, "it is neither http nor https"));
    }
    let shown = without_credentials(&parsed);
    info!("loading configuration from {shown}");
    let client = Client::builder()
        .timeout(FETCH_TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(Policy::limited(REDIRECTS_MAX))
        .build()
        .map_err(|error| not_fetched(&shown, &reason(error)))?;
    let answer = client.get(parsed).send().await.map_err(|error| not_fetched(&shown, &reason(error)))?;
    let status = answer.status().as_u16();
    let most = if status >= 300 { REFUSAL_BYTES_MAX as u64 } else { FILE_BYTES_MAX };
    let mut body = Vec::new();
    let mut pieces = answer.bytes_stream();
    while let Some(piece) = pieces.next().await {
        body.extend_from_slice(&piece.map_err(|error| not_fetched(&shown, &reason(error)))?);
        if body.len() as u64 > most {
            break;
        }
    }
    if status >= 300 {
        body.truncate(REFUSAL_BYTES_MAX);
        // It ends up on a terminal.
        let text: String = String::from_utf8_lossy(&body)
            .chars()
            .filter(|character| !character.is_control() || *character == '\n')
            .collect();
        return Err(
            unavailable(format!("unsuccessful request ({status}): {text}")).with_source(Refusal { status })
        );
    }
    if body.len() as u64 > FILE_BYTES_MAX {
        return Err(Error::invalid_input(format!(
            "the configuration at {shown} is larger than {FILE_BYTES_MAX} bytes"
        )));
    }
    String::from_utf8(body).map_err(|source| {
        Error::invalid_input(format!("the configuration at {shown} is not UTF-8: {source}"))
    })
}

/// The reference's text says no more; why goes to the log.
fn not_fetched(shown: &str, reason: &str) -> Error {
    error!("no configuration from {shown}: {reason}");
    unavailable(format!("could not fetch configuration from source: {shown}"))
}

fn unavailable(text: String) -> Error {
    Error::new(ErrorKind::Unavailable, text)
}

/// The innermost cause; the others repeat the address.
fn reason(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut innermost: &dyn std::error::Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    match error.source() {
        None => error.to_string(),
        Some(_) => format!("{error}: {innermost}"),
    }
}

/// For logs and errors.
pub fn without_credentials(url: &Url) -> String {
    let mut shown = url.clone();
    if shown.username().is_empty() && shown.password().is_none() {
        return url.to_string();
    }
    // Fails for an address without a host, which has none to hide.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.to_string()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// Answers one request after the other, and says where.
    fn server(answers: Vec<Vec<u8>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for answer in answers {
                let Ok((mut stream, _)) = listener.accept() else { return };
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                    head.push(byte[0]);
                }
                let _ = stream.write_all(&answer);
            }
        });
        format!("http://{address}")
    }

    fn answer(head: &str, body: &str) -> Vec<u8> {
        format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
            .into_bytes()
    }

    #[test]
    fn a_configuration_is_fetched_also_through_redirects() {
        let url = server(vec![answer("200 OK", "{}")]);
        assert_eq!(fetch(&format!("{url}/service.json")).unwrap(), "{}");
        let url = server(vec![answer("302 Found\r\nLocation: /b", ""), answer("200 OK", "{\"a\": 1}")]);
        assert_eq!(fetch(&format!("{url}/a")).unwrap(), "{\"a\": 1}");
    }

    #[test]
    fn a_refusal_has_the_text_of_the_reference_and_the_beginning_of_the_answer() {
        let url = server(vec![answer("404 Not Found", "no such file\n")]);
        assert_eq!(fetch(&url).unwrap_err().to_string(), "unsuccessful request (404): no such file\n");
        let url = server(vec![answer("500 Oh", &"x".repeat(100_000))]);
        assert_eq!(fetch(&url).unwrap_err().to_string().len(), "unsuccessful request (500): ".len() + 1024);
        let url = server(vec![answer("304 Not Modified", "")]);
        assert_eq!(fetch(&url).unwrap_err().to_string(), "unsuccessful request (304): ");
    }

    #[test]
    fn where_nobody_answers_the_address_is_named_without_its_password() {
        for (url, shown) in [
            ("http://127.0.0.1:1/service.json", "http://127.0.0.1:1/service.json"),
            ("http://me:hunter2@127.0.0.1:1/x", "http://127.0.0.1:1/x"),
            ("ftp://127.0.0.1/x", "ftp://127.0.0.1/x"),
            ("some.dns.example", "some.dns.example"),
        ] {
            let error = fetch(url).unwrap_err().to_string();
            assert_eq!(error, format!("could not fetch configuration from source: {shown}"));
        }
    }

    #[test]
    fn what_is_too_large_half_sent_or_no_text_is_refused() {
        let large = server(vec![answer("200 OK", &"x".repeat(FILE_BYTES_MAX as usize + 1))]);
        assert!(fetch(&large).unwrap_err().to_string().contains("larger than 4194304 bytes"));
        let half = server(vec![b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{".to_vec()]);
        assert!(fetch(&half).unwrap_err().to_string().starts_with("could not fetch"));
        let binary = server(vec![b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe".to_vec()]);
        assert!(fetch(&binary).unwrap_err().to_string().contains("not UTF-8"));
        let round = format!("302 Found\r\nLocation: /{}", "x");
        let rounds = server(vec![answer(&round, ""); 12]);
        assert!(fetch(&rounds).unwrap_err().to_string().starts_with("could not fetch"));
    }

    #[tokio::test]
    async fn it_can_be_fetched_from_within_a_runtime() {
        let url = server(vec![answer("200 OK", "{}")]);
        assert_eq!(fetch(&url).unwrap(), "{}");
    }
}
