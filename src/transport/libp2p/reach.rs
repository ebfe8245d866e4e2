//! Where others can reach us: what they are told, and whether we serve those who cannot be reached.

use std::collections::BTreeSet;

use libp2p::autonat::v1::NatStatus;
use libp2p::core::transport::ListenerId;
use libp2p::kad::Mode;
use libp2p::relay::Status;
use multiaddr::Protocol as Part;
use tracing::{debug, info};

use super::filters::{self, Scope};
use super::swarm::Task;
use crate::types::{Multiaddr, PeerId};

/// Addresses that others say they see us at; the oldest is forgotten.
const OBSERVED_MAX: usize = 8;
/// Relays we are reached through when we cannot be reached directly.
const RELAYS_MAX: usize = 2;
/// Peers that could be our relays, of which we remember the first.
const RELAY_CANDIDATES_MAX: usize = 32;

/// What is known about where we are.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Found out by others and by routers, oldest first.
    observed: Vec<Multiaddr>,
    /// Told to others, and confirmed to the swarm.
    told: BTreeSet<Multiaddr>,
    is_public: bool,
    is_behind_nat: bool,
    relay_candidates: Vec<(PeerId, Multiaddr)>,
    relays: Vec<(ListenerId, PeerId)>,
}

impl Task {
    /// Somebody says where we are. One is believed, as in the reference.
    pub(super) fn observed(&mut self, address: Multiaddr) {
        let (address, _) = filters::split_peer(&address);
        let is_news = filters::is_dialable(&address)
            && matches!(filters::scope(&address), Scope::Private | Scope::Public)
            && !self.reach.told.contains(&address)
            && !self.reach.observed.contains(&address);
        if is_news {
            if self.reach.observed.len() >= OBSERVED_MAX {
                self.reach.observed.remove(0);
            }
            self.reach.observed.push(address);
            self.announce();
        }
    }

    /// A part of the swarm confirmed an address: it is told if it may be.
    pub(super) fn confirmed(&mut self, address: Multiaddr) {
        if !self.reach.told.contains(&address) {
            self.observed(address.clone());
            if !self.reach.told.contains(&address) {
                self.swarm.remove_external_address(&address);
            }
        }
    }

    pub(super) fn expired(&mut self, address: &Multiaddr) {
        let known = self.reach.observed.len();
        self.reach.observed.retain(|observed| observed != address);
        if self.reach.observed.len() != known {
            self.announce();
        }
    }

    /// Tells others what the settings and the facts say now.
    pub(super) fn announce(&mut self) {
        let listen: Vec<_> = self.shared.state().listen.iter().cloned().collect();
        let found = listen.iter().chain(&self.reach.observed).cloned();
        let announced = filters::announced(found, &self.config.announce, &self.config.no_announce);
        let told: BTreeSet<_> = announced.iter().cloned().collect();
        for old in self.reach.told.difference(&told) {
            self.swarm.remove_external_address(old);
        }
        for new in told.difference(&self.reach.told) {
            self.swarm.add_external_address(new.clone());
        }
        self.reach.told = told;
        let is_listed = self.config.announce.iter().chain(&listen).any(filters::belongs_to_wan);
        self.shared.state().announced = announced;
        self.set_public(is_listed);
    }

    pub(super) fn on_nat_status(&mut self, status: &NatStatus) {
        info!(?status, "peers found out whether we can be reached");
        self.reach.is_behind_nat = matches!(status, NatStatus::Private);
        self.announce();
        self.find_relays();
    }

    /// Serves others only where they can reach us.
    fn set_public(&mut self, is_listed: bool) {
        let host = self.swarm.behaviour_mut();
        let status = host.autonat.as_ref().map_or(NatStatus::Unknown, |autonat| autonat.nat_status());
        let is_public = matches!(status, NatStatus::Public(_)) || (is_listed && status != NatStatus::Private);
        if is_public == self.reach.is_public {
            return;
        }
        self.reach.is_public = is_public;
        if let Some(wan) = host.wan.as_mut() {
            wan.set_mode(Some(if is_public { Mode::Server } else { Mode::Client }));
        }
        if let Some(hop) = host.relay_hop.as_mut() {
            hop.set_status(Some(if is_public { Status::Enable } else { Status::Disable }));
        }
    }

    /// A peer relays for others, and we are connected to it directly.
    pub(super) fn is_relay(&mut self, peer: PeerId, address: &Multiaddr) {
        let candidates = &mut self.reach.relay_candidates;
        if self.config.relay_client
            && !filters::is_relayed(address)
            && candidates.len() < RELAY_CANDIDATES_MAX
            && !candidates.iter().any(|(known, _)| *known == peer)
        {
            candidates.push((peer, filters::split_peer(address).0));
            self.find_relays();
        }
    }

    /// Where we cannot be reached directly, asks peers to relay for us.
    pub(super) fn find_relays(&mut self) {
        if !self.config.relay_client || !self.reach.is_behind_nat {
            return;
        }
        let connected = self.shared.state().connected.clone();
        self.reach.relay_candidates.retain(|(peer, _)| connected.contains(peer));
        for (peer, address) in self.reach.relay_candidates.clone() {
            let is_used = self.reach.relays.iter().any(|(_, relay)| *relay == peer);
            if is_used || self.reach.relays.len() >= RELAYS_MAX {
                continue;
            }
            match self.swarm.listen_on(address.with(Part::P2p(peer)).with(Part::P2pCircuit)) {
                Ok(listener) => self.reach.relays.push((listener, peer)),
                Err(error) => debug!(%peer, %error, "a peer cannot relay for us"),
            }
        }
    }

    /// Whether the listener was one at a relay, which is then not tried again until it is met again.
    pub(super) fn relay_ended(&mut self, listener: ListenerId) -> bool {
        let Some(position) = self.reach.relays.iter().position(|(known, _)| *known == listener) else {
            return false;
        };
        let (_, relay) = self.reach.relays.remove(position);
        self.reach.relay_candidates.retain(|(peer, _)| *peer != relay);
        self.find_relays();
        true
    }
}
