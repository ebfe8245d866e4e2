//! Ports for programs that are told where to listen.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

/// Below those that systems give away by themselves: a connection that somebody makes would take one of them before the
/// program listens that it was meant for.
const PORTS: Range<u16> = 10_000..30_000;
/// Processes that follow each other begin so far apart.
const APART: u32 = 997;

/// A port of loopback on which nobody listens, and that nobody else of this process is given.
pub(crate) fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let ports = u32::from(PORTS.end - PORTS.start);
    for _ in 0..ports {
        let taken = TAKEN.fetch_add(1, Ordering::Relaxed);
        let offset = process::id().wrapping_mul(APART).wrapping_add(taken) % ports;
        let port = PORTS.start + u16::try_from(offset).unwrap();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("somebody listens on every port of {PORTS:?}");
}
