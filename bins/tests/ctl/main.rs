//! The program `ipfs-cluster-ctl` against scripted servers.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic like tests")]

mod add;
mod golden;
mod hosts;
mod input;
mod listings;
mod manual;
#[cfg(unix)]
mod progress;
mod requests;
// Needs a peer in this process.
#[cfg(feature = "peer")]
mod resume;
mod server;
mod watch;

use std::process::{Command, Stdio};

use crate::server::Server;

const CID: &str = "QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o";
const PEER: &str = "12D3KooWKqMeRxLjvowrtRFqBWaPALNyB3tJxAiubfhe9UdwgeBK";

fn ctl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipfs-cluster-ctl"));
    // Neither proxies nor credentials of whoever runs the tests.
    command.env_clear().stdin(Stdio::null());
    command
}

#[derive(Debug)]
struct Ran {
    stdout: String,
    stderr: String,
    exit_code: Option<i32>,
}

fn run(command: &mut Command) -> Ran {
    let output = command.output().unwrap();
    Ran {
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        exit_code: output.status.code(),
    }
}

fn ask(server: &Server, args: &[&str]) -> Ran {
    run(ctl().arg("--host").arg(server.host()).args(args))
}

fn pin_line(name: &str) -> String {
    format!(
        "{{\"cid\":\"{CID}\",\"name\":\"{name}\",\"type\":\"pin\",\"mode\":\"recursive\",\"max_depth\":-1}}"
    )
}

fn status_of(status: &str) -> String {
    format!(
        "{{\"cid\":\"{CID}\",\"name\":\"\",\"peer_map\":{{\"{PEER}\":{{\"peername\":\"peerA\",\"status\":\"{status}\",\
         \"timestamp\":\"2026-11-20T23:19:20Z\",\"error\":\"\",\"attempt_count\":0,\"priority_pin\":false}}}}}}"
    )
}
