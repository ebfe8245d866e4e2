//! The log: which lines, and where they go.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;

use ipfs_cluster::{Error, Result};
use tracing_subscriber::EnvFilter;

/// The level of what nobody named.
const DEFAULT_LEVEL: &str = "info";
/// Log targets that speak up from another level on, unless they are asked to: every table that an engine opens or
/// writes is a line otherwise, and a peer that knows nobody yet is no reason to warn.
const QUIET: [(&str, &str); 4] =
    [("fjall", "warn"), ("libp2p_kad", "error"), ("libp2p_swarm", "warn"), ("lsm_tree", "warn")];

/// Log targets for each facility of the reference. What has no counterpart here is accepted and does nothing.
const FACILITIES: &[(&str, &[&str])] = &[
    ("adder", &["ipfs_cluster::adder"]),
    ("allocator", &["ipfs_cluster::allocator"]),
    ("apitypes", &["ipfs_cluster::types"]),
    ("badger", &[]),
    ("badger3", &[]),
    ("cluster", &["ipfs_cluster::cluster"]),
    ("config", &["ipfs_cluster::config"]),
    ("crdt", &["ipfs_cluster::consensus::crdt"]),
    ("diskinfo", &["ipfs_cluster::informer"]),
    ("dsstate", &["ipfs_cluster::state", "ipfs_cluster::storage"]),
    ("ipfshttp", &["ipfs_cluster::ipfs_connector"]),
    ("ipfsproxy", &["ipfs_cluster::api::proxy"]),
    ("ipfsproxylog", &[]),
    ("libp2p-raft", &[]),
    ("monitor", &["ipfs_cluster::monitor"]),
    ("optracker", &["ipfs_cluster::tracker::operation"]),
    ("p2p-gorpc", &["ipfs_cluster::rpc"]),
    ("pebble", &[]),
    ("pinsvcapi", &["ipfs_cluster::api::pinning"]),
    ("pinsvcapilog", &[]),
    ("pintracker", &["ipfs_cluster::tracker"]),
    ("pstoremgr", &["ipfs_cluster::transport"]),
    ("raft", &["ipfs_cluster::consensus::raft"]),
    ("raftlib", &["openraft"]),
    ("restapi", &["ipfs_cluster::api"]),
    ("restapilog", &[]),
    ("service", &["ipfs_cluster_bins", "ipfs_cluster_service"]),
    ("shardingdags", &[]),
    ("singledags", &[]),
    ("swarm2", &["libp2p_swarm"]),
    ("tags", &["ipfs_cluster::informer"]),
];

/// Sends the log of this process to standard error. Call it once.
///
/// # Errors
/// `InvalidInput` if the levels cannot be understood; `Conflict` if there is a log already.
pub fn start(debug: bool, levels: &str) -> Result<()> {
    let directives = if debug { "debug".to_owned() } else { directives(levels)? };
    let filter = EnvFilter::try_new(&directives)
        .map_err(|source| Error::invalid_input(format!("log level {levels:?}: {source}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init()
        .map_err(|source| {
            Error::new(ipfs_cluster::ErrorKind::Conflict, format!("starting the log: {source}"))
        })
}

/// Turns the reference's list (`info,pintracker:debug`) into directives of a tracing filter. A facility that the
/// reference does not have is taken as a log target (`hyper:warn`).
///
/// # Errors
/// `InvalidInput` with the reference's text for too many colons, and naming the levels for one that is none.
pub fn directives(levels: &str) -> Result<String> {
    let mut overall = DEFAULT_LEVEL;
    let mut targets: BTreeMap<String, &str> = BTreeMap::new();
    for item in levels.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let parts: Vec<&str> = item.split(':').collect();
        match parts[..] {
            [name] | ["all", name] => overall = level(name)?,
            [facility, name] => {
                let level = level(name)?;
                match FACILITIES.iter().find(|(known, _)| *known == facility) {
                    Some((_, known)) => {
                        targets.extend(known.iter().map(|target| ((*target).to_owned(), level)));
                    }
                    None => {
                        targets.insert(target(facility)?, level);
                    }
                }
            }
            _ => {
                return Err(Error::invalid_input(
                    "log level not in expected format \"identifier:loglevel\" or \"loglevel\"",
                ));
            }
        }
    }
    if overall == DEFAULT_LEVEL {
        for (target, level) in QUIET {
            targets.entry(target.to_owned()).or_insert(level);
        }
    }
    let mut text = overall.to_owned();
    for (target, level) in targets {
        text.push_str(&format!(",{target}={level}"));
    }
    Ok(text)
}

/// Levels of the reference's logger and of older ones. It has four above error, which differ in what happens to
/// the process; we only have error.
fn level(name: &str) -> Result<&'static str> {
    match name.to_ascii_lowercase().as_str() {
        "debug" => Ok("debug"),
        "info" | "notice" => Ok("info"),
        "warn" | "warning" => Ok("warn"),
        "error" | "dpanic" | "panic" | "fatal" | "critical" => Ok("error"),
        _ => Err(Error::invalid_input(format!(
            "unknown log level {name:?}, expected debug, info, warn, error, dpanic, panic or fatal"
        ))),
    }
}

fn target(facility: &str) -> Result<String> {
    let plain = facility.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if facility.is_empty() || !plain {
        return Err(Error::invalid_input(format!("{facility:?} is not the name of a log facility")));
    }
    Ok(facility.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_the_reference_become_directives() {
        for (levels, expected) in [
            ("", "info,fjall=warn,libp2p_kad=error,libp2p_swarm=warn,lsm_tree=warn"),
            ("debug", "debug"),
            ("all:warn", "warn"),
            ("ERROR,", "error"),
            (
                "info,cluster:debug,pintracker:debug",
                "info,fjall=warn,ipfs_cluster::cluster=debug,ipfs_cluster::tracker=debug,libp2p_kad=error,libp2p_swarm=warn,lsm_tree=warn",
            ),
            (
                "service:fatal,fjall:info",
                "info,fjall=info,ipfs_cluster_bins=error,ipfs_cluster_service=error,libp2p_kad=error,libp2p_swarm=warn,lsm_tree=warn",
            ),
            ("restapilog:debug", "info,fjall=warn,libp2p_kad=error,libp2p_swarm=warn,lsm_tree=warn"),
            (
                "my-crate:debug",
                "info,fjall=warn,libp2p_kad=error,libp2p_swarm=warn,lsm_tree=warn,my_crate=debug",
            ),
        ] {
            assert_eq!(directives(levels).unwrap(), expected, "{levels}");
            EnvFilter::try_new(expected).unwrap();
        }
    }

    #[test]
    fn what_cannot_be_understood_is_an_error() {
        assert_eq!(
            directives("a:b:c").unwrap_err().to_string(),
            "log level not in expected format \"identifier:loglevel\" or \"loglevel\""
        );
        assert!(directives("loud").unwrap_err().to_string().contains("\"loud\", expected debug, info"));
        assert!(directives("a=b:info").is_err() && directives(":info").is_err());
    }
}
