//! What peers that agree by Raft do together, on loopback: writing, a peer that joins, and the end of a leader.

mod failover;
mod snapshot;
mod writes;

pub(crate) use failover::failover;
pub(crate) use snapshot::snapshot;
pub(crate) use writes::writes;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use crate::daemon::{Daemon, FakeKubo, Peer};
use crate::many::{SECRET, bootstrap, wait_for_lines, wait_for_metrics};
use crate::scenarios::Setup;

const PEERS: usize = 3;
/// How long the daemon beside each peer takes for a pin, as for the pin requests of one peer.
const PIN_DELAY: Duration = Duration::from_millis(100);
const CLIENTS: u64 = 64;

/// How the peers are told to work: as they do without being told, but for the secret and how often they say how they are.
const SETTINGS: [(&str, &str); 3] =
    [("CLUSTER_SECRET", SECRET), ("CLUSTER_DISK_METRICTTL", "10s"), ("CLUSTER_TAGS_METRICTTL", "10s")];

/// A running peer and the daemon beside it.
struct Member {
    kubo: FakeKubo,
    peer: Peer,
    daemon: Daemon,
}

impl Member {
    async fn stop(self) -> Result<()> {
        self.daemon.stop().await?;
        self.kubo.stop().await
    }
}

/// Peers that know each other. The first one founded the cluster, so it leads until something happens to it.
async fn start(setup: &Setup<'_>, name: &str) -> Result<Vec<Member>> {
    let mut members: Vec<Member> = Vec::new();
    for number in 0..PEERS {
        let kubo = FakeKubo::start(setup.fake_kubo, PIN_DELAY, None).await?;
        let folder = setup.folder.join(format!("{name}-{number}"));
        let peer = Peer::init_with(setup.subject, &folder, kubo.address, &SETTINGS).await?;
        let mut addresses = Vec::new();
        for member in &members {
            addresses.push(member.peer.address().await?);
        }
        let (daemon, _) = peer.start_with(&bootstrap(&addresses), "/id").await?;
        members.push(Member { kubo, peer, daemon });
    }
    let apis = apis(&members);
    wait_for_lines(&apis, "/peers", PEERS as u64).await?;
    wait_for_metrics(apis[0], PEERS).await?;
    Ok(members)
}

fn apis(members: &[Member]) -> Vec<SocketAddr> {
    members.iter().map(|member| member.daemon.api).collect()
}
