//! HTTP in its simplest form: a server of a few texts, and a caller.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::wait::PATIENCE;

/// The status of an answer that never comes, because the connection ends.
pub(crate) const CUT_OFF: u16 = 0;

/// A server whose answers can be changed, for a configuration, a gateway or an IPFS daemon. It lives as long as this
/// process.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) port: u16,
    answers: Arc<Mutex<BTreeMap<String, Answer>>>,
}

#[derive(Clone)]
enum Answer {
    Text(u16, String),
    Moved(String),
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Self { url: format!("http://127.0.0.1:{port}"), port, answers: Arc::default() };
        let answers = server.answers.clone();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let path = read_path(&mut stream);
                let found = answers.lock().unwrap().get(&path).cloned();
                let (head, body) = match found.unwrap_or_else(|| Answer::Text(404, "not here\n".to_owned())) {
                    // As by a machine that goes away.
                    Answer::Text(CUT_OFF, _) => continue,
                    Answer::Text(status, body) => (format!("{status} x"), body),
                    Answer::Moved(to) => (format!("301 Moved\r\nLocation: {to}"), String::new()),
                };
                let answer = format!(
                    "HTTP/1.1 {head}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: \
                     close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        server
    }

    /// With this configuration at `/service.json`.
    pub(crate) fn of(template: &impl ToString) -> Self {
        let server = Self::start();
        server.put("/service.json", template);
        server
    }

    pub(crate) fn put(&self, path: &str, text: &impl ToString) {
        self.answer(path, 200, &text.to_string());
    }

    pub(crate) fn answer(&self, path: &str, status: u16, body: &str) {
        self.set(path, Answer::Text(status, body.to_owned()));
    }

    pub(crate) fn redirect(&self, path: &str, to: &str) {
        self.set(path, Answer::Moved(to.to_owned()));
    }

    fn set(&self, path: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    pub(crate) fn service_json(&self) -> String {
        format!("{}/service.json", self.url)
    }

    pub(crate) fn multiaddress(&self) -> String {
        format!("/ip4/127.0.0.1/tcp/{}", self.port)
    }
}

/// The path that a caller asks for, of whom nothing else is of interest.
fn read_path(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).split(' ').nth(1).unwrap_or_default().to_owned()
}

/// A request, and all of the answer.
pub(crate) fn ask(port: u16, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
