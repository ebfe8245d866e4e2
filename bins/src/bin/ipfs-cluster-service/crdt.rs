//! `state crdt`.

use ipfs_cluster::Error;
use ipfs_cluster::config::process_environment;
use ipfs_cluster_bins::process::print;
use ipfs_cluster_bins::service::config::{self, ConsensusSection, PeerConfig};
use ipfs_cluster_bins::service::folder::Folder;
use ipfs_cluster_bins::service::output::Output;
use ipfs_cluster_bins::service::{Doing as _, Failure, state};

use crate::cli::Export;
use crate::state::report;

pub(crate) fn info(folder: Folder) -> Result<(), Failure> {
    let (config, _lock) = load(folder)?;
    let info = state::crdt_info(&config).doing("reading the crdt store")?;
    let heads: Vec<String> = info.heads.iter().map(|(head, _)| head.to_string()).collect();
    print(format_args!(
        "Number of heads: {}. Current max-height: {}. Dirty: {}\nHeads: [{}]",
        heads.len(),
        info.max_height(),
        info.is_dirty,
        heads.join(" ")
    ));
    Ok(())
}

pub(crate) fn dot(folder: Folder, options: &Export) -> Result<(), Failure> {
    const DOING: &str = "generating graph";
    let (config, _lock) = load(folder)?;
    let mut output = Output::create(options.file.as_deref()).doing("creating output file")?;
    tracing::info!("initiating CRDT-DAG DOT file export. Export might take a long time on large graphs");
    let blocks = state::crdt_dot(&config, &mut output).doing(DOING)?;
    output.finish().doing(DOING)?;
    tracing::info!(blocks, "dot file written");
    Ok(())
}

pub(crate) fn mark(folder: Folder, dirty: bool) -> Result<(), Failure> {
    let (config, _lock) = load(folder)?;
    state::mark_crdt(&config, dirty).doing("marking the crdt store")?;
    print(if dirty { "Datastore marked 'dirty'\n" } else { "Datastore marked 'clean'\n" });
    Ok(())
}

/// The configuration, which comes before the lock as in the reference.
fn load(folder: Folder) -> Result<(PeerConfig, impl Sized), Failure> {
    let file = config::load_service_json(&folder).doing("loading configurations")?;
    if file.consensus().is_ok_and(|consensus| consensus != "crdt") {
        return Err(not_crdt());
    }
    let (config, warnings) = PeerConfig::load(folder, &process_environment)?;
    report(&warnings);
    if !matches!(config.consensus, ConsensusSection::Crdt(_)) {
        return Err(not_crdt());
    }
    let lock = config.folder.lock().doing("obtaining execution lock")?;
    Ok((config, lock))
}

fn not_crdt() -> Failure {
    let text = "crdt subcommands can only be run on peers initialized with crdt consensus";
    Failure::new("", Error::invalid_input(text))
}
