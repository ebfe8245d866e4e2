//! HTTP over streams of libp2p, as the reference's `libp2p-http` has it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tracing::debug;

use super::caller::Caller;
use super::io::Io;
use super::server::Server;
use crate::transport::{PeerStream, StreamHandler};
use crate::types::PeerId;

/// The protocol of a stream that carries HTTP, one connection a stream.
pub(super) const PROTOCOL: &str = "/libp2p-http";
/// How long a stream waits for room.
const ROOM_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves the API on streams. The transport keeps it, so it keeps nothing.
#[derive(Debug)]
pub(super) struct Streams(pub(super) Weak<Server>);

#[async_trait]
impl StreamHandler for Streams {
    async fn handle(&self, from: PeerId, stream: PeerStream) {
        // After the end of the API its streams are reset.
        let Some(server) = self.0.upgrade().filter(|server| !server.has_stopped()) else { return };
        let Ok(permit) = tokio::time::timeout(ROOM_TIMEOUT, server.room.free()).await else {
            debug!(peer = %from, "no room for a stream, reset it");
            return;
        };
        let place = server.room.enter(permit);
        let served = Server::serve(Arc::clone(&server), Io::Peer(stream), Caller::Peer(from), place);
        server.tasks.track_future(served).await;
    }
}
