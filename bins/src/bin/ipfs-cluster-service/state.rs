//! `state export`, `state import` and `state cleanup`.

use std::fs::File;
use std::io;

use ipfs_cluster::config::process_environment;
use ipfs_cluster::types::{PeerId, parse_peer};
use ipfs_cluster::{Error, Result as ClusterResult};
use ipfs_cluster_bins::process::print;
use ipfs_cluster_bins::service::config::{ConsensusSection, PeerConfig, Warning};
use ipfs_cluster_bins::service::folder::Folder;
use ipfs_cluster_bins::service::output::Output;
use ipfs_cluster_bins::service::prompt::confirm;
use ipfs_cluster_bins::service::state::{self, ImportOptions};
use ipfs_cluster_bins::service::{Doing as _, Failure};

use tokio::io::AsyncRead;

use crate::cli::{Cleanup, Export, Import};
use crate::{block_on, terminal};

/// Bytes read ahead of an import.
const BUFFER_BYTES: usize = 256 << 10;

pub(crate) fn export(folder: Folder, options: &Export) -> Result<(), Failure> {
    const DOING: &str = "exporting state";
    let _lock = folder.lock().doing("obtaining execution lock")?;
    let config = load(folder)?;
    let mut output = Output::create(options.file.as_deref()).doing("creating output file")?;
    block_on(DOING, state::export(&config, &mut output))?.doing(DOING)?;
    output.finish().doing(DOING)?;
    tracing::info!("state successfully exported");
    Ok(())
}

pub(crate) fn import(folder: Folder, options: &Import) -> Result<(), Failure> {
    const DOING: &str = "importing state";
    let _lock = folder.lock().doing("obtaining execution lock")?;
    let config = load(folder)?;
    let question = match config.consensus {
        ConsensusSection::Etcd(_) => "The pinset in etcd will be replaced, for all peers.",
        _ => "The pinset (state) of this peer will be replaced.",
    };
    if !options.force && !confirmed(question)? {
        return Ok(());
    }
    let changes = ImportOptions {
        replication_min: options.replication_min,
        replication_max: options.replication_max,
        allocations: allocations(&options.allocations).doing("decoding allocations")?,
    };
    let input: Box<dyn AsyncRead + Send + Unpin> = match &options.file {
        None => {
            print("reading from stdin, Ctrl-D to finish\n");
            Box::new(tokio::io::stdin())
        }
        Some(path) => {
            let file = File::open(path).map_err(|source| {
                let text = match source.kind() {
                    io::ErrorKind::NotFound => "no such file or directory".to_owned(),
                    _ => source.to_string(),
                };
                Error::invalid_input(format!("open {}: {text}", path.display())).with_source(source)
            });
            let mut file = tokio::fs::File::from_std(file.doing("reading import file")?);
            file.set_max_buf_size(BUFFER_BYTES);
            Box::new(file)
        }
    };
    block_on(DOING, state::import(&config, input, &changes))?.doing(DOING)?;
    match config.consensus {
        ConsensusSection::Etcd(_) => tracing::info!("state successfully imported into etcd"),
        _ => tracing::info!("state successfully imported.  Make sure all peers have consistent states"),
    }
    if let ConsensusSection::Raft(_) = config.consensus {
        tracing::info!(
            "this peer is the first of a new raft cluster: the others join it with \"daemon --bootstrap\", after \"state cleanup\""
        );
    }
    Ok(())
}

pub(crate) fn cleanup(folder: Folder, options: &Cleanup) -> Result<(), Failure> {
    const DOING: &str = "cleaning state";
    let _lock = folder.lock().doing("obtaining execution lock")?;
    let config = load(folder)?;
    let etcd = match &config.consensus {
        ConsensusSection::Etcd(section) => Some(section),
        _ => None,
    };
    let question = match etcd {
        Some(_) => "This peer's copy of the pinset will be removed.  The pinset stays in etcd.",
        None => "The peer state will be removed.  Existing pins may be lost.",
    };
    if !options.force && !confirmed(question)? {
        return Ok(());
    }
    let put_aside = block_on(DOING, state::cleanup(&config))?.doing(DOING)?;
    tracing::info!("data correctly cleaned up");
    if let Some(folder) = put_aside {
        tracing::info!("what was there is in {}", folder.display());
    }
    if let Some(section) = etcd {
        let prefix = section.prefix.trim_end_matches('/');
        print(format_args!(
            "the pinset is in etcd as before, and this peer copies it when it starts; when no peer runs any more, \
             \"etcdctl del --prefix {prefix}/{}/\" removes it there\n",
            section.cluster_name
        ));
    }
    Ok(())
}

/// Logs what the configuration may not mean. What was changed on disk is printed, whatever the log's level.
pub(crate) fn report(warnings: &[Warning]) {
    for warning in warnings {
        match warning {
            Warning::IdentityMoved { .. } => eprintln!("\n{warning}\n"),
            _ => tracing::warn!("{warning}"),
        }
    }
}

fn load(folder: Folder) -> Result<PeerConfig, Failure> {
    let (config, warnings) = PeerConfig::load(folder, &process_environment)?;
    report(&warnings);
    Ok(config)
}

pub(crate) fn confirmed(question: &str) -> Result<bool, Failure> {
    confirm(question, &mut io::stdin().lock(), &mut io::stdout().lock()).map_err(terminal)
}

fn allocations(list: &str) -> ClusterResult<Vec<PeerId>> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty()).map(parse_peer).collect()
}
