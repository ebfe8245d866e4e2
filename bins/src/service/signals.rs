//! The signals that end a process.

use std::pin::pin;

use ipfs_cluster::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

/// Exit code when signals insist, as in the reference.
const EXIT_THIRD_SIGNAL: i32 = 1;
/// What the reference prints.
const SECOND_SIGNAL: &str = "


!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!
Shutdown is taking too long! Press Ctrl-c again to manually kill cluster.
Note that this may corrupt the local cluster state.
!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!


";

/// The signals that end a peer: the first asks, the second is told to wait, the third ends the process.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    seen: u32,
}

impl Signals {
    /// Listens from now on, instead of being ended by them.
    ///
    /// # Errors
    /// `Io`.
    pub fn subscribe() -> Result<Self> {
        let on = |kind| signal(kind).map_err(|source| Error::io("listening for signals", source));
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hang_up: on(SignalKind::hangup())?,
            seen: 0,
        })
    }

    /// Waits for one, and does what it asks for but to stop. Cancel-safe.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
        self.seen += 1;
        match self.seen {
            1 => info!("shutting down..."),
            2 => eprint!("{SECOND_SIGNAL}"),
            _ => {
                eprint!("exiting cluster NOW");
                // Nothing of the process is waited for: it is what does not end.
                std::process::exit(EXIT_THIRD_SIGNAL);
            }
        }
    }

    /// Waits for the first signal, which may have come already. Cancel-safe.
    pub async fn first(&mut self) {
        if self.seen == 0 {
            self.next().await;
        }
    }

    /// Does something to its end while signals are counted.
    pub async fn count_during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.next() => {}
            }
        }
    }
}
