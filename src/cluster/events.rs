//! What happens in the cluster, as one stream.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::{BoxStream, select_all};

use super::Cluster;
use crate::consensus::StateEvent;
use crate::monitor::MonitorEvent;
use crate::tracker::TrackerEvent;
use crate::types::{Alert, Pin, PinInfo};

/// Something that happened, as this peer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClusterEvent {
    /// An entry is in the pinset.
    Pinned(Arc<Pin>),
    /// An entry, as it was, left the pinset.
    Unpinned(Arc<Pin>),
    /// An item has another status on this peer.
    StatusChanged(Arc<PinInfo>),
    /// A metric of a peer stopped coming.
    Alert(Arc<Alert>),
    /// More changed than was told: the reader was too slow for the events, or the status of everything may be another
    /// (the first comparison with the daemon, a daemon that went or came back). Ask for what matters.
    Resync,
}

impl Cluster {
    /// What happens from now on, for code in this process; [`Cluster::watch`] has cursors to go on from. Bounded: a reader that is too slow gets [`ClusterEvent::Resync`] in place of what it
    /// missed and holds nobody up. Events of one source come in order; the stream ends when the peer stops.
    pub fn events(&self) -> BoxStream<'static, ClusterEvent> {
        let inner = &self.inner;
        let state = inner.consensus.events().map(|event| match event {
            StateEvent::Pinned(pin) => ClusterEvent::Pinned(pin),
            StateEvent::Unpinned(pin) => ClusterEvent::Unpinned(pin),
            StateEvent::Resync => ClusterEvent::Resync,
        });
        let tracker = inner.tracker.events().map(|event| match event {
            TrackerEvent::StatusChanged(info) => ClusterEvent::StatusChanged(info),
            TrackerEvent::Resync => ClusterEvent::Resync,
        });
        let alerts = inner.monitor.events().map(|event| match event {
            MonitorEvent::Alert(alert) => ClusterEvent::Alert(Arc::new(alert)),
            MonitorEvent::Resync => ClusterEvent::Resync,
        });
        let cancelled = inner.life.cancel.clone().cancelled_owned();
        select_all([state.boxed(), tracker.boxed(), alerts.boxed()]).take_until(cancelled).boxed()
    }
}
