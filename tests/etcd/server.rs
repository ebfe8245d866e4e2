//! What tests ask a real etcd.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::peer::{FACT_POLL, FACT_TIMEOUT};

pub(crate) use crate::etcd_server::Server;

impl Server {
    /// Asks it something, as soon as it answers.
    pub(crate) async fn ask(&self, path: &str, question: Value) -> Value {
        let started = Instant::now();
        loop {
            let sent = post(&format!("{}{path}", self.url()), &question).await;
            match sent {
                Ok(answer) => return answer,
                Err(error) => assert!(started.elapsed() < FACT_TIMEOUT, "{path}: {error}"),
            }
            sleep(FACT_POLL).await;
        }
    }

    /// Asks it something once; the text of what it says instead of an answer.
    pub(crate) async fn try_ask(&self, path: &str, question: Value) -> Result<Value, String> {
        post(&format!("{}{path}", self.url()), &question).await.map_err(|error| error.to_string())
    }

    pub(crate) async fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.ask("/v3/kv/put", json!({"key": base64(key), "value": base64(value)})).await;
    }

    /// How many keys begin with this.
    pub(crate) async fn count(&self, prefix: &str) -> u64 {
        let mut end = prefix.as_bytes().to_vec();
        *end.last_mut().unwrap() += 1;
        let question = json!({"key": base64(prefix), "range_end": base64(end), "count_only": true});
        let answer = self.ask("/v3/kv/range", question).await;
        answer["count"].as_str().map_or(0, |count| count.parse().unwrap())
    }

    /// Its revision.
    pub(crate) async fn revision(&self) -> i64 {
        let answer = self.ask("/v3/kv/range", json!({"key": base64("x"), "count_only": true})).await;
        answer["header"]["revision"].as_str().unwrap().parse().unwrap()
    }

    /// Forgets its history.
    pub(crate) async fn compact(&self) {
        let revision = self.revision().await;
        self.ask("/v3/kv/compaction", json!({"revision": revision.to_string(), "physical": true})).await;
    }
}

pub(crate) fn base64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// Good enough for a test: one connection for each request.
async fn post(url: &str, question: &Value) -> std::io::Result<Value> {
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).await?;
    let body = question.to_string();
    let length = body.len();
    let head = format!(
        "POST /{path} HTTP/1.0\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    if !head.contains(" 200 ") {
        return Err(std::io::Error::other(format!("{head} {body}")));
    }
    Ok(serde_json::from_str(body)?)
}
