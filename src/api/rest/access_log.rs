//! One line for every request, in Apache's common format.
//!
//! The lines go to the target `restapilog`, or to a file. Writing to the file is the work of a thread of its own: a
//! request only copies its line into a buffer, whose size is limited, and never waits for a disk.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use hyper::{Method, Uri, Version};
use tracing::{Level, enabled, info, warn};

use super::caller::Caller;
use crate::api::json::Civil;
use crate::error::{Error, Result};
use crate::types::Timestamp;

/// The target of lines that go to no file.
const TARGET: &str = "restapilog";
/// Most bytes that wait for the disk. Lines beyond it are lost, and counted.
const BUFFER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Longest part of a request's path and query that is logged, in bytes.
const URI_BYTES_MAX: usize = 8 * 1024;
/// The status of a request whose caller was gone before there was an answer.
const CALLER_GONE: u16 = 499;

/// Where requests are logged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// As events of the target `restapilog`, at level INFO.
    #[default]
    Events,
    /// Behind what is in this file.
    File(PathBuf),
    /// Nowhere.
    Off,
}

/// The same, opened.
#[derive(Debug)]
pub(super) enum Log {
    Events,
    File(Arc<LogFile>),
    Off,
}

impl Log {
    /// # Errors
    /// `Io` for a file that cannot be opened.
    pub(super) fn open(config: &AccessLog) -> Result<Self> {
        Ok(match config {
            AccessLog::Events => Self::Events,
            AccessLog::File(path) => Self::File(Arc::new(LogFile::open(path)?)),
            AccessLog::Off => Self::Off,
        })
    }

    /// Notes a request that begins; none where nobody wants to know.
    pub(super) fn begin(
        &self,
        caller: &Caller,
        method: &Method,
        uri: &Uri,
        version: Version,
        now: Timestamp,
    ) -> Option<Record> {
        let to = match self {
            Self::Events if enabled!(target: TARGET, Level::INFO) => To::Events,
            Self::File(file) => To::File(Arc::clone(file)),
            Self::Events | Self::Off => return None,
        };
        Some(Record(Box::new(Noted {
            to,
            caller: *caller,
            user: None,
            time: now,
            method: method.clone(),
            uri: uri.clone(),
            version,
            status: CALLER_GONE,
            bytes: 0,
        })))
    }

    /// Returns once every line is written.
    pub(super) async fn close(&self) {
        if let Self::File(file) = self {
            let file = Arc::clone(file);
            let _ = tokio::task::spawn_blocking(move || file.close()).await;
        }
    }
}

#[derive(Debug)]
enum To {
    Events,
    File(Arc<LogFile>),
}

/// The line of one request. Written when it is dropped, which is when the answer is done.
#[derive(Debug)]
pub(super) struct Record(Box<Noted>);

#[derive(Debug)]
struct Noted {
    to: To,
    caller: Caller,
    user: Option<Arc<str>>,
    time: Timestamp,
    method: Method,
    uri: Uri,
    version: Version,
    status: u16,
    bytes: u64,
}

impl Record {
    /// Who the caller proved to be.
    pub(super) fn user(&mut self, user: &Arc<str>) {
        self.0.user = Some(Arc::clone(user));
    }

    /// What the answer is.
    pub(super) fn status(&mut self, status: u16) {
        self.0.status = status;
    }

    /// So many bytes of content were sent.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.0.bytes += bytes as u64;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let line = self.0.line();
        match &self.0.to {
            To::Events => info!(target: TARGET, "{}", line.trim_end()),
            To::File(file) => file.write(line.as_bytes()),
        }
    }
}

impl Noted {
    fn line(&self) -> String {
        const MONTHS: [&str; 12] =
            ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let Civil { year, month, day, hour, minute, second, .. } = Civil::of(self.time.unix_seconds());
        let month = MONTHS[(month - 1) % MONTHS.len()];
        let mut line = String::with_capacity(160);
        // Writing to a string cannot fail.
        let _ = write!(line, "{} - ", self.caller);
        match &self.user {
            Some(user) => push_escaped(&mut line, user, true),
            None => line.push('-'),
        }
        let _ = write!(
            line,
            " [{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000] \"{} ",
            self.method
        );
        let uri = self.uri.to_string();
        push_escaped(&mut line, cut(&uri), false);
        let _ = writeln!(line, " {:?}\" {} {}", self.version, self.status, self.bytes);
        line
    }
}

fn cut(text: &str) -> &str {
    match text.char_indices().nth(URI_BYTES_MAX) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

/// No text ends its place in the line, or the line.
fn push_escaped(line: &mut String, text: &str, space_too: bool) {
    for c in text.chars() {
        match c {
            '"' | '\\' => line.extend(['\\', c]),
            c if c.is_control() || (space_too && c.is_whitespace()) => {
                let _ = write!(line, "\\x{:02x}", u32::from(c));
            }
            c => line.push(c),
        }
    }
}

/// A file that lines are appended to.
#[derive(Debug)]
pub(super) struct LogFile {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    lost: u64,
    closed: bool,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogFile {
    fn open(path: &Path) -> Result<Self> {
        let failed = |source| {
            Error::io(format!("restapi.http_log_file: opening {}", path.display()), source)
                .component("restapi")
        };
        let file = OpenOptions::new().append(true).create(true).open(path).map_err(failed)?;
        let shared = Arc::new(Shared::default());
        let (of_thread, path) = (Arc::clone(&shared), path.to_owned());
        let thread = std::thread::Builder::new()
            .name("restapilog".to_owned())
            .spawn(move || write_lines(file, &path, &of_thread))
            .map_err(|source| {
                Error::io("starting the thread of the access log", source).component("restapi")
            })?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    fn write(&self, line: &[u8]) {
        let mut waiting = self.shared.waiting();
        if waiting.bytes.len() + line.len() > BUFFER_BYTES_MAX || waiting.closed {
            waiting.lost += 1;
            return;
        }
        let first = waiting.bytes.is_empty();
        waiting.bytes.extend_from_slice(line);
        drop(waiting);
        if first {
            self.shared.wake.notify_one();
        }
    }

    /// Returns once every line is written. Blocks.
    fn close(&self) {
        self.shared.waiting().closed = true;
        self.shared.wake.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        self.close();
    }
}

/// Writes what comes until it is closed.
fn write_lines(mut file: File, path: &Path, shared: &Shared) {
    let mut bytes = Vec::new();
    let mut failing = false;
    loop {
        let (lost, closed) = {
            let mut waiting = shared.waiting();
            while waiting.bytes.is_empty() && !waiting.closed {
                waiting = shared.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            std::mem::swap(&mut bytes, &mut waiting.bytes);
            (std::mem::take(&mut waiting.lost), waiting.closed)
        };
        if lost > 0 {
            warn!(lost, path = %path.display(), "the access log could not keep up and has lost lines");
        }
        let written = file.write_all(&bytes);
        match &written {
            Err(error) if !failing => {
                warn!(%error, path = %path.display(), "the access log cannot be written; its lines are lost");
            }
            _ => {}
        }
        failing = written.is_err();
        bytes.clear();
        if closed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(log: &Log, uri: &str) -> Record {
        let caller = Caller::Tcp("10.0.0.1:4000".parse().unwrap());
        let now = "2026-11-21T08:49:37Z".parse().unwrap();
        log.begin(&caller, &Method::POST, &uri.parse().unwrap(), Version::HTTP_11, now).unwrap()
    }

    fn file(folder: &tempfile::TempDir) -> PathBuf {
        folder.path().join("rest.log")
    }

    #[tokio::test]
    async fn lines_are_appended_in_apaches_common_format() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(file(&folder), "before\n").unwrap();
        let log = Log::open(&AccessLog::File(file(&folder))).unwrap();
        let mut one = record(&log, "/pins/x?name=a%20b");
        one.status(200);
        one.sent(100);
        one.sent(23);
        drop(one);
        let mut two = record(&log, "/\"\\");
        two.user(&"ann b\"\n".into());
        two.status(401);
        drop(two);
        drop(record(&log, "/id"));
        log.close().await;
        let text = std::fs::read_to_string(file(&folder)).unwrap();
        assert_eq!(
            text,
            "before\n\
             10.0.0.1 - - [21/Nov/2026:08:49:37 +0000] \"POST /pins/x?name=a%20b HTTP/1.1\" 200 123\n\
             10.0.0.1 - ann\\x20b\\\"\\x0a [21/Nov/2026:08:49:37 +0000] \"POST /\\\"\\\\ HTTP/1.1\" 401 0\n\
             10.0.0.1 - - [21/Nov/2026:08:49:37 +0000] \"POST /id HTTP/1.1\" 499 0\n"
        );
    }

    #[test]
    fn no_line_is_lost_at_a_clean_end_and_late_ones_do_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(&AccessLog::File(file(&folder))).unwrap();
        let Log::File(opened) = &log else { panic!("a file") };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..5_000).for_each(|_| drop(record(&log, "/id"))));
            }
        });
        opened.close();
        opened.close();
        drop(record(&log, "/id"));
        assert_eq!(std::fs::read_to_string(file(&folder)).unwrap().lines().count(), 20_000);
    }

    #[test]
    fn what_waits_for_the_disk_is_bounded() {
        let shared = Arc::new(Shared::default());
        // Nobody writes.
        let stuck = LogFile { shared: Arc::clone(&shared), thread: Mutex::new(None) };
        let line = [b'x'; 1024 * 1024];
        (0..20).for_each(|_| stuck.write(&line));
        let waiting = shared.waiting();
        assert_eq!((waiting.bytes.len(), waiting.lost), (BUFFER_BYTES_MAX, 12));
    }

    #[test]
    fn nothing_is_noted_where_nobody_listens_and_a_bad_path_is_named() {
        let caller = Caller::Unix;
        let begin = |log: &Log| {
            log.begin(&caller, &Method::GET, &Uri::default(), Version::HTTP_11, Timestamp::UNIX_EPOCH)
        };
        assert!(begin(&Log::Off).is_none() && begin(&Log::Events).is_none());
        let error = Log::open(&AccessLog::File("/no/such/folder/rest.log".into())).unwrap_err();
        assert!(error.message().contains("http_log_file"), "{error}");
    }
}
