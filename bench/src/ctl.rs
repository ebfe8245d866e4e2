//! `ipfs-cluster-ctl` beside a server that sends as fast as it is read: what the program costs by itself.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::load::nth_cid;
use crate::report::Row;
use crate::scenarios::write_export;

/// How often the program is started.
const STARTS: usize = 100;
/// How often a listing is read; the middle one counts.
const LISTINGS: usize = 3;
const RESIDENT_SAMPLE: Duration = Duration::from_millis(2);
/// Bytes that the server sends at once.
const PIECE_BYTES: usize = 64 * 1024;
const VERSION: &str = "{\"version\":\"1.1.6\"}";

/// Starts, and listings of `pins` lines.
pub(crate) fn ctl(program: &Path, folder: &Path, pins: u64) -> Result<Vec<Row>> {
    let (lines, statuses) = (folder.join("lines.ndjson"), folder.join("statuses.ndjson"));
    write_export(&lines, pins)?;
    write_statuses(&statuses, pins)?;
    let port = serve(lines, statuses)?;
    let host = format!("/ip4/{}/tcp/{port}", Ipv4Addr::LOCALHOST);
    let ask = |args: &[&str]| {
        let mut command = Command::new(program);
        command.args(["--host", &host]).args(args);
        command
    };

    let mut starts = Vec::with_capacity(STARTS);
    for _ in 0..STARTS {
        starts.push(watch(ask(&["version"]))?.elapsed);
    }
    starts.sort_unstable();
    let text = middle(|| ask(&["pin", "ls"]))?;
    let json = middle(|| ask(&["--enc=json", "pin", "ls"]))?;
    let status = middle(|| ask(&["status"]))?;
    let rate = |ran: &Ran| pins as f64 / ran.elapsed.as_secs_f64();
    let mut rows = vec![
        Row::milliseconds("ctl version, from start to end, median", starts[STARTS / 2]),
        Row::milliseconds("the same, p95", starts[STARTS * 95 / 100]),
        Row::rate(format!("ctl pin ls of {pins} lines"), rate(&text), "lines/s"),
        Row::mebibytes("the same, peak resident memory", text.resident_bytes),
        Row::rate("the same with --enc=json", rate(&json), "lines/s"),
        Row::mebibytes("the same, peak resident memory", json.resident_bytes),
        Row::rate(format!("ctl status of {pins} lines, one peer each"), rate(&status), "lines/s"),
        Row::mebibytes("the same, peak resident memory", status.resident_bytes),
    ];
    // What can be read at all on this machine; not everywhere.
    let curl = |path: &str| {
        let mut command = Command::new("curl");
        command.args(["-sS", &format!("http://{}:{port}/{path}", Ipv4Addr::LOCALHOST)]);
        command
    };
    if let (Ok(lines), Ok(statuses)) = (middle(|| curl("allocations")), middle(|| curl("pins"))) {
        let than = |ran: &Ran, curl: &Ran| ran.elapsed.as_secs_f64() / curl.elapsed.as_secs_f64();
        rows.push(Row::lower("ctl pin ls, times as long as curl", than(&text, &lines), "times"));
        rows.push(Row::lower("ctl --enc=json pin ls, times as long as curl", than(&json, &lines), "times"));
        rows.push(Row::lower("ctl status, times as long as curl", than(&status, &statuses), "times"));
    }
    Ok(rows)
}

pub(crate) struct Ran {
    pub(crate) elapsed: Duration,
    /// At its peak.
    pub(crate) resident_bytes: u64,
    /// What it printed, where that is kept.
    pub(crate) output: String,
}

fn middle(command: impl Fn() -> Command) -> Result<Ran> {
    let mut all = (0..LISTINGS).map(|_| watch(command())).collect::<Result<Vec<_>>>()?;
    all.sort_by_key(|ran| ran.elapsed);
    Ok(all.swap_remove(LISTINGS / 2))
}

/// Runs a program to its end, and looks at its memory meanwhile.
fn watch(command: Command) -> Result<Ran> {
    watch_output(command, Stdio::null())
}

/// The same, where what it prints goes elsewhere; from a pipe it is kept, and must be little.
pub(crate) fn watch_output(mut command: Command, output: Stdio) -> Result<Ran> {
    command.stdin(Stdio::null()).stdout(output).stderr(Stdio::inherit());
    let started = Instant::now();
    let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
    let watched = child.id();
    let (ended, end) = std::sync::mpsc::channel::<()>();
    let watcher = std::thread::spawn(move || {
        let mut peak = 0;
        while end.recv_timeout(RESIDENT_SAMPLE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            peak = peak.max(peak_resident_bytes(watched).unwrap_or(0));
        }
        peak
    });
    let status = Child::wait(&mut child)?;
    let elapsed = started.elapsed();
    drop(ended);
    ensure!(status.success(), "{command:?} ended with {status}");
    let mut output = String::new();
    if let Some(mut printed) = child.stdout.take() {
        printed.read_to_string(&mut output)?;
    }
    Ok(Ran { elapsed, resident_bytes: watcher.join().unwrap_or(0), output })
}

fn peak_resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// As many lines of `GET /pins` as pins, from one peer.
fn write_statuses(path: &Path, pins: u64) -> Result<()> {
    const PEER: &str = "12D3KooWKqMeRxLjvowrtRFqBWaPALNyB3tJxAiubfhe9UdwgeBK";
    const IPFS: &str = "12D3KooWJrXgPLcddsGwWa7UuMrxsts34DKx6he42cAd9FyR4s8L";
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for n in 0..pins {
        writeln!(
            file,
            r#"{{"cid":"{}","name":"bench-{n}","allocations":[],"origins":[],"created":"2026-11-20T23:16:36Z","metadata":{{"owner":"bench"}},"peer_map":{{"{PEER}":{{"peername":"peer-a","ipfs_peer_id":"{IPFS}","ipfs_peer_addresses":["/ip4/127.0.0.1/tcp/4001/p2p/{IPFS}"],"status":"pinned","timestamp":"2026-11-20T23:16:37Z","error":"","attempt_count":0,"priority_pin":false}}}}}}"#,
            nth_cid(n)?
        )?;
    }
    Ok(file.flush()?)
}

/// Answers `GET /version` with a version, `GET /pins` with the lines of a file and everything else with those of the other;
/// gives the port.
fn serve(lines: PathBuf, statuses: PathBuf) -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            if let Err(error) = answer(connection, &lines, &statuses) {
                eprintln!("the server of lines: {error:#}");
            }
        }
    });
    Ok(port)
}

fn answer(connection: TcpStream, lines: &Path, statuses: &Path) -> Result<()> {
    connection.set_nodelay(true)?;
    let mut head = BufReader::new(&connection).lines();
    let first = head.next().context("nothing was asked")??;
    head.take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty())).for_each(drop);
    let mut connection = &connection;
    if first.starts_with("GET /version ") {
        let length = VERSION.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        return Ok(connection.write_all(format!("{head}{VERSION}").as_bytes())?);
    }
    connection.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\
          Trailer: X-Stream-Error\r\nConnection: close\r\n\r\n",
    )?;
    let listed = if first.starts_with("GET /pins") { statuses } else { lines };
    let mut file = std::fs::File::open(listed)?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut chunk = Vec::with_capacity(PIECE_BYTES + 16);
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok(connection.write_all(b"0\r\n\r\n")?);
        }
        chunk.clear();
        write!(chunk, "{read:x}\r\n")?;
        chunk.extend_from_slice(&piece[..read]);
        chunk.extend_from_slice(b"\r\n");
        connection.write_all(&chunk)?;
    }
}
