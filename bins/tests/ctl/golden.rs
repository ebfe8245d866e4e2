//! The program side by side with recorded runs of the reference.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use serde::Deserialize;

use crate::server::{Script, Server, bytes, document, listing, read_body};
use crate::{ctl, run};

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    args: Vec<String>,
    exchanges: Vec<Exchange>,
    stdout: String,
    stderr: String,
    exit: i32,
}

#[derive(Deserialize)]
struct Exchange {
    request: String,
    status: u16,
    body: Option<String>,
    #[serde(default)]
    lines: Vec<String>,
    #[serde(default)]
    trailers: Vec<String>,
}

impl Exchange {
    fn script(&self) -> Script {
        let answer = self.answer();
        if self.request.starts_with("POST /add?") {
            return Box::new(move |connection| {
                read_body(connection);
                let _ = connection.write_all(&answer);
            });
        }
        bytes(answer)
    }

    fn answer(&self) -> Vec<u8> {
        match &self.body {
            Some(body) => document(self.status, body),
            None => listing(
                &self.lines.iter().map(String::as_str).collect::<Vec<_>>(),
                &self.trailers.iter().map(String::as_str).collect::<Vec<_>>(),
            ),
        }
    }
}

/// Cases that differ on purpose: our daemons keep files by reference, so our ctl asks them to.
const INTENDED: [&str; 1] = ["add nocopy of a file"];
/// Runs that take their second or more do so side by side.
const AT_ONCE: usize = 8;

#[test]
fn every_recorded_run_of_the_reference_asks_and_prints_the_same() {
    let golden: Golden = serde_json::from_str(include_str!("../data/ctl-golden.json")).unwrap();
    assert!(golden.cases.len() >= 140, "cases were lost");
    let folder = content();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let differences = std::thread::scope(|scope| {
        let worker = || {
            let mut differences = Vec::new();
            while let Some(case) = golden.cases.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                if !INTENDED.contains(&case.name.as_str()) {
                    differences.extend(difference(case, folder.path()));
                }
            }
            differences
        };
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// What the cases add.
fn content() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("dir/sub")).unwrap();
    for name in ["f1.txt", "f2.txt", "dir/abc.txt", "dir/sub/def.txt", "dir.car"] {
        std::fs::write(folder.path().join(name), name).unwrap();
    }
    folder
}

fn difference(case: &Case, folder: &Path) -> Option<String> {
    let server = Server::running(case.exchanges.iter().map(Exchange::script).collect());
    let ran = run(ctl().current_dir(folder).arg("--host").arg(server.host()).args(&case.args));
    let asked: Vec<_> = server.request_lines().iter().map(|line| meaning(line)).collect();
    let wanted: Vec<_> = case.exchanges.iter().map(|exchange| meaning(&exchange.request)).collect();
    let same = asked == wanted
        && ran.stdout == case.stdout
        && ran.stderr == case.stderr
        && ran.exit_code == Some(case.exit);
    (!same).then(|| {
        format!(
            "{}\n asked {asked:?}\nwanted {wanted:?}\n{ran:?}\nwanted {:?} {:?} {}",
            case.name, case.stdout, case.stderr, case.exit
        )
    })
}

/// A request without what servers do not tell apart: escapes and the order of parameters. Times of expiry depend
/// on when the program runs.
fn meaning(line: &str) -> (String, BTreeMap<String, String>) {
    let (path, query) = line.split_once('?').unwrap_or((line, ""));
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap();
        let value = if key == "expire-at" { "*".to_owned() } else { unescaped(&value.replace('+', " ")) };
        (unescaped(key), value)
    });
    (unescaped(path), pairs.collect())
}

fn unescaped(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).unwrap()
}
