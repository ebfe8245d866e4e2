//! Closing a connection so that the last answer arrives.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// How long we wait for the caller to close its side after we closed ours. Closing with bytes unread would reset the
/// connection and might destroy our answer on its way.
pub(super) const LINGER: Duration = Duration::from_millis(500);
/// Most bytes that are read and thrown away meanwhile.
pub(super) const LINGER_BYTES: u64 = 1024 * 1024;

/// Reads what the other side still sends after we closed ours, and throws it away, up to that long and that many bytes.
pub(super) async fn drain(socket: impl AsyncRead + Unpin, linger: Duration, bytes: u64) {
    let mut rest = socket.take(bytes);
    let drained = async {
        let mut buffer = [0; 16 * 1024];
        while matches!(rest.read(&mut buffer).await, Ok(read) if read > 0) {}
    };
    let _ = tokio::time::timeout(linger, drained).await;
}
