//! `follow-config`: what followers of this cluster need to know, and nothing else.
//!
//! It is put together from what the sections mean, never by taking things out of the peer's own file: what somebody adds
//! to that file later is not published by accident.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipfs_cluster::config::{ClusterSection, ServiceJson, peerstore, process_environment};
use ipfs_cluster::consensus::CrdtSection;
use ipfs_cluster::informer::TagsConfig;
use ipfs_cluster::ipfs_connector::KuboConfig;
use ipfs_cluster::tracker::StatelessConfig;
use ipfs_cluster::transport::Libp2pConfig;
use ipfs_cluster::types::{Multiaddr, PeerId, parse_multiaddr, parse_peer};
use ipfs_cluster::{Error, Result as ClusterResult};
use ipfs_cluster_bins::service::config::{ConsensusSection, PeerConfig};
use ipfs_cluster_bins::service::folder::{Folder, PROGRAM};
use ipfs_cluster_bins::service::output::Output;
use ipfs_cluster_bins::service::{Doing as _, Failure};
use multiaddr::Protocol;

use crate::cli::FollowConfig;
use crate::state::report;

/// Go's word for everybody, in `trusted_peers`.
const EVERYBODY: &str = "*";
/// Most addresses of one peer that followers are given.
const ADDRESSES_PER_PEER_MAX: usize = 16;
/// Most addresses that followers are given.
const ADDRESSES_MAX: usize = 256;
/// Longest name, in bytes; it is the name of a folder at the followers'.
const NAME_BYTES_MAX: usize = 64;
/// Each on a free port: somebody may follow several clusters.
const FOLLOWERS_LISTEN_ON: &str = "/ip4/0.0.0.0/tcp/0";
/// The store of Go followers, with its defaults; ours keep their pinset elsewhere.
const REFERENCE_STORE: &str = "datastore.pebble";

pub(crate) fn run(folder: Folder, options: &FollowConfig) -> Result<(), Failure> {
    const DOING: &str = "making the configuration of followers";
    let (config, warnings) = PeerConfig::load(folder, &process_environment)?;
    report(&warnings);
    let mut known = config.cluster.peer_addresses.clone();
    match peerstore::load(&config.cluster.peerstore_path(config.folder.path())) {
        Ok(stored) => known.extend(stored.addresses),
        Err(error) => tracing::warn!("going on without the peerstore: {error}"),
    }
    let published = publish(&config, options, &known, &interfaces()).doing(DOING)?;
    let text = published.file.to_text().doing(DOING)?;
    let mut output = Output::create(options.output.as_deref()).doing("creating output file")?;
    writeln!(output, "{text}")
        .map_err(|source| Error::io("writing the configuration", source))
        .doing(DOING)?;
    output.finish().doing(DOING)?;
    for note in published.notes {
        eprintln!("{note}");
    }
    Ok(())
}

/// What followers get, and what the publisher should know of it.
#[derive(Debug)]
struct Published {
    file: ServiceJson,
    notes: Vec<Note>,
}

/// Something that the publisher should know.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Note {
    Secret,
    NoSecret,
    TrustsEverybody,
    OnlyLoopback,
    OnlyPrivate,
    Next { name: String },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret => f.write_str(
                "NOTE: this configuration contains the secret of the cluster. Whoever has it can connect and read the \
                 pinset; only the trusted peers can change it. Publish it if that is what you want.",
            ),
            Self::NoSecret => f.write_str("NOTE: the cluster has no secret: anybody can connect to its peers."),
            Self::TrustsEverybody => f.write_str(
                "WARNING: this peer itself takes changes from everybody who has the secret, and passes them on to \
                 followers as its own. Before you publish, replace \"*\" in consensus.crdt.trusted_peers by the peers \
                 that may write, on each of them.",
            ),
            Self::OnlyLoopback => f.write_str(
                "NOTE: this peer can be met only on this machine; name an address for followers elsewhere with \
                 --address /ip4/…/tcp/9096 or /dns4/…/tcp/9096",
            ),
            Self::OnlyPrivate => f.write_str(
                "NOTE: all addresses of this peer are those of a private network; name one for followers elsewhere \
                 with --address /ip4/…/tcp/9096 or /dns4/…/tcp/9096",
            ),
            Self::Next { name } => write!(
                f,
                "Serve it over HTTP, or add it to IPFS and point a DNSLink to it. Followers run:\n  \
                 ipfs-cluster-follow {name} run --init <URL>"
            ),
        }
    }
}

fn publish(
    config: &PeerConfig,
    options: &FollowConfig,
    known: &[Multiaddr],
    interfaces: &[IpAddr],
) -> ClusterResult<Published> {
    let ConsensusSection::Crdt(crdt) = &config.consensus else {
        let kind = match &config.consensus {
            ConsensusSection::Raft(_) => "a cluster of members (consensus.raft)",
            ConsensusSection::Etcd(_) => "a cluster on etcd (consensus.etcd)",
            _ => "a cluster of one peer (consensus.solo)",
        };
        return Err(Error::invalid_input(format!(
            "{kind} cannot be followed: make one that can with \"{PROGRAM} init --collaborative\""
        )));
    };
    let own = config.identity.id();
    let named: ClusterResult<Vec<PeerId>> =
        options.trust.iter().map(|text| parse_peer(text.trim())).collect();
    let trusted = trusted(&crdt.trusted_peers, &named?, own, config.cluster.follower_mode)?;
    let name = match &options.name {
        Some(name) => checked_name(name)?,
        None => name_of(&crdt.cluster_name),
    };
    let given: ClusterResult<Vec<Multiaddr>> =
        options.address.iter().map(|text| parse_multiaddr(text.trim())).collect();
    let mut addresses = if options.address.is_empty() {
        of_this_peer(&config.cluster, own, interfaces)?
    } else {
        given?.into_iter().map(|address| completed(address, own, &trusted)).collect::<ClusterResult<_>>()?
    };
    let mut notes = vec![if config.cluster.secret.is_set() { Note::Secret } else { Note::NoSecret }];
    if crdt.trusted_peers.iter().any(|text| text == EVERYBODY) {
        notes.push(Note::TrustsEverybody);
    }
    if addresses.iter().all(|address| reach(address) == Reach::Machine) {
        notes.push(Note::OnlyLoopback);
    } else if addresses.iter().all(|address| reach(address) != Reach::World) {
        notes.push(Note::OnlyPrivate);
    }
    for address in of_others(known, own, &trusted) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses.truncate(ADDRESSES_MAX);
    notes.push(Note::Next { name: name.clone() });
    Ok(Published { file: file(config, crdt, &trusted, addresses, &name)?, notes })
}

/// Whose changes followers take: never everybody's, because everybody has the secret.
fn trusted(
    texts: &[String],
    named: &[PeerId],
    own: PeerId,
    is_follower: bool,
) -> ClusterResult<BTreeSet<PeerId>> {
    if named.is_empty() && texts.iter().any(|text| text == EVERYBODY) {
        return Err(Error::invalid_input(format!(
            "consensus.crdt.trusted_peers is \"*\", so followers would take changes from everybody: replace it by the \
             peers that may write, [\"{own}\"] if it is this one alone, or name them here with --trust"
        )));
    }
    let mut trusted: BTreeSet<PeerId> = named.iter().copied().collect();
    for text in texts.iter().filter(|text| *text != EVERYBODY) {
        trusted.insert(parse_peer(text)?);
    }
    if !is_follower {
        trusted.insert(own);
    }
    if trusted.is_empty() {
        return Err(Error::invalid_input(
            "this peer is a follower that trusts nobody: name the peers that may write with --trust",
        ));
    }
    Ok(trusted)
}

/// A name that can be a folder and needs no quotes in a shell.
fn checked_name(name: &str) -> ClusterResult<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if name.len() > NAME_BYTES_MAX || !starts_well || !name.chars().all(is_plain) {
        return Err(Error::invalid_input(format!(
            "{name:?} cannot be the name of a followed cluster: it begins with a letter or digit and has at most \
             {NAME_BYTES_MAX} letters, digits, dots, dashes and underscores"
        )));
    }
    Ok(name.to_owned())
}

/// The name of the cluster, as far as it is one for followers.
fn name_of(cluster_name: &str) -> String {
    checked_name(cluster_name).unwrap_or_else(|_| "mycluster".to_owned())
}

/// An address that somebody gave for followers, with the peer that is there.
fn completed(address: Multiaddr, own: PeerId, trusted: &BTreeSet<PeerId>) -> ClusterResult<Multiaddr> {
    let wrong = |why: &str| Err(Error::invalid_input(format!("--address {address}: {why}")));
    if is_quic(&address) {
        return wrong("peers of a cluster speak TCP and WebSocket, not QUIC");
    }
    if !leads_somewhere(&address) {
        return wrong(
            "nobody can connect to it: it needs a host and a port, for example /dns4/host.example/tcp/9096",
        );
    }
    match address.iter().last() {
        Some(Protocol::P2p(peer)) if peer == own || trusted.contains(&peer) => Ok(address),
        Some(Protocol::P2p(peer)) => wrong(&format!(
            "followers do not trust {peer}; this peer is {own}, another is named with --trust"
        )),
        _ => Ok(address.with(Protocol::P2p(own))),
    }
}

/// Where this peer can be met, by what it announces, else by what it listens on.
fn of_this_peer(
    cluster: &ClusterSection,
    own: PeerId,
    interfaces: &[IpAddr],
) -> ClusterResult<Vec<Multiaddr>> {
    let listened = cluster.listen_multiaddress.iter().flat_map(|address| expanded(address, interfaces));
    let mut addresses = Libp2pConfig::from(cluster).announced(listened);
    addresses.retain(|address| !is_quic(address) && leads_somewhere(address));
    if addresses.iter().any(|address| reach(address) != Reach::Machine) {
        addresses.retain(|address| reach(address) != Reach::Machine);
    }
    addresses.truncate(ADDRESSES_PER_PEER_MAX);
    if addresses.is_empty() {
        return Err(Error::invalid_input(
            "there is no address at which followers could meet this peer (it may listen on any free port): name one \
             with --address, or set cluster.listen_multiaddress or cluster.announce_multiaddress",
        ));
    }
    Ok(addresses.into_iter().map(|address| address.with(Protocol::P2p(own))).collect())
}

/// An address with the machine's own in place of "all of them".
fn expanded(address: &Multiaddr, interfaces: &[IpAddr]) -> Vec<Multiaddr> {
    let is_all_v4 = match address.iter().next() {
        Some(Protocol::Ip4(Ipv4Addr::UNSPECIFIED)) => true,
        Some(Protocol::Ip6(Ipv6Addr::UNSPECIFIED)) => false,
        _ => return vec![address.clone()],
    };
    let fitting = interfaces.iter().filter(|ip| ip.is_ipv4() == is_all_v4);
    fitting.map(|ip| std::iter::once(Protocol::from(*ip)).chain(address.iter().skip(1)).collect()).collect()
}

/// What is known of the other trusted peers; addresses of this machine only where there is nothing else.
fn of_others(known: &[Multiaddr], own: PeerId, trusted: &BTreeSet<PeerId>) -> Vec<Multiaddr> {
    let mut by_peer: BTreeMap<PeerId, Vec<&Multiaddr>> = BTreeMap::new();
    for address in known.iter().filter(|address| !is_quic(address) && leads_somewhere(address)) {
        if let Some(Protocol::P2p(peer)) = address.iter().last()
            && peer != own
            && trusted.contains(&peer)
        {
            by_peer.entry(peer).or_default().push(address);
        }
    }
    let mut found = Vec::new();
    for addresses in by_peer.into_values() {
        let elsewhere = addresses.iter().any(|address| reach(address) != Reach::Machine);
        let kept = addresses.into_iter().filter(|address| !elsewhere || reach(address) != Reach::Machine);
        found.extend(kept.take(ADDRESSES_PER_PEER_MAX).cloned());
    }
    found
}

fn is_quic(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::Udp(_) | Protocol::Quic | Protocol::QuicV1))
}

/// Whether it has a host, and a port where that needs one.
fn leads_somewhere(address: &Multiaddr) -> bool {
    let has_port = address.iter().any(|part| matches!(part, Protocol::Tcp(port) if port != 0));
    match address.iter().next() {
        Some(Protocol::Dnsaddr(_)) => true,
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)) => has_port,
        Some(Protocol::Ip4(ip)) => has_port && !ip.is_unspecified(),
        Some(Protocol::Ip6(ip)) => has_port && !ip.is_unspecified(),
        _ => false,
    }
}

/// From where an address can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Machine,
    Network,
    World,
}

fn reach(address: &Multiaddr) -> Reach {
    let ip: IpAddr = match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.into(),
        Some(Protocol::Ip6(ip)) => ip.into(),
        _ => return Reach::World,
    };
    let is_private = match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    };
    match (ip.is_loopback(), is_private) {
        (true, _) => Reach::Machine,
        (_, true) => Reach::Network,
        _ => Reach::World,
    }
}

/// The machine's addresses, but those that mean something only beside the name of an interface; the most useful first.
fn interfaces() -> Vec<IpAddr> {
    let found = if_addrs::get_if_addrs().inspect_err(|error| {
        tracing::warn!("the machine does not say which addresses it has: {error}");
    });
    let ips: BTreeSet<IpAddr> = found.unwrap_or_default().iter().map(if_addrs::Interface::ip).collect();
    let is_link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let mut ips: Vec<IpAddr> = ips.into_iter().filter(|ip| !is_link_local(ip)).collect();
    ips.sort_by_key(|ip| match reach(&Multiaddr::from(*ip)) {
        Reach::World => 0,
        Reach::Network => 1,
        Reach::Machine => 2,
    });
    ips
}

/// A `service.json` in the reference's order, without `api`, which a follower has of its own.
fn file(
    config: &PeerConfig,
    crdt: &CrdtSection,
    trusted: &BTreeSet<PeerId>,
    addresses: Vec<Multiaddr>,
    name: &str,
) -> ClusterResult<ServiceJson> {
    let own = &config.cluster;
    let cluster = ClusterSection {
        // Not the name of this machine, and not that of theirs.
        peername: format!("{name}-follower"),
        secret: own.secret.clone(),
        listen_multiaddress: [parse_multiaddr(FOLLOWERS_LISTEN_ON)?].into_iter().collect(),
        enable_relay_hop: own.enable_relay_hop,
        pubsub: own.pubsub,
        dial_peer_timeout: own.dial_peer_timeout,
        state_sync_interval: own.state_sync_interval,
        pin_recover_interval: own.pin_recover_interval,
        replication_factor_min: own.replication_factor_min,
        replication_factor_max: own.replication_factor_max,
        monitor_ping_interval: own.monitor_ping_interval,
        peer_watch_interval: own.peer_watch_interval,
        mdns_interval: own.mdns_interval,
        disable_repinning: true,
        follower_mode: true,
        peer_addresses: addresses,
        ..ClusterSection::default()
    };
    let consensus = CrdtSection {
        cluster_name: crdt.cluster_name.clone(),
        trusted_peers: trusted.iter().map(PeerId::to_string).collect(),
        repair_interval: crdt.repair_interval,
        rebroadcast_interval: crdt.rebroadcast_interval,
        peerset_metric: crdt.peerset_metric.clone(),
        ..CrdtSection::default()
    };
    let mut file = ServiceJson::new();
    file.write(&cluster)?;
    file.write(&consensus)?;
    file.write(&KuboConfig::default())?;
    file.write(&StatelessConfig::default())?;
    file.write(&config.monitor)?;
    file.write(&config.allocator)?;
    // A peer needs an informer.
    file.write(&config.disk.clone().unwrap_or_default())?;
    if let Some(queue) = &config.pin_queue {
        file.write(queue)?;
    }
    if let Some(tags) = &config.tags {
        file.write(&followers_tags(tags, &config.allocator.allocate_by))?;
    }
    file.set(REFERENCE_STORE, &serde_json::json!({}))?;
    Ok(file)
}

/// The tags that pins are allocated by, because who lacks one of them is given none; not this peer's own values.
fn followers_tags(own: &TagsConfig, allocate_by: &[String]) -> TagsConfig {
    let mut tags = TagsConfig { metric_ttl: own.metric_ttl, ..TagsConfig::default() };
    let asked_for = allocate_by.iter().filter_map(|metric| metric.strip_prefix("tag:"));
    tags.tags.extend(asked_for.map(|tag| (tag.to_owned(), "default".to_owned())));
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn peer(text: &str) -> PeerId {
        text.parse().unwrap()
    }

    const OWN: &str = "12D3KooWRN8KRjpyg9rsW2w7StbBRGper65psTZm68cjud9KAkaW";
    const OTHER: &str = "12D3KooWPwrYNj7VficHw5qYidepMGA85756kYgMdNmRM9A1ZHjN";
    const STRANGER: &str = "12D3KooWKqMeDaQTfWAa5nFKZ6kHNDBmBeXVdTqR3tbKRTRdQpSR";

    #[test]
    fn an_address_of_this_peer_is_what_it_announces_or_where_it_listens() {
        let interfaces: Vec<IpAddr> = ["203.0.113.9", "2001:db8::9", "192.168.1.2", "127.0.0.1", "::1"]
            .iter()
            .map(|ip| ip.parse().unwrap())
            .collect();
        let only_loopback: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into()];
        let both = ["/ip4/0.0.0.0/tcp/9096", "/ip4/0.0.0.0/udp/9096/quic"];
        for (listen, announce, never, interfaces, expected) in [
            (
                &both[..],
                &[][..],
                &[][..],
                &interfaces[..],
                &["/ip4/203.0.113.9/tcp/9096", "/ip4/192.168.1.2/tcp/9096"][..],
            ),
            (&both, &[], &[], &only_loopback, &["/ip4/127.0.0.1/tcp/9096"]),
            (&both, &["/dns4/a.example/tcp/1"], &[], &interfaces, &["/dns4/a.example/tcp/1"]),
            (&both, &[], &["/ip4/192.168.0.0/ipcidr/16"], &interfaces, &["/ip4/203.0.113.9/tcp/9096"]),
            (&["/ip6/::/tcp/9/ws"], &[], &[], &interfaces, &["/ip6/2001:db8::9/tcp/9/ws"]),
            (&["/ip4/127.0.0.1/tcp/7"], &[], &[], &interfaces, &["/ip4/127.0.0.1/tcp/7"]),
            (
                &["/ip4/127.0.0.1/tcp/7", "/ip4/10.0.0.1/tcp/7"],
                &[],
                &[],
                &interfaces,
                &["/ip4/10.0.0.1/tcp/7"],
            ),
            (&["/ip4/0.0.0.0/tcp/0"], &[], &[], &interfaces, &[]),
            (&both, &[], &[], &[], &[]),
        ] {
            let cluster = ClusterSection {
                listen_multiaddress: addresses(listen).into_iter().collect(),
                announce_multiaddress: addresses(announce).into_iter().collect(),
                no_announce_multiaddress: addresses(never).into_iter().collect(),
                ..ClusterSection::default()
            };
            let found = of_this_peer(&cluster, peer(OWN), interfaces);
            if expected.is_empty() {
                assert!(found.unwrap_err().to_string().contains("--address"));
                continue;
            }
            let expected: Vec<String> =
                expected.iter().map(|address| format!("{address}/p2p/{OWN}")).collect();
            let found: Vec<String> = found.unwrap().iter().map(Multiaddr::to_string).collect();
            assert_eq!(found, expected, "{listen:?} {announce:?} {never:?}");
        }
    }

    #[test]
    fn a_given_address_gets_the_peer_and_one_that_leads_nowhere_is_refused() {
        let trusted = BTreeSet::from([peer(OWN), peer(OTHER)]);
        for (given, expected) in [
            ("/dns4/a.example/tcp/9096".to_owned(), Ok(format!("/dns4/a.example/tcp/9096/p2p/{OWN}"))),
            (format!("/ip4/1.2.3.4/tcp/1/p2p/{OWN}"), Ok(format!("/ip4/1.2.3.4/tcp/1/p2p/{OWN}"))),
            (format!("/ip4/1.2.3.4/tcp/1/p2p/{OTHER}"), Ok(format!("/ip4/1.2.3.4/tcp/1/p2p/{OTHER}"))),
            (
                format!("/ip4/1.2.3.4/tcp/1/p2p/{STRANGER}/p2p-circuit"),
                Ok(format!("/ip4/1.2.3.4/tcp/1/p2p/{STRANGER}/p2p-circuit/p2p/{OWN}")),
            ),
            ("/dnsaddr/a.example".to_owned(), Ok(format!("/dnsaddr/a.example/p2p/{OWN}"))),
            (format!("/ip4/1.2.3.4/tcp/1/p2p/{STRANGER}"), Err("do not trust")),
            ("/ip4/1.2.3.4/udp/1/quic-v1".to_owned(), Err("QUIC")),
            ("/ip4/1.2.3.4".to_owned(), Err("port")),
            ("/ip4/0.0.0.0/tcp/1".to_owned(), Err("nobody can connect")),
            ("/unix/socket".to_owned(), Err("host")),
        ] {
            let found = completed(given.parse().unwrap(), peer(OWN), &trusted);
            match expected {
                Ok(expected) => assert_eq!(found.unwrap().to_string(), expected),
                Err(text) => assert!(found.unwrap_err().to_string().contains(text), "{given}"),
            }
        }
    }

    #[test]
    fn addresses_of_other_trusted_peers_are_passed_on_and_nobody_elses() {
        let known: Vec<String> = [
            ("/ip4/127.0.0.1/tcp/1", OTHER),
            ("/ip4/10.1.1.1/tcp/1", OTHER),
            ("/ip4/10.1.1.1/udp/1/quic", OTHER),
            ("/ip4/10.1.1.2/tcp/1", STRANGER),
            ("/ip4/10.1.1.3/tcp/1", OWN),
        ]
        .iter()
        .map(|(address, peer)| format!("{address}/p2p/{peer}"))
        .collect();
        let known: Vec<Multiaddr> = known.iter().map(|text| text.parse().unwrap()).collect();
        let trusted = BTreeSet::from([peer(OWN), peer(OTHER)]);
        assert_eq!(of_others(&known, peer(OWN), &trusted), [known[1].clone()]);
        assert_eq!(of_others(&known[..1], peer(OWN), &trusted), [known[0].clone()]);
    }

    #[test]
    fn followers_never_trust_everybody() {
        let everybody = [EVERYBODY.to_owned()];
        let error = trusted(&everybody, &[], peer(OWN), false).unwrap_err().to_string();
        assert!(error.contains("--trust") && error.contains(OWN), "{error}");
        let both = BTreeSet::from([peer(OWN), peer(OTHER)]);
        assert_eq!(trusted(&everybody, &[peer(OTHER)], peer(OWN), false).unwrap(), both);
        assert_eq!(trusted(&[OTHER.to_owned()], &[], peer(OWN), false).unwrap(), both);
        assert_eq!(trusted(&[], &[], peer(OWN), false).unwrap(), [peer(OWN)].into());
        // A follower passes on whom it follows itself.
        assert_eq!(trusted(&[OTHER.to_owned()], &[], peer(OWN), true).unwrap(), [peer(OTHER)].into());
        assert!(trusted(&[], &[], peer(OWN), true).is_err());
    }

    #[test]
    fn a_name_for_followers_is_that_of_a_folder() {
        assert_eq!(name_of("wiki.example"), "wiki.example");
        assert_eq!(name_of("../x"), "mycluster");
        for bad in ["", ".", "../up", "a b", "a/b", "-x", "ü", &"x".repeat(65)] {
            assert!(checked_name(bad).is_err(), "{bad:?}");
        }
    }
}
