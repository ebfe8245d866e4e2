//! Connecting: who waits for which peer, and what is tried.

use std::collections::BTreeSet;

use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::debug;

use super::streams::Open;
use super::swarm::Task;
use super::{COMPONENT, filters, unavailable};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{Multiaddr, PeerId};

/// Peers that are dialled at a time.
const DIALS_MAX: usize = 512;
/// Callers that wait for one peer.
const WAITING_FOR_PEER_MAX: usize = 4_096;
/// Errors of single addresses that are told.
const ERRORS_TOLD_MAX: usize = 3;
/// Known peers that are dialled at the start.
const START_DIALS_MAX: usize = 3;
/// Known peers that are dialled at a time later.
const REDIALS_MAX: usize = 8;

/// Attempts to reach one peer.
#[derive(Debug, Default)]
pub(super) struct Dial {
    waiting: Vec<Waiting>,
    attempts: BTreeSet<ConnectionId>,
    /// Questions to directories that are not answered yet.
    pub(super) searches: usize,
    has_searched: bool,
    /// Why the last attempt failed.
    error: Option<Error>,
}

#[derive(Debug)]
enum Waiting {
    Stream(Open),
    Connection(oneshot::Sender<Result<PeerId>>),
}

impl Waiting {
    fn fail(self, error: Error) {
        match self {
            Self::Stream(open) => open.fail(error),
            Self::Connection(reply) => drop(reply.send(Err(error))),
        }
    }

    fn is_gone(&self) -> bool {
        match self {
            Self::Stream(open) => open.reply.0.is_closed(),
            Self::Connection(reply) => reply.is_closed(),
        }
    }
}

impl Task {
    /// Opens a stream, over a connection that is there or will be.
    pub(super) fn open(&mut self, peer: PeerId, open: Open) {
        if self.swarm.is_connected(&peer) {
            self.swarm.behaviour_mut().streams.open(peer, open);
        } else if self.wait_for(peer, Waiting::Stream(open)) {
            self.dial_known(peer);
        }
    }

    pub(super) fn connect(&mut self, address: &Multiaddr, reply: oneshot::Sender<Result<PeerId>>) {
        let (at, peer) = filters::split_peer(address);
        if !filters::is_dialable(&at) {
            let text = format!("{address} is no address of TCP or a WebSocket, so nobody can be there");
            let _ = reply.send(Err(Error::invalid_input(text).component(COMPONENT)));
            return;
        }
        match peer {
            Some(peer) if peer == self.shared.peer => drop(reply.send(Err(is_self(address)))),
            Some(peer) if self.swarm.is_connected(&peer) => drop(reply.send(Ok(peer))),
            Some(peer) => {
                self.wait_for(peer, Waiting::Connection(reply));
                self.attempt(peer, vec![at], false);
            }
            None => {
                let options = DialOpts::unknown_peer_id().address(at).build();
                let id = options.connection_id();
                if self.unknown_dials.len() >= DIALS_MAX {
                    let _ = reply.send(Err(too_many()));
                    return;
                }
                match self.swarm.dial(options) {
                    Ok(()) => drop(self.unknown_dials.insert(id, (address.clone(), reply))),
                    // Our own addresses are taken out before they are dialled.
                    Err(DialError::NoAddresses) => drop(reply.send(Err(is_self(address)))),
                    Err(error) => drop(reply.send(Err(dial_error(&address.to_string(), &error)))),
                }
            }
        }
    }

    /// Whether nothing is done for this peer yet.
    fn wait_for(&mut self, peer: PeerId, waiting: Waiting) -> bool {
        if !self.dials.contains_key(&peer) && self.dials.len() >= DIALS_MAX {
            waiting.fail(too_many());
            return false;
        }
        let is_new = !self.dials.contains_key(&peer);
        let dial = self.dials.entry(peer).or_default();
        if dial.waiting.len() >= WAITING_FOR_PEER_MAX {
            dial.waiting.retain(|waiting| !waiting.is_gone());
        }
        if dial.waiting.len() >= WAITING_FOR_PEER_MAX {
            let text = format!("{WAITING_FOR_PEER_MAX} callers wait for {peer} already, try later");
            waiting.fail(Error::new(ErrorKind::QueueFull, text).component(COMPONENT));
        } else {
            dial.waiting.push(waiting);
        }
        is_new
    }

    /// Dials a peer under all addresses that anybody here knows.
    fn dial_known(&mut self, peer: PeerId) {
        let addresses = self.shared.state().book.addresses(&peer);
        self.attempt(peer, addresses, true);
    }

    /// One attempt; its end comes as an event, or at once.
    pub(super) fn attempt(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, is_extended: bool) {
        let options = DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(addresses);
        let options =
            if is_extended { options.extend_addresses_through_behaviour() } else { options }.build();
        let id = options.connection_id();
        if let Some(dial) = self.dials.get_mut(&peer) {
            dial.attempts.insert(id);
        }
        if let Err(error) = self.swarm.dial(options) {
            self.dial_failed(id, Some(peer), &error);
        }
    }

    /// Dials known peers while there are too few connections.
    pub(super) fn redial(&mut self) {
        let is_start = !std::mem::replace(&mut self.has_redialled, true);
        let most = if is_start { START_DIALS_MAX } else { REDIALS_MAX };
        // An attempt ends a moment after the tick that began it, and would miss the next tick by that moment.
        let soon = Instant::now() + super::swarm::retry_interval(&self.config) / 4;
        let peers = {
            let state = self.shared.state();
            let missing = self.config.connections.low_water.saturating_sub(state.connected.len());
            let free = DIALS_MAX.saturating_sub(self.dials.len());
            state.book.to_dial(soon, missing.min(most).min(free), |peer| {
                *peer == self.shared.peer || state.connected.contains(peer) || self.dials.contains_key(peer)
            })
        };
        for peer in peers {
            self.dials.entry(peer).or_default();
            self.dial_known(peer);
        }
    }

    /// Dials a peer that somebody on the local network named, unless that failed a moment ago.
    pub(super) fn found_nearby(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let is_busy = self.dials.len() >= DIALS_MAX || self.dials.contains_key(&peer);
        if peer == self.shared.peer || is_busy || self.swarm.is_connected(&peer) {
            return;
        }
        let is_due = {
            let mut state = self.shared.state();
            state.book.add(peer, addresses);
            state.book.is_due(&peer, Instant::now())
        };
        if is_due {
            self.dials.entry(peer).or_default();
            self.dial_known(peer);
        }
    }

    /// A connection to a peer is there, whoever wanted it.
    pub(super) fn dial_succeeded(&mut self, id: ConnectionId, peer: PeerId) {
        if let Some((_, reply)) = self.unknown_dials.remove(&id) {
            let _ = reply.send(Ok(peer));
        }
        let Some(dial) = self.dials.remove(&peer) else { return };
        for waiting in dial.waiting {
            match waiting {
                Waiting::Stream(open) => self.swarm.behaviour_mut().streams.open(peer, open),
                Waiting::Connection(reply) => drop(reply.send(Ok(peer))),
            }
        }
    }

    pub(super) fn dial_failed(&mut self, id: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        if let Some((address, reply)) = self.unknown_dials.remove(&id) {
            debug!(%address, %error, "connecting failed");
            let _ = reply.send(Err(dial_error(&address.to_string(), error)));
        }
        let Some(peer) = peer else { return };
        let Some(dial) = self.dials.get_mut(&peer) else { return };
        if !dial.attempts.remove(&id) {
            return;
        }
        debug!(%peer, %error, "connecting failed");
        if dial.error.is_none() || !matches!(error, DialError::NoAddresses) {
            dial.error = Some(dial_error(&peer.to_string(), error));
        }
        self.go_on(peer);
    }

    /// After something about a peer came to its end: searches for it, or gives up.
    pub(super) fn go_on(&mut self, peer: PeerId) {
        let Some(dial) = self.dials.get_mut(&peer) else { return };
        if !dial.attempts.is_empty() || dial.searches > 0 {
            return;
        }
        dial.waiting.retain(|waiting| !waiting.is_gone());
        // Whoever names an address wants that one.
        let wants_search = dial.waiting.iter().any(|waiting| matches!(waiting, Waiting::Stream(_)));
        if wants_search && !std::mem::replace(&mut dial.has_searched, true) {
            let searches = self.search(peer);
            if let Some(dial) = self.dials.get_mut(&peer)
                && searches > 0
            {
                dial.searches = searches;
                let (now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut dial.waiting)
                    .into_iter()
                    .partition(|waiting| matches!(waiting, Waiting::Connection(_)));
                dial.waiting = later;
                let error = dial.error.clone();
                for waiting in now {
                    waiting.fail(error.clone().unwrap_or_else(|| unavailable(&peer, "nobody is there")));
                }
                return;
            }
        }
        let Some(dial) = self.dials.remove(&peer) else { return };
        self.shared.state().book.failed(&peer, Instant::now(), super::swarm::retry_interval(&self.config));
        let error = dial.error.unwrap_or_else(|| unavailable(&peer, "no address of it is known"));
        for waiting in dial.waiting {
            waiting.fail(error.clone());
        }
    }

    /// A directory answered where a peer may be.
    pub(super) fn found(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let Some(dial) = self.dials.get_mut(&peer) else { return };
        dial.searches = dial.searches.saturating_sub(1);
        let addresses: Vec<_> = addresses
            .into_iter()
            .map(|address| filters::split_peer(&address).0)
            .filter(filters::is_dialable)
            .take(filters::ADDRESSES_PER_PEER_MAX)
            .collect();
        if addresses.is_empty() {
            self.go_on(peer);
        } else {
            self.attempt(peer, addresses, true);
        }
    }
}

fn is_self(address: &Multiaddr) -> Error {
    Error::invalid_input(format!("{address} is this peer itself")).component(COMPONENT)
}

fn too_many() -> Error {
    let text = format!("{DIALS_MAX} peers are being connected to already, try later");
    Error::new(ErrorKind::QueueFull, text).component(COMPONENT)
}

/// What a caller is told.
fn dial_error(whom: &str, error: &DialError) -> Error {
    let (kind, why) = match error {
        DialError::LocalPeerId { .. } => (ErrorKind::InvalidInput, "that is this peer itself".to_owned()),
        DialError::NoAddresses => (ErrorKind::Unavailable, "no address of it is known".to_owned()),
        DialError::WrongPeerId { obtained, address } => {
            (ErrorKind::Unavailable, format!("{obtained} is at {address}"))
        }
        DialError::Denied { cause } => {
            (ErrorKind::Unavailable, format!("a limit of ours was reached: {cause}"))
        }
        DialError::Transport(errors) => {
            (ErrorKind::Unavailable, told(errors.iter().map(|(address, error)| (address, error as _))))
        }
        DialError::DialPeerConditionFalse(_) | DialError::Aborted => {
            (ErrorKind::Unavailable, error.to_string())
        }
    };
    Error::new(kind, format!("cannot reach {whom}: {why}")).component(COMPONENT)
}

/// Each address once, which several may have named, and without the peer, who is named already.
fn told<'a>(errors: impl Iterator<Item = (&'a Multiaddr, &'a (dyn std::error::Error + 'static))>) -> String {
    let mut told: Vec<String> = Vec::new();
    for (address, error) in errors {
        let text = format!("{}: {}", filters::split_peer(address).0, innermost(error));
        if told.len() < ERRORS_TOLD_MAX && !told.contains(&text) {
            told.push(text);
        }
    }
    told.join("; ")
}

/// The outer ones only say that a transport failed.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn an_address_that_several_named_is_told_once() {
        let [refused, timeout] =
            [io::ErrorKind::ConnectionRefused, io::ErrorKind::TimedOut].map(io::Error::from);
        let peer = PeerId::random();
        let named: Multiaddr = format!("/ip4/10.0.0.1/tcp/1/p2p/{peer}").parse().unwrap();
        let bare: Multiaddr = "/ip4/10.0.0.1/tcp/1".parse().unwrap();
        let errors: [(&Multiaddr, &(dyn std::error::Error + 'static)); 4] =
            [(&named, &refused), (&bare, &refused), (&named, &refused), (&bare, &timeout)];
        let expected = "/ip4/10.0.0.1/tcp/1: connection refused; /ip4/10.0.0.1/tcp/1: timed out";
        assert_eq!(told(errors.into_iter()), expected);
    }
}
