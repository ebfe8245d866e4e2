//! The task that owns the swarm.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use libp2p::core::transport::{ListenerId, TransportError};
use libp2p::kad::QueryId;
use libp2p::swarm::{ConnectionId, Swarm, SwarmEvent};
use libp2p::{autonat, gossipsub, identify, ping};
use libp2p_identity::Keypair;
use multiaddr::Protocol as Part;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, timeout};
use tracing::{debug, info, warn};

use super::behaviour::{Host, HostEvent, swarm};
use super::dials::Dial;
use super::directory::{LAN, WAN, enter};
use super::reach::Reach;
use super::routing::{Answer, Purpose, Question, Which};
use super::shared::Shared;
use super::streams::Open;
use super::trim::{Candidate, surplus};
use super::{COMPONENT, Libp2pConfig, filters, gossip};
use crate::error::{Error, ErrorKind, Result};
use crate::transport::{GOSSIP_PROTOCOL, GossipMessage, Topic, TransportEvent};
use crate::types::{Multiaddr, PeerId};

/// How often connections are counted and subscriptions that ended are forgotten.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);
/// How long listening may take to begin.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long saying good-bye may take.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);
/// Pings in a row without an answer after which a connection is dead.
const PING_FAILURES_MAX: u32 = 2;
/// How often the tables of the directories are brought up to date.
const REFRESH_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// What a peer speaks that relays for others.
const RELAY_HOP: &str = "/libp2p/circuit/relay/0.2.0/hop";
/// Between attempts to reach a peer when known peers are not dialled again by themselves.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// What the methods ask for.
pub(super) enum Command {
    Open {
        peer: PeerId,
        open: Open,
    },
    Connect {
        address: Multiaddr,
        reply: oneshot::Sender<Result<PeerId>>,
    },
    Disconnect {
        peer: PeerId,
        reply: oneshot::Sender<Result<()>>,
    },
    Publish {
        topic: Topic,
        data: Bytes,
        reply: oneshot::Sender<Result<()>>,
    },
    /// From the local network.
    Found {
        peer: PeerId,
        addresses: Vec<Multiaddr>,
    },
    Provide {
        key: Vec<u8>,
        reply: oneshot::Sender<Result<()>>,
    },
    Providers {
        key: Vec<u8>,
        reply: oneshot::Sender<Result<Vec<PeerId>>>,
    },
}

/// A connection.
struct Link {
    peer: PeerId,
    since: Instant,
    address: Multiaddr,
    is_outgoing: bool,
    ping_failures: u32,
}

/// Owns the swarm and everything that is under way.
pub(super) struct Task {
    pub(super) swarm: Swarm<Host>,
    pub(super) config: Libp2pConfig,
    pub(super) shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    listeners: HashSet<ListenerId>,
    links: BTreeMap<ConnectionId, Link>,
    topics: BTreeSet<Topic>,
    disconnects: BTreeMap<PeerId, Vec<oneshot::Sender<Result<()>>>>,
    pub(super) dials: BTreeMap<PeerId, Dial>,
    /// Dials of addresses without an id.
    pub(super) unknown_dials: BTreeMap<ConnectionId, (Multiaddr, oneshot::Sender<Result<PeerId>>)>,
    pub(super) has_redialled: bool,
    /// Looked up, never listed.
    pub(super) queries: HashMap<(Which, QueryId), Purpose>,
    pub(super) questions: BTreeMap<u64, Question>,
    pub(super) next_question: u64,
    pub(super) reach: Reach,
}

/// How long to wait at least before a peer that could not be reached is dialled again.
pub(super) fn retry_interval(config: &Libp2pConfig) -> Duration {
    if config.redial_interval.is_zero() { RETRY_INTERVAL } else { config.redial_interval }
}

/// Listening itself does not notice another listener on the same port, because it shares ports for hole punching.
fn is_free(address: &Multiaddr) -> io::Result<()> {
    match (filters::ip_of(address), address.iter().nth(1)) {
        (Some(ip), Some(Part::Tcp(port))) if port != 0 => TcpListener::bind((ip, port)).map(drop),
        _ => Ok(()),
    }
}

impl Task {
    pub(super) fn new(
        keypair: &Keypair,
        config: Libp2pConfig,
        shared: Arc<Shared>,
        commands: mpsc::Receiver<Command>,
    ) -> Result<Self> {
        {
            let mut state = shared.state();
            for (addresses, is_permanent) in
                [(&config.peer_addresses, true), (&config.known_addresses, false)]
            {
                for address in addresses {
                    match filters::split_peer(address) {
                        (_, Some(peer)) if peer == shared.peer => {}
                        (at, Some(peer)) if filters::is_dialable(&at) && is_permanent => {
                            state.book.add_permanent(peer, at);
                        }
                        (at, Some(peer)) if filters::is_dialable(&at) => drop(state.book.add(peer, [at])),
                        _ => {
                            warn!(%address, "this address of a peer cannot be dialled: it needs TCP and a /p2p/<id>")
                        }
                    }
                }
            }
        }
        Ok(Self {
            swarm: swarm(keypair, &config, shared.registry.clone())?,
            config,
            shared,
            commands,
            listeners: HashSet::new(),
            links: BTreeMap::new(),
            topics: BTreeSet::new(),
            disconnects: BTreeMap::new(),
            dials: BTreeMap::new(),
            unknown_dials: BTreeMap::new(),
            has_redialled: false,
            queries: HashMap::new(),
            questions: BTreeMap::new(),
            next_question: 0,
            reach: Reach::default(),
        })
    }

    /// Returns once every listener has an address or failed, and one at least has one.
    pub(super) async fn listen(&mut self) -> Result<()> {
        let mut failures = Vec::new();
        for address in self.config.listen.clone() {
            if filters::is_quic(&address) {
                info!(%address, "not listening on this address: no peer of a cluster speaks QUIC");
                failures.push(format!("{address}: QUIC is not spoken by any peer"));
                continue;
            }
            let free = is_free(&address).map_err(TransportError::Other);
            match free.and_then(|()| self.swarm.listen_on(address.clone())) {
                Ok(listener) => drop(self.listeners.insert(listener)),
                Err(error) => {
                    warn!(%address, %error, "cannot listen on this address");
                    failures.push(format!("{address}: {error}"));
                }
            }
        }
        let mut waiting = self.listeners.clone();
        let all_listen = async {
            while !waiting.is_empty() {
                let event = self.swarm.select_next_some().await;
                match &event {
                    SwarmEvent::NewListenAddr { listener_id, .. } => drop(waiting.remove(listener_id)),
                    SwarmEvent::ListenerClosed { listener_id, reason: Err(error), .. } => {
                        waiting.remove(listener_id);
                        failures.push(error.to_string());
                    }
                    SwarmEvent::ListenerClosed { listener_id, .. } => drop(waiting.remove(listener_id)),
                    _ => {}
                }
                self.on_event(event);
            }
        };
        // An interface that never comes up is no reason not to start on the others.
        let _ = timeout(LISTEN_TIMEOUT, all_listen).await;
        // A wildcard listens on every interface, and says so one after the other.
        while let Some(Some(event)) = self.swarm.next().now_or_never() {
            self.on_event(event);
        }
        if self.shared.state().listen.is_empty() && !self.config.dial_only {
            let text = format!("cannot listen on any address of this peer: {}", failures.join("; "));
            return Err(Error::new(ErrorKind::Io, text).component(COMPONENT));
        }
        Ok(())
    }

    pub(super) async fn run(mut self) {
        let cancel = self.shared.cancel.clone();
        let shared = self.shared.clone();
        let mut maintenance = interval(MAINTENANCE_INTERVAL);
        maintenance.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refresh = interval_at(Instant::now() + REFRESH_INTERVAL, REFRESH_INTERVAL);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut redial = interval(retry_interval(&self.config));
        redial.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Not biased: neither may a busy network starve commands, nor the reverse.
            tokio::select! {
                () = cancel.cancelled() => break,
                event = self.swarm.select_next_some() => self.on_event(event),
                Some(command) = self.commands.recv() => self.on_command(command),
                () = shared.changed.notified() => self.apply_changes(),
                _ = maintenance.tick() => self.maintain(),
                _ = refresh.tick() => self.refresh_directories(),
                _ = redial.tick(), if !self.config.redial_interval.is_zero() => self.redial(),
            }
        }
        self.say_goodbye().await;
    }

    /// Closes the connections, so that nobody has to find out.
    async fn say_goodbye(mut self) {
        let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // It may have gone by itself.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closed = async {
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.select_next_some().await;
            }
        };
        if timeout(GOODBYE_TIMEOUT, closed).await.is_err() {
            debug!("some connections did not close in time");
        }
        self.shared.state().connected.clear();
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Open { peer, open } => self.open(peer, open),
            Command::Connect { address, reply } => self.connect(&address, reply),
            Command::Disconnect { peer, reply } => {
                if self.swarm.disconnect_peer_id(peer).is_ok() {
                    self.disconnects.entry(peer).or_default().push(reply);
                } else {
                    let _ = reply.send(Ok(()));
                }
            }
            Command::Publish { topic, data, reply } => {
                self.apply_changes();
                let judges = self.shared.state().subscriptions.of(topic.as_str());
                let published =
                    self.swarm.behaviour_mut().gossip.publish(gossip::topic(&topic), data.to_vec());
                // Without anybody to hear it, it is published and has not travelled.
                if published.is_ok() {
                    self.shared.registry.traffic.of(GOSSIP_PROTOCOL).sent(data.len());
                }
                let result = gossip::published(published);
                if result.is_ok() {
                    judges.deliver_own(self.shared.peer, &data);
                }
                let _ = reply.send(result);
            }
            Command::Found { peer, addresses } => self.found_nearby(peer, addresses),
            Command::Provide { key, reply } => self.ask_about(key, Answer::Told(reply)),
            Command::Providers { key, reply } => self.ask_about(key, Answer::Found(reply)),
        }
    }

    /// Brings subscriptions and protections to the swarm.
    fn apply_changes(&mut self) {
        let (topics, protections) = {
            let mut state = self.shared.state();
            let topics: BTreeSet<_> = state.subscriptions.topics().cloned().collect();
            (topics, std::mem::take(&mut state.protections))
        };
        let host = self.swarm.behaviour_mut();
        for topic in topics.difference(&self.topics) {
            if let Err(error) = host.gossip.subscribe(&gossip::topic(topic)) {
                warn!(%topic, %error, "cannot subscribe");
            }
        }
        for topic in self.topics.difference(&topics) {
            host.gossip.unsubscribe(&gossip::topic(topic));
        }
        self.topics = topics;
        for (peer, protect) in protections {
            host.bypass_limits(&peer, protect);
        }
    }

    fn maintain(&mut self) {
        self.shared.state().subscriptions.prune();
        self.apply_changes();
        let now = Instant::now();
        let mut ages: BTreeMap<PeerId, Duration> = BTreeMap::new();
        for link in self.links.values() {
            let age = now.saturating_duration_since(link.since);
            let oldest = ages.entry(link.peer).or_default();
            *oldest = age.max(*oldest);
        }
        if ages.len() <= self.config.connections.high_water {
            return;
        }
        let candidates = {
            let state = self.shared.state();
            let protected = |peer: &PeerId| state.protected.contains(peer);
            let candidate = |(peer, age)| Candidate { peer, age, is_protected: protected(&peer) };
            ages.into_iter().map(candidate).collect()
        };
        for peer in surplus(candidates, &self.config.connections) {
            debug!(%peer, "closing a connection, because there are too many");
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    fn on_event(&mut self, event: SwarmEvent<HostEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished {
                peer_id, connection_id, endpoint, num_established, ..
            } => {
                let address = endpoint.get_remote_address().clone();
                let is_outgoing = endpoint.is_dialer();
                {
                    let mut state = self.shared.state();
                    if is_outgoing {
                        state.book.add(peer_id, [filters::split_peer(&address).0]);
                    }
                    state.book.connected(&peer_id);
                    if state.connected.insert(peer_id) {
                        state.tell(TransportEvent::Connected(peer_id));
                    }
                }
                debug!(peer = %peer_id, %address, is_outgoing, connections = num_established, "connected");
                let link =
                    Link { peer: peer_id, since: Instant::now(), address, is_outgoing, ping_failures: 0 };
                self.links.insert(connection_id, link);
                self.dial_succeeded(connection_id, peer_id);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, cause, .. } => {
                self.links.remove(&connection_id);
                let cause = cause.map(|cause| cause.to_string()).unwrap_or_default();
                debug!(peer = %peer_id, cause, connections = num_established, "disconnected");
                if num_established == 0 {
                    let mut state = self.shared.state();
                    if state.connected.remove(&peer_id) {
                        state.tell(TransportEvent::Disconnected(peer_id));
                    }
                    drop(state);
                    for reply in self.disconnects.remove(&peer_id).unwrap_or_default() {
                        let _ = reply.send(Ok(()));
                    }
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.dial_failed(connection_id, peer_id, &error);
            }
            // Wrong secrets end here.
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                debug!(from = %send_back_addr, %error, "a connection was not made");
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                let (address, _) = filters::split_peer(&address);
                if filters::is_relayed(&address) {
                    self.observed(address);
                } else {
                    info!(%address, "listening");
                    self.shared.state().listen.insert(address);
                    self.announce();
                }
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => self.listened_on(&address),
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                for address in &addresses {
                    self.listened_on(address);
                }
                if !self.relay_ended(listener_id) {
                    self.listeners.remove(&listener_id);
                    warn!(?addresses, ?reason, "no longer listening on these addresses");
                }
            }
            SwarmEvent::ListenerError { error, .. } => debug!(%error, "listening failed for a moment"),
            SwarmEvent::NewExternalAddrCandidate { address } => self.observed(address),
            SwarmEvent::ExternalAddrConfirmed { address } => self.confirmed(address),
            SwarmEvent::ExternalAddrExpired { address } => self.expired(&address),
            _ => {}
        }
    }

    fn listened_on(&mut self, address: &Multiaddr) {
        let (address, _) = filters::split_peer(address);
        self.shared.state().listen.remove(&address);
        self.expired(&address);
        self.announce();
    }

    fn on_behaviour(&mut self, event: HostEvent) {
        match event {
            HostEvent::Identify(identify::Event::Received { connection_id, peer_id, info }) => {
                self.on_identified(connection_id, peer_id, &info);
            }
            HostEvent::Ping(event) => self.on_ping(&event),
            HostEvent::Gossip(gossipsub::Event::Message { propagation_source, message_id, message }) => {
                self.on_message(propagation_source, &message_id, message);
            }
            HostEvent::Lan(event) => self.on_directory(Which::Lan, event),
            HostEvent::Wan(event) => self.on_directory(Which::Wan, event),
            HostEvent::Autonat(autonat::v1::Event::StatusChanged { new, .. }) => self.on_nat_status(&new),
            _ => {}
        }
    }

    fn on_identified(&mut self, connection: ConnectionId, peer: PeerId, info: &identify::Info) {
        let Some(link) = self.links.get(&connection) else { return };
        let (via, is_outgoing) = (link.address.clone(), link.is_outgoing);
        let mut addresses = filters::believed(&info.listen_addrs, &peer, &via);
        {
            let mut state = self.shared.state();
            if state.book.add(peer, addresses.iter().cloned()) {
                state.tell(TransportEvent::AddressesChanged(peer));
            }
        }
        if is_outgoing {
            addresses.push(filters::split_peer(&via).0);
        }
        let host = self.swarm.behaviour_mut();
        for (directory, name, belongs) in [
            (host.lan.as_mut(), LAN, filters::belongs_to_lan as fn(&Multiaddr) -> bool),
            (host.wan.as_mut(), WAN, filters::belongs_to_wan),
        ] {
            if let Some(directory) = directory
                && info.protocols.contains(&name)
            {
                for address in addresses.iter().filter(|address| belongs(address)) {
                    enter(directory, &peer, address.clone());
                }
            }
        }
        // Who can only be reached through a relay keeps no directory, and is found in ours all the same: the reference
        // answers for every peer that it is connected to.
        if let Some(wan) = host.wan.as_mut() {
            for address in addresses.iter().filter(|address| filters::is_reached_by_relay(address)) {
                enter(wan, &peer, address.clone());
            }
        }
        if info.protocols.iter().any(|protocol| protocol.as_ref() == RELAY_HOP) {
            self.is_relay(peer, &via);
        }
    }

    /// A peer whose machine lost its power says nothing, so its silence is noticed.
    fn on_ping(&mut self, event: &ping::Event) {
        let Some(link) = self.links.get_mut(&event.connection) else { return };
        match &event.result {
            Ok(_) | Err(ping::Failure::Unsupported) => link.ping_failures = 0,
            Err(error) => {
                link.ping_failures += 1;
                if link.ping_failures >= PING_FAILURES_MAX {
                    debug!(peer = %event.peer, %error, "closing a connection that does not answer");
                    self.swarm.close_connection(event.connection);
                }
            }
        }
    }

    fn on_message(&mut self, from: PeerId, id: &gossipsub::MessageId, message: gossipsub::Message) {
        self.shared.registry.traffic.of(GOSSIP_PROTOCOL).received(message.data.len());
        // Strict validation lets no message without its signer through.
        let Some(signer) = message.source else { return };
        let judges = self.shared.state().subscriptions.of(message.topic.as_str());
        let message = GossipMessage { signer, from, data: message.data.into() };
        let acceptance = judges.deliver(&message);
        self.swarm.behaviour_mut().gossip.report_message_validation_result(id, &from, acceptance);
    }
}
