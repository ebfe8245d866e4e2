//! Files that the daemon refers to instead of copying them: its filestore.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::time::{Instant, sleep_until};

use super::http::{Judge, Upload, remote_message};
use super::{COMPONENT, Inner, query_escape};
use crate::config::duration;
use crate::error::{Error, ErrorKind, Result};
use crate::ipfs_connector::Reference;
use crate::types::{AddLayout, Cid, parse_cid};

/// Asks for what nobody refers to: the block of no bytes that is its own CID. A daemon that runs without its filestore
/// refuses; what its configuration says may be newer than it, and then it copies without a word.
const ENABLED_PATH: &str = "filestore/ls?arg=bafkqaaa";
const HOW_TO_ENABLE: &str =
    "run `ipfs config --json Experimental.FilestoreEnabled true` and start the daemon again";
/// How the daemon says that its filestore is off.
const NOT_ENABLED_TEXTS: [&str; 2] = ["is not enabled", "must be enabled"];

/// What `diag/sys` says of where it runs.
#[derive(Deserialize)]
struct SystemAnswer {
    environment: Environment,
}

#[derive(Deserialize)]
struct Environment {
    #[serde(rename = "IPFS_PATH", default)]
    ipfs_path: String,
}

/// A line of `add`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AddLine {
    hash: String,
}

impl Inner {
    pub(super) async fn reference_root(&self) -> Result<Option<PathBuf>> {
        let timeout = self.config.ipfs_request_timeout;
        let enabled: Result<IgnoredAny> = self.http.ask(timeout, ENABLED_PATH, Judge::Nothing).await;
        enabled.map_err(not_enabled)?;
        // The daemon's own rule: files are noted by their path from the folder that its repository is in. Where that is by
        // default it says only together with the number of its blocks, which takes it minutes to count.
        let system: Result<SystemAnswer> = self.http.ask(timeout, "diag/sys", Judge::Nothing).await;
        let repository = system.map(|system| PathBuf::from(system.environment.ipfs_path)).unwrap_or_default();
        Ok(repository.parent().filter(|root| root.is_absolute()).map(PathBuf::from))
    }

    pub(super) async fn put_reference(
        self: &Arc<Self>,
        file: &Reference,
        bytes: BoxStream<'static, Result<Bytes>>,
    ) -> Result<()> {
        let sent = self.add_reference(file, bytes).await?;
        if sent.cid != file.cid {
            return Err(Error::new(
                ErrorKind::Remote,
                format!("the IPFS daemon made {} of {}, which is {}", sent.cid, file.origin, file.cid),
            )
            .component(COMPONENT));
        }
        let Some(last) = sent.bytes.checked_sub(1) else { return Ok(()) };
        // It took our word for what lies where, and looks only when somebody reads.
        let path = format!("cat?arg={}&length=1&offline=true&offset={last}", file.cid);
        let read = async { self.http.post(&path, Judge::Nothing, None).await?.bytes(1).await };
        match self.within_request(&path, Judge::Nothing, read).await {
            Err(error) if error.kind() == ErrorKind::Remote => {
                let text = format!(
                    "the IPFS daemon cannot read {} as it was added; is it on the machine where that lies, and may it \
                     read it? {}",
                    file.origin,
                    remote_message(&error).unwrap_or_else(|| error.message())
                );
                Err(Error::new(ErrorKind::Remote, text).component(COMPONENT).with_source(error))
            }
            answer => answer.map(|_| ()),
        }
    }

    /// Has the daemon add the file, without a pin. It may take as long as it takes more.
    async fn add_reference(
        self: &Arc<Self>,
        file: &Reference,
        bytes: BoxStream<'static, Result<Bytes>>,
    ) -> Result<Sent> {
        let path = add_path(file);
        let progress = Arc::new(Progress::new());
        let call = async {
            let upload = upload(&file.origin, Arc::clone(&progress), bytes);
            let mut lines = self.http.post(&path, Judge::Nothing, Some(upload)).await?.lines();
            let mut made = None;
            while let Some(line) = lines.next().await? {
                let line: AddLine = lines.parse(&line)?;
                made = Some(parse_cid(&line.hash).map_err(|error| lines.corrupt(error.message()))?);
            }
            made.ok_or_else(|| lines.corrupt("it ends before it says what became of the file"))
        };
        let answer = self.http.open(async {
            tokio::select! {
                biased;
                answer = call => answer,
                error = progress.stalled(self.config.ipfs_request_timeout) => Err(error),
            }
        });
        let answer = answer.await?;
        // What is wrong with the bytes is why the daemon got no more of them.
        if let Some(error) = progress.lock().failed.take() {
            return Err(error);
        }
        match answer {
            Ok(cid) => Ok(Sent { cid, bytes: progress.lock().bytes }),
            Err(error) => Err(not_enabled(error)),
        }
    }
}

struct Sent {
    cid: Cid,
    bytes: u64,
}

/// Says what to do where the daemon says that its filestore is off.
fn not_enabled(error: Error) -> Error {
    let is_off = |text: &str| NOT_ENABLED_TEXTS.iter().any(|off| text.contains(off));
    if !remote_message(&error).is_some_and(is_off) {
        return error;
    }
    let text = format!("the IPFS daemon keeps copies of files only, no references to them: {HOW_TO_ENABLE}");
    Error::new(ErrorKind::Unsupported, text).component(COMPONENT).with_source(error)
}

fn add_path(file: &Reference) -> String {
    let Reference { chunker, hash, cid_version, layout, .. } = file;
    format!(
        "add?chunker={}&cid-version={cid_version}&fast-provide-root=false&hash={}&nocopy=true&pin=false&progress=false\
         &raw-leaves=true&trickle={}",
        query_escape(chunker),
        query_escape(hash),
        *layout == AddLayout::Trickle
    )
}

/// How sending a file goes.
struct Progress(Mutex<State>);

struct State {
    bytes: u64,
    moved: Instant,
    failed: Option<Error>,
}

impl Progress {
    fn new() -> Self {
        Self(Mutex::new(State { bytes: 0, moved: Instant::now(), failed: None }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when nothing was taken for so long.
    async fn stalled(&self, timeout: std::time::Duration) -> Error {
        loop {
            let until = self.lock().moved + timeout;
            if until <= Instant::now() {
                let text = format!(
                    "the IPFS daemon took nothing more of a file for {} (ipfshttp.ipfs_request_timeout)",
                    duration::to_text(timeout)
                );
                return Error::new(ErrorKind::Timeout, text).component(COMPONENT);
            }
            sleep_until(until).await;
        }
    }
}

/// A form with one file and where it lies. It breaks off where the bytes fail.
fn upload(origin: &str, progress: Arc<Progress>, bytes: BoxStream<'static, Result<Bytes>>) -> Upload {
    let boundary = super::blocks::boundary();
    let is_plain = origin.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let origin = if is_plain {
        format!("Abspath: {origin}")
    } else {
        // As much of it as there is in a URL; daemons before 0.30 do not know this one.
        format!("Abspath-Encoded: {}", query_escape(origin))
    };
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"file\"\r\n\
         Content-Type: application/octet-stream\r\n{origin}\r\n\r\n"
    );
    let end = format!("\r\n--{boundary}--\r\n");
    let content_type = format!("multipart/form-data; boundary={boundary}");
    let body = stream::unfold((bytes, progress, Some(end)), |(mut bytes, progress, end)| async move {
        match bytes.next().await {
            Some(Ok(piece)) => {
                let mut state = progress.lock();
                state.bytes += piece.len() as u64;
                state.moved = Instant::now();
                drop(state);
                Some((piece, (bytes, progress, end)))
            }
            // Without its end the daemon does not take the form for whole.
            Some(Err(error)) => {
                progress.lock().failed = Some(error);
                None
            }
            None => end.map(|end| (Bytes::from(end), (stream::empty().boxed(), progress, None))),
        }
    });
    let parts = stream::iter([Bytes::from(head)]).chain(body).map(Ok::<Bytes, std::io::Error>);
    Upload { content_type, length: None, body: reqwest::Body::wrap_stream(parts) }
}
