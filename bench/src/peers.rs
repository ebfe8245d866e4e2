//! Peers that work together, each beside a daemon of its own, on loopback.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use crate::daemon::{Daemon, FakeKubo, Peer};
use crate::many::{bootstrap, wait_for_lines, wait_for_metrics};
use crate::scenarios::Setup;
use crate::slow_disk::SlowDisk;

/// How many there are.
pub(crate) const PEERS: usize = 3;
/// How long the daemon beside each peer takes for a pin.
const PIN_DELAY: Duration = Duration::from_millis(100);

/// A running peer and the daemon beside it.
pub(crate) struct Member {
    pub(crate) kubo: FakeKubo,
    pub(crate) peer: Peer,
    pub(crate) daemon: Daemon,
}

impl Member {
    pub(crate) async fn stop(self) -> Result<()> {
        self.daemon.stop().await?;
        self.kubo.stop().await
    }
}

/// Starts peers that know each other. The first one founded the cluster.
pub(crate) async fn start(
    setup: &Setup<'_>,
    name: &str,
    settings: &[(&'static str, &str)],
    disk: Option<SlowDisk>,
) -> Result<Vec<Member>> {
    let mut members: Vec<Member> = Vec::new();
    for number in 0..PEERS {
        let kubo = FakeKubo::start(setup.fake_kubo, PIN_DELAY, None).await?;
        let folder = setup.folder.join(format!("{name}-{number}"));
        let peer = Peer::init_with(setup.subject, &folder, kubo.address, settings).await?.on(disk);
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

pub(crate) fn apis(members: &[Member]) -> Vec<SocketAddr> {
    members.iter().map(|member| member.daemon.api).collect()
}
