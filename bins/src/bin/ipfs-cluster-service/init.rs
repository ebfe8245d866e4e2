//! `init`: writes what a peer needs.

use std::collections::HashSet;
use std::fmt::Display;
use std::io;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use ipfs_cluster::allocator::BalancedConfig;
use ipfs_cluster::api::rest::RestApiSection;
use ipfs_cluster::config::{
    Addresses, ClusterSection, ConfigSection, Environment, Identity, Secret, ServiceJson, SoloSection,
    StorageEngine, create_folder, kept::write_default, overlay, peerstore, process_environment,
};
use ipfs_cluster::consensus::{CrdtSection, EtcdSection, RaftSection};
use ipfs_cluster::informer::{FreeSpaceConfig, PinQueueConfig, TagsConfig};
use ipfs_cluster::ipfs_connector::KuboConfig;
use ipfs_cluster::monitor::MonitorConfig;
use ipfs_cluster::tracker::StatelessConfig;
use ipfs_cluster::types::{Multiaddr, PeerId, parse_multiaddr};
use ipfs_cluster::{Error, Result as ClusterResult};
use ipfs_cluster_bins::service::config::{ConsensusSection, hash_passwords};
use ipfs_cluster_bins::service::folder::{Folder, PROGRAM};
use ipfs_cluster_bins::service::{Doing as _, Failure, prompt};
use multiaddr::Protocol;

use crate::cli::Init;
use crate::terminal;

/// Letters of the peer's id that end the name of a new cluster: two of 58^8 are hardly ever the same.
const CLUSTER_NAME_SUFFIX: usize = 8;

pub(crate) fn run(folder: &Folder, options: &Init) -> Result<(), Failure> {
    let consensus = choose_consensus(&options.consensus).doing("choosing consensus")?;
    let (storage, reference_store) = choose_datastore(&options.datastore).doing("choosing datastore")?;
    check_template(options, consensus).doing("choosing a template")?;
    let (service_json, identity_json) = (folder.service_json(), folder.identity_json());
    let (config_exists, identity_exists) = (is_there(&service_json), is_there(&identity_json));
    // A peer may be running on it.
    let _lock = if config_exists || identity_exists {
        Some(folder.lock().doing("obtaining execution lock")?)
    } else {
        None
    };
    if config_exists && !options.force {
        let question = "The configuration file will be overwritten.";
        if !prompt::confirm(question, &mut io::stdin().lock(), &mut io::stdout().lock()).map_err(terminal)? {
            return Ok(());
        }
    }

    let mut sections = Sections::new(consensus, storage);
    sections.reference_store = reference_store;
    if options.randomports {
        sections.randomize_ports().doing("randomizing ports")?;
    }
    let new_identity = if identity_exists { None } else { Some(Identity::generate()) };
    let own =
        if options.collaborative { Some(who_will_run(new_identity.as_ref(), &identity_json)?) } else { None };
    if let Some(own) = own {
        sections.collaborate(own);
    }
    if !options.cluster_name.is_empty() {
        sections.name(&options.cluster_name);
    }
    let mut sections = sections
        .with_environment(&process_environment)
        .doing("applying environment variables to configuration")?;
    hash_passwords(&mut sections.restapi).doing("applying environment variables to configuration")?;
    if options.custom_secret && options.source.is_none() {
        sections.cluster.secret = ask_secret()?;
    }
    let peers = parse_peers(&options.peers)?;
    if !peers.is_empty() {
        sections.trust(&peers, own);
    }

    let file = match &options.source {
        Some(url) => ServiceJson::from_source(url),
        None => sections.to_file(),
    };
    create_folder(folder.path())
        .and_then(|()| file?.save(&service_json))
        .doing("saving default configuration")?;
    say(format_args!("configuration written to {}.", service_json.display()));
    if let (Some(name), None) = (&sections.reference_store, &options.source) {
        say(format_args!(
            "the section datastore.{name} is for a Go peer; this one keeps its pinset in {}",
            folder.path().join(sections.consensus.folder()).display()
        ));
    }

    if let Some(identity) = new_identity {
        let identity = identity
            .with_environment(&process_environment)
            .doing("applying environment variables to the identity")?;
        identity.save(&identity_json).doing("saving identity.json")?;
        say(format_args!("new identity written to {}", identity_json.display()));
    }

    // A configuration that is elsewhere says where its peerstore is when it is fetched.
    let peerstore = match &options.source {
        Some(_) => PathBuf::new(),
        None => sections.cluster.peerstore_path(folder.path()),
    };
    if options.source.is_none() {
        peerstore::save(&peerstore, &peers).doing("saving peers to peerstore")?;
    }
    match peers.len() {
        0 => say(format_args!("new empty peerstore written to {}.", peerstore.display())),
        entries => {
            say(format_args!("peerstore written to {} with {entries} entries.", peerstore.display()));
        }
    }
    match (own, &sections.consensus) {
        (Some(own), ConsensusSection::Crdt(section)) => say_what_is_next(own, section),
        (_, ConsensusSection::Etcd(section)) if options.source.is_none() => say_where_etcd_is(section),
        (_, ConsensusSection::Raft(section)) if options.source.is_none() => say_how_raft_begins(section),
        _ => {}
    }
    Ok(())
}

/// Refuses what the template of a collaborative cluster would have no effect on.
fn check_template(options: &Init, consensus: Consensus) -> ClusterResult<()> {
    let shapes_a_cluster = options.collaborative || !options.cluster_name.is_empty();
    if shapes_a_cluster && options.source.is_some() {
        return Err(Error::invalid_input(
            "--collaborative and --cluster-name shape a new cluster: leave them out for a configuration that is \
             somewhere else",
        ));
    }
    if shapes_a_cluster && consensus == Consensus::Solo {
        return Err(Error::invalid_input(
            "--collaborative and --cluster-name are for clusters of many peers: leave out --consensus solo",
        ));
    }
    if options.collaborative && consensus == Consensus::Etcd {
        return Err(Error::invalid_input(
            "--collaborative is for clusters that agree by crdt: leave out --consensus etcd",
        ));
    }
    if shapes_a_cluster && consensus == Consensus::Raft {
        return Err(Error::invalid_input(
            "--collaborative and --cluster-name are for clusters that agree by crdt: leave out --consensus raft",
        ));
    }
    Ok(())
}

/// The peer that the folder will be of.
fn who_will_run(new: Option<&Identity>, path: &Path) -> Result<PeerId, Failure> {
    let identity = match new {
        Some(identity) => identity.clone(),
        None => Identity::load(path).doing("loading identity")?,
    };
    let identity = identity
        .with_environment(&process_environment)
        .doing("applying environment variables to the identity")?;
    Ok(identity.id())
}

fn say_what_is_next(own: PeerId, section: &CrdtSection) {
    let name = &section.cluster_name;
    let trusted = section.trusted_peers.join(", ");
    say(format_args!(
        "
Collaborative cluster \"{name}\": everybody may follow it, and only these peers change it: {trusted}

Next:
  {PROGRAM} daemon
      runs this peer, {own}
  {PROGRAM} follow-config --output follow.json
      writes the configuration that followers need; serve it over HTTP or add it to IPFS
  ipfs-cluster-follow mycluster run --init <URL of follow.json>
      follows the cluster, on any other machine"
    ));
}

fn say_where_etcd_is(section: &EtcdSection) {
    let (endpoints, name) = (section.endpoints.join(", "), &section.cluster_name);
    let prefix = section.prefix.trim_end_matches('/');
    say(format_args!(
        "
The pinset will be in the etcd at {endpoints}, below {prefix}/{name}/ (consensus.etcd in the file)

Next:
  {PROGRAM} daemon
      runs this peer, and again on each other machine, with the same cluster.secret and the same consensus.etcd; the
      peers find each other through etcd"
    ));
}

/// A peer that is started without a word about the others is a cluster of its own, which nobody expects who wants it to join
/// one.
fn say_how_raft_begins(section: &RaftSection) {
    let first = match section.init_peerset.len() {
        0 => "runs this peer as the first of a new cluster".to_owned(),
        others => {
            format!("runs this peer; the cluster begins once more than half of it and {others} others run")
        }
    };
    say(format_args!(
        "
Next:
  {PROGRAM} daemon
      {first}
  {PROGRAM} daemon --bootstrap /ip4/<address>/tcp/9096/p2p/<peer id>
      or, with the same cluster.secret, has it join the cluster of the peer at this address"
    ));
}

/// What is written, before and after the environment.
#[derive(Debug)]
struct Sections {
    cluster: ClusterSection,
    consensus: ConsensusSection,
    restapi: RestApiSection,
    ipfshttp: KuboConfig,
    tracker: StatelessConfig,
    monitor: MonitorConfig,
    allocator: BalancedConfig,
    disk: FreeSpaceConfig,
    pin_queue: PinQueueConfig,
    tags: TagsConfig,
    /// A section for a Go peer, should one be started on the file.
    reference_store: Option<String>,
}

impl Sections {
    fn new(consensus: Consensus, storage: StorageEngine) -> Self {
        Self {
            cluster: ClusterSection { secret: Secret::generate(), ..Default::default() },
            consensus: match consensus {
                Consensus::Crdt => ConsensusSection::Crdt(CrdtSection { storage, ..Default::default() }),
                Consensus::Solo => ConsensusSection::Solo(SoloSection { storage, ..Default::default() }),
                Consensus::Raft => ConsensusSection::Raft(RaftSection { storage, ..Default::default() }),
                Consensus::Etcd => ConsensusSection::Etcd(EtcdSection { storage, ..Default::default() }),
            },
            restapi: RestApiSection::strict(),
            ipfshttp: KuboConfig::default(),
            tracker: StatelessConfig::default(),
            monitor: MonitorConfig::default(),
            allocator: BalancedConfig::default(),
            disk: FreeSpaceConfig::default(),
            pin_queue: PinQueueConfig::default(),
            tags: TagsConfig::default(),
            reference_store: None,
        }
    }

    /// The first peer of a cluster that others may follow: this peer alone is trusted.
    fn collaborate(&mut self, own: PeerId) {
        if let ConsensusSection::Crdt(section) = &mut self.consensus {
            section.trusted_peers = vec![own.to_string()];
            section.cluster_name = own_cluster_name(own);
        }
    }

    fn name(&mut self, cluster_name: &str) {
        match &mut self.consensus {
            ConsensusSection::Crdt(section) => section.cluster_name = cluster_name.to_owned(),
            ConsensusSection::Etcd(section) => section.cluster_name = cluster_name.to_owned(),
            ConsensusSection::Raft(_) | ConsensusSection::Solo(_) => {}
        }
    }

    /// Trusts the peers that these addresses name, with this one if it is given, and no others; with Raft these are the
    /// first members.
    fn trust(&mut self, peers: &[Multiaddr], own: Option<PeerId>) {
        let mut ids: Vec<String> = peers
            .iter()
            .flat_map(Multiaddr::iter)
            .filter_map(|part| match part {
                Protocol::P2p(peer) => Some(peer.to_string()),
                _ => None,
            })
            .chain(own.map(|own| own.to_string()))
            .collect();
        ids.sort_unstable();
        ids.dedup();
        match &mut self.consensus {
            ConsensusSection::Crdt(section) => section.trusted_peers = ids,
            ConsensusSection::Raft(section) => section.init_peerset = ids,
            ConsensusSection::Etcd(_) | ConsensusSection::Solo(_) => {}
        }
    }

    fn randomize_ports(&mut self) -> ClusterResult<()> {
        let mut taken = Vec::new();
        for addresses in [&mut self.cluster.listen_multiaddress, &mut self.restapi.http_listen_multiaddress] {
            let with_ports: ClusterResult<Addresses> =
                addresses.iter().map(|address| with_free_ports(address, &mut taken)).collect();
            *addresses = with_ports?;
        }
        Ok(())
    }

    fn with_environment(self, environment: Environment<'_>) -> ClusterResult<Self> {
        fn overlaid<T: ConfigSection>(section: &T, environment: Environment<'_>) -> ClusterResult<T> {
            let value = serde_json::to_value(section)
                .map_err(|source| Error::internal(T::PATH).with_source(source))?;
            Ok(overlay::load(Some(&value), environment)?.section)
        }
        Ok(Self {
            cluster: overlaid(&self.cluster, environment)?,
            consensus: match &self.consensus {
                ConsensusSection::Crdt(section) => ConsensusSection::Crdt(overlaid(section, environment)?),
                ConsensusSection::Solo(section) => ConsensusSection::Solo(overlaid(section, environment)?),
                ConsensusSection::Raft(section) => ConsensusSection::Raft(overlaid(section, environment)?),
                ConsensusSection::Etcd(section) => ConsensusSection::Etcd(overlaid(section, environment)?),
            },
            restapi: overlaid(&self.restapi, environment)?,
            ipfshttp: overlaid(&self.ipfshttp, environment)?,
            tracker: overlaid(&self.tracker, environment)?,
            monitor: overlaid(&self.monitor, environment)?,
            allocator: overlaid(&self.allocator, environment)?,
            disk: overlaid(&self.disk, environment)?,
            pin_queue: overlaid(&self.pin_queue, environment)?,
            tags: overlaid(&self.tags, environment)?,
            reference_store: self.reference_store,
        })
    }

    /// In the reference's order.
    fn to_file(&self) -> ClusterResult<ServiceJson> {
        let mut file = ServiceJson::new();
        file.write(&self.cluster)?;
        match &self.consensus {
            ConsensusSection::Crdt(section) => file.write(section)?,
            ConsensusSection::Solo(section) => file.write(section)?,
            ConsensusSection::Raft(section) => file.write(section)?,
            ConsensusSection::Etcd(section) => file.write(section)?,
        }
        file.write(&self.restapi)?;
        file.write(&self.ipfshttp)?;
        file.write(&self.tracker)?;
        file.write(&self.monitor)?;
        file.write(&self.allocator)?;
        file.write(&self.disk)?;
        file.write(&self.pin_queue)?;
        file.write(&self.tags)?;
        if let Some(name) = &self.reference_store {
            write_default(&mut file, &format!("datastore.{name}"))?;
        }
        Ok(file)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Consensus {
    Crdt,
    Etcd,
    Raft,
    Solo,
}

fn choose_consensus(name: &str) -> ClusterResult<Consensus> {
    match name {
        "crdt" => Ok(Consensus::Crdt),
        "solo" => Ok(Consensus::Solo),
        "raft" => Ok(Consensus::Raft),
        "etcd" => Ok(Consensus::Etcd),
        _ => Err(Error::invalid_input(
            "flag value must be set to 'raft' or 'crdt', to 'etcd' for peers that agree through one, or to 'solo' for a \
             cluster of one peer",
        )),
    }
}

/// Our engine, and the store of a Go peer if that was named.
fn choose_datastore(name: &str) -> ClusterResult<(StorageEngine, Option<String>)> {
    let own = [StorageEngine::Fjall, StorageEngine::Redb].into_iter().find(|engine| engine.as_str() == name);
    match (own, name) {
        (Some(engine), _) => Ok((engine, None)),
        (None, "leveldb" | "badger" | "badger3" | "pebble") => {
            Ok((StorageEngine::default(), Some(name.to_owned())))
        }
        _ => Err(Error::invalid_input(
            "flag value must be set to 'leveldb', 'badger', 'badger3' or 'pebble', or to 'fjall' or 'redb', which this \
             peer uses",
        )),
    }
}

/// A name that no other cluster has, and that says nothing of the machine, because the world will read it.
fn own_cluster_name(own: PeerId) -> String {
    let id = own.to_string();
    // What is at the end of an id differs between peers; it is text of one byte a letter.
    format!("collab-{}", &id[id.len().saturating_sub(CLUSTER_NAME_SUFFIX)..])
}

/// Anything but certainty that it is missing counts as there: then it is not overwritten without a question.
fn is_there(path: &Path) -> bool {
    path.try_exists().unwrap_or(true)
}

fn ask_secret() -> Result<Secret, Failure> {
    let question = "Enter cluster secret (32-byte hex string): ";
    let answer =
        prompt::ask(question, &mut io::stdin().lock(), &mut io::stdout().lock()).map_err(terminal)?;
    answer.parse().doing("parsing user-provided secret")
}

/// Addresses that each name a peer, without repetition, in their order.
fn parse_peers(list: &str) -> Result<Vec<Multiaddr>, Failure> {
    let mut peers = Vec::new();
    if list.is_empty() {
        return Ok(peers);
    }
    for item in list.split(',').map(str::trim) {
        peers.push(parse_multiaddr(item).doing(&format!("parsing peer multiaddress: {item}"))?);
    }
    let names_peer = |address: &Multiaddr| address.iter().any(|part| matches!(part, Protocol::P2p(_)));
    if let Some(nameless) = peers.iter().find(|address| !names_peer(address)) {
        let text = format!("invalid p2p multiaddr: {nameless} has no /p2p/<peer id>");
        return Err(Failure::new("getting AddrInfos from peer multiaddresses", Error::invalid_input(text)));
    }
    let mut seen = HashSet::new();
    peers.retain(|address| seen.insert(address.clone()));
    Ok(peers)
}

/// What keeps a port from being chosen twice until all are.
#[derive(Debug)]
enum Taken {
    Tcp { _held: TcpListener },
    Udp { _held: UdpSocket },
}

/// The address with ports that are free now.
fn with_free_ports(address: &Multiaddr, taken: &mut Vec<Taken>) -> ClusterResult<Multiaddr> {
    let mut ip = IpAddr::from([127, 0, 0, 1]);
    let mut changed = Multiaddr::empty();
    for part in address {
        let failed = |source| Error::io(format!("finding a free port for {address}"), source);
        changed.push(match part {
            Protocol::Tcp(_) => {
                let listener = TcpListener::bind((ip, 0)).map_err(failed)?;
                let port = listener.local_addr().map_err(failed)?.port();
                taken.push(Taken::Tcp { _held: listener });
                Protocol::Tcp(port)
            }
            Protocol::Udp(_) => {
                let socket = UdpSocket::bind((ip, 0)).map_err(failed)?;
                let port = socket.local_addr().map_err(failed)?.port();
                taken.push(Taken::Udp { _held: socket });
                Protocol::Udp(port)
            }
            Protocol::Ip4(v4) => {
                ip = v4.into();
                part
            }
            Protocol::Ip6(v6) => {
                ip = v6.into();
                part
            }
            other => other,
        });
    }
    Ok(changed)
}

fn say(text: impl Display) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_replace_ports_and_nothing_else() {
        let mut taken = Vec::new();
        let port = |address: &Multiaddr| address.to_string().split('/').nth(4).unwrap().to_owned();
        let tcp = with_free_ports(&"/ip4/127.0.0.1/tcp/9096".parse().unwrap(), &mut taken).unwrap();
        let again = with_free_ports(&"/ip4/127.0.0.1/tcp/9096".parse().unwrap(), &mut taken).unwrap();
        let udp = with_free_ports(&"/ip4/0.0.0.0/udp/9096/quic".parse().unwrap(), &mut taken).unwrap();
        assert_ne!(port(&tcp), "9096");
        assert_ne!(port(&tcp), port(&again));
        assert_eq!(udp.to_string(), format!("/ip4/0.0.0.0/udp/{}/quic", port(&udp)));
        let none: Multiaddr = "/unix/sock".parse().unwrap();
        assert_eq!(with_free_ports(&none, &mut taken).unwrap(), none);
    }

    #[test]
    fn the_sections_have_the_order_of_the_reference() {
        let file = Sections::new(Consensus::Crdt, StorageEngine::Redb).to_file().unwrap();
        assert_eq!(
            file.unserved(&[]),
            [
                "cluster",
                "consensus.crdt",
                "api.restapi",
                "ipfs_connector.ipfshttp",
                "pin_tracker.stateless",
                "monitor.pubsubmon",
                "allocator.balanced",
                "informer.disk",
                "informer.pinqueue",
                "informer.tags"
            ]
        );
    }
}
