//! Which lines are logged: facilities of the reference and their levels, as directives of a tracing filter.

use std::collections::BTreeMap;

use ipfs_cluster::{Error, Result};

/// The level of what nobody named.
const DEFAULT_LEVEL: &str = "info";
/// Log targets that speak up from another level on, unless they are asked to: every table that an engine opens or
/// writes is a line otherwise, and a peer that knows nobody yet is no reason to warn.
/// What matters of openraft the consensus component says itself.
const QUIET: [(&str, &str); 5] = [
    ("fjall", "warn"),
    ("libp2p_kad", "error"),
    ("libp2p_swarm", "warn"),
    ("lsm_tree", "warn"),
    ("openraft", "off"),
];

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
    ("restapi", &["ipfs_cluster::api::rest", "ipfs_cluster::api"]),
    ("restapilog", &["restapilog"]),
    ("service", &["ipfs_cluster_bins", "ipfs_cluster_service"]),
    ("shardingdags", &[]),
    ("singledags", &[]),
    ("swarm2", &["libp2p_swarm"]),
    ("tags", &["ipfs_cluster::informer"]),
];

/// Turns the reference's list (`info,pintracker:debug`) into directives of a tracing filter. A facility that the
/// reference does not have is taken as a log target (`hyper:warn`). `environment` is `GOLOG_LOG_LEVEL`
/// (`info,pintracker=debug`), which counts where the list says nothing; what is wrong in it is only complained of, as
/// the reference does.
///
/// # Errors
/// `InvalidInput` with the reference's text for too many colons, and naming the levels for one that is none.
pub fn directives(levels: &str, environment: &str, complain: &mut dyn FnMut(String)) -> Result<String> {
    let mut overall = DEFAULT_LEVEL;
    let mut targets: BTreeMap<String, &str> = BTreeMap::new();
    for item in environment.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let (facility, name) =
            item.split_once('=').map_or((None, item), |(facility, name)| (Some(facility), name));
        let set = level(name).and_then(|level| match facility {
            None | Some("*") => {
                overall = level;
                Ok(())
            }
            Some(facility) => set_facility(&mut targets, facility, level),
        });
        if let Err(error) = set {
            complain(format!("error setting log level {item:?}: {error}"));
        }
    }
    for item in levels.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let parts: Vec<&str> = item.split(':').collect();
        match parts[..] {
            [name] | ["all", name] => {
                overall = level(name)?;
            }
            [facility, name] => set_facility(&mut targets, facility, level(name)?)?,
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

fn set_facility(
    targets: &mut BTreeMap<String, &'static str>,
    facility: &str,
    level: &'static str,
) -> Result<()> {
    match FACILITIES.iter().find(|(known, _)| *known == facility) {
        Some((_, known)) => targets.extend(known.iter().map(|target| ((*target).to_owned(), level))),
        None => {
            targets.insert(target(facility)?, level);
        }
    }
    Ok(())
}

/// The facility of a log target: the reference's where it has one, else the module or the crate.
pub fn facility(target: &str) -> &str {
    let is_under =
        |name: &str| target.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    let known = FACILITIES.iter().flat_map(|(facility, targets)| {
        targets.iter().filter(|name| is_under(name)).map(move |name| (name.len(), *facility))
    });
    // The first of those that name it most closely: several share a target.
    let closest = known.fold(None, |best: Option<(usize, &str)>, found| match best {
        Some(best) if best.0 >= found.0 => Some(best),
        _ => Some(found),
    });
    match closest {
        Some((_, facility)) => facility,
        None => {
            let mut names = target.split("::");
            let first = names.next().unwrap_or(target);
            if first == "ipfs_cluster" { names.next().unwrap_or("cluster") } else { first }
        }
    }
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
    use tracing_subscriber::EnvFilter;

    use super::*;

    fn given(levels: &str) -> Result<String> {
        directives(levels, "", &mut |text| panic!("{text}"))
    }

    #[test]
    fn levels_of_the_reference_become_directives() {
        for (levels, expected) in [
            ("", "info,fjall=warn,libp2p_kad=error,libp2p_swarm=warn,lsm_tree=warn,openraft=off"),
            ("debug", "debug"),
            ("all:warn", "warn"),
            ("ERROR,", "error"),
            (
                "info,cluster:debug,pintracker:debug",
                "info,fjall=warn,ipfs_cluster::cluster=debug,ipfs_cluster::tracker=debug,libp2p_kad=error,libp2p_swarm=warn,lsm_tree=warn,openraft=off",
            ),
            (
                "service:fatal,fjall:info",
                "info,fjall=info,ipfs_cluster_bins=error,ipfs_cluster_service=error,libp2p_kad=error,libp2p_swarm=warn,lsm_tree=warn,openraft=off",
            ),
            (
                "raftlib:debug,badger:debug",
                "info,fjall=warn,libp2p_kad=error,libp2p_swarm=warn,lsm_tree=warn,openraft=debug",
            ),
            (
                "my-crate:debug",
                "info,fjall=warn,libp2p_kad=error,libp2p_swarm=warn,lsm_tree=warn,my_crate=debug,openraft=off",
            ),
        ] {
            assert_eq!(given(levels).unwrap(), expected, "{levels}");
            EnvFilter::try_new(expected).unwrap();
        }
    }

    #[test]
    fn what_cannot_be_understood_is_an_error() {
        assert_eq!(
            given("a:b:c").unwrap_err().to_string(),
            "log level not in expected format \"identifier:loglevel\" or \"loglevel\""
        );
        assert!(given("loud").unwrap_err().to_string().contains("\"loud\", expected debug, info"));
        assert!(given("a=b:info").is_err() && given(":info").is_err());
    }

    #[test]
    fn the_variable_counts_where_the_flag_says_nothing() {
        let mut complaints = Vec::new();
        let mut both =
            |levels, environment| directives(levels, environment, &mut |text| complaints.push(text)).unwrap();
        assert_eq!(both("", "warn,cluster=debug"), "warn,ipfs_cluster::cluster=debug");
        assert_eq!(both("error,cluster:info", "warn,cluster=debug"), "error,ipfs_cluster::cluster=info");
        assert_eq!(both("warn", "loud,a b=info,pintracker=x"), "warn");
        assert_eq!(complaints.len(), 3);
        assert!(
            complaints[0].starts_with("error setting log level \"loud\": unknown log level"),
            "{complaints:?}"
        );
    }

    #[test]
    fn every_facility_of_the_reference_is_known_and_lines_have_theirs() {
        for facility in "cluster restapi restapilog pinsvcapi pinsvcapilog ipfsproxy ipfsproxylog ipfshttp monitor \
                         dsstate raft crdt pintracker diskinfo tags apitypes config shardingdags singledags adder \
                         optracker pstoremgr allocator service p2p-gorpc swarm2 libp2p-raft raftlib badger badger3 \
                         pebble"
            .split_whitespace()
        {
            assert!(FACILITIES.iter().any(|(known, _)| *known == facility), "{facility}");
            given(&format!("{facility}:debug")).unwrap();
        }
        for (target, expected) in [
            ("ipfs_cluster::cluster::tasks", "cluster"),
            ("ipfs_cluster::tracker::stateless", "pintracker"),
            ("ipfs_cluster::tracker::operation", "optracker"),
            ("ipfs_cluster::consensus::crdt::commit", "crdt"),
            ("ipfs_cluster::consensus::solo", "consensus"),
            ("ipfs_cluster::api::rest::server", "restapi"),
            ("ipfs_cluster_bins::service::daemon", "service"),
            ("libp2p_swarm::connection", "swarm2"),
            ("fjall", "fjall"),
            ("ipfs_cluster", "cluster"),
        ] {
            assert_eq!(facility(target), expected, "{target}");
        }
    }
}
