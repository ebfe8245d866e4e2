//! `state raft`.

use ipfs_cluster::Error;
use ipfs_cluster::config::process_environment;
use ipfs_cluster_bins::process::print;
use ipfs_cluster_bins::service::config::{ConsensusSection, PeerConfig};
use ipfs_cluster_bins::service::folder::Folder;
use ipfs_cluster_bins::service::{Doing as _, Failure, state};

use crate::cli::Cleanup;
use crate::state::{confirmed, report};

pub(crate) fn info(folder: Folder) -> Result<(), Failure> {
    let (config, _lock) = load(folder)?;
    let info = state::raft_info(&config).doing("reading the raft log")?;
    let number = |index: Option<u64>| index.map_or_else(|| "none".to_owned(), |index| index.to_string());
    let members: Vec<String> = info.members.iter().map(ToString::to_string).collect();
    let last = match info.last_term {
        Some(term) => format!("{} of term {term}", number(info.last_index)),
        None => number(info.last_index),
    };
    print(format_args!(
        "Term: {}. Last entry: {last}. Applied: {}\nMembers: [{}]\n",
        info.term,
        number(info.applied_index),
        members.join(" ")
    ));
    Ok(())
}

pub(crate) fn recover(folder: Folder, options: &Cleanup) -> Result<(), Failure> {
    let (config, _lock) = load(folder)?;
    let question =
        "This peer will be the only member of its cluster.  All others have to be cleaned and join again.";
    if !options.force && !confirmed(question)? {
        return Ok(());
    }
    state::reset_raft(&config).doing("recovering the raft cluster")?;
    print(
        "this peer is the only member now: start it, then clean all others and join them with --bootstrap\n",
    );
    Ok(())
}

fn load(folder: Folder) -> Result<(PeerConfig, impl Sized), Failure> {
    let (config, warnings) = PeerConfig::load(folder, &process_environment)?;
    report(&warnings);
    if !matches!(config.consensus, ConsensusSection::Raft(_)) {
        let text = "raft subcommands can only be run on peers initialized with raft consensus";
        return Err(Failure::new("", Error::invalid_input(text)));
    }
    let lock = config.folder.lock().doing("obtaining execution lock")?;
    Ok((config, lock))
}
