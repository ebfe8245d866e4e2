//! A server that answers each connection with what a script says.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

/// Longer than any test takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What one connection is answered with, and when.
pub(crate) type Script = Box<dyn FnOnce(&mut TcpStream) + Send>;

pub(crate) struct Server {
    pub(crate) port: u16,
    asked: mpsc::Receiver<String>,
}

impl Server {
    pub(crate) fn running(scripts: Vec<Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, asked) = mpsc::channel();
        std::thread::spawn(move || {
            for script in scripts {
                let (mut connection, _) = listener.accept().unwrap();
                let _ = tell.send(read_head(&mut connection));
                script(&mut connection);
            }
        });
        Self { port, asked }
    }

    pub(crate) fn answering(answers: Vec<Vec<u8>>) -> Self {
        Self::running(answers.into_iter().map(bytes).collect())
    }

    /// `--host` for this server.
    pub(crate) fn host(&self) -> String {
        format!("/ip4/127.0.0.1/tcp/{}", self.port)
    }

    /// Heads of the requests that came so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.asked.try_iter().collect()
    }

    /// First lines of the requests that came so far, without the version.
    pub(crate) fn request_lines(&self) -> Vec<String> {
        let first = |head: &String| head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
        self.requests().iter().map(first).collect()
    }
}

/// A port that nobody listens on. One that was free a moment ago may be another test's by now.
pub(crate) fn closed_port() -> u16 {
    1
}

pub(crate) fn bytes(answer: Vec<u8>) -> Script {
    Box::new(move |connection| {
        // The other side may have seen enough.
        let _ = connection.write_all(&answer);
    })
}

pub(crate) fn document(status: u16, body: &str) -> Vec<u8> {
    let length = if status == 204 { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("HTTP/1.1 {status} Status\r\n{length}Connection: close\r\n\r\n{body}").into_bytes()
}

pub(crate) const LISTING_HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
     Transfer-Encoding: chunked\r\nTrailer: X-Stream-Error\r\nConnection: close\r\n\r\n";

pub(crate) fn listing(lines: &[&str], trailers: &[&str]) -> Vec<u8> {
    let mut answer = LISTING_HEAD.as_bytes().to_vec();
    for line in lines {
        answer.extend_from_slice(&chunk(line));
    }
    answer.extend_from_slice(&listing_end(trailers));
    answer
}

pub(crate) fn chunk(line: &str) -> Vec<u8> {
    format!("{:x}\r\n{line}\n\r\n", line.len() + 1).into_bytes()
}

pub(crate) fn listing_end(trailers: &[&str]) -> Vec<u8> {
    let trailers: String = trailers.iter().map(|text| format!("X-Stream-Error: {text}\r\n")).collect();
    format!("0\r\n{trailers}\r\n").into_bytes()
}

/// The body of an upload, without the frames of its chunks; what there is of it when the other side hangs up.
pub(crate) fn read_body(connection: &mut TcpStream) -> Vec<u8> {
    let (mut raw, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    while !raw.ends_with(b"\r\n0\r\n\r\n") {
        match connection.read(&mut buffer) {
            Ok(length @ 1..) => raw.extend_from_slice(&buffer[..length]),
            _ => break,
        }
    }
    let (mut body, mut rest) = (Vec::new(), raw.as_slice());
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        let size = std::str::from_utf8(&rest[..end]).unwrap();
        let begin = end + 2;
        let behind = begin + usize::from_str_radix(size, 16).unwrap();
        body.extend_from_slice(&rest[begin..behind.min(rest.len())]);
        rest = rest.get(behind + 2..).unwrap_or_default();
    }
    body
}

fn read_head(connection: &mut TcpStream) -> String {
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && connection.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}
