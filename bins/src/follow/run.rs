//! Running followers: one, or several in one process.
//!
//! Each has a thread and a runtime of its own, so that none slows or ends another, and its name in each line that it logs
//! where there are several.

use std::thread;

use ipfs_cluster::api::rest::RestApiSection;
use ipfs_cluster::config::{Environment, FolderLock, overlay, process_environment};
use ipfs_cluster::rpc::Method;
use ipfs_cluster::types::parse_multiaddr;
use ipfs_cluster::{Error, Result as ClusterResult};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::folder::{FollowerFolder, LISTEN_VARIABLE};
use super::init::init;
use super::template::{self, Template};
use super::{PROGRAM, Trouble, ipfs, screen, source};
use crate::process::print;
use crate::service::config::{PeerConfig, Warning, hash_passwords};
use crate::service::logging;
use crate::service::running::{self, RunOptions, Running, outcome};
use crate::service::signals::Signals;
use crate::service::{daemon, open_files, storage};

/// Most clusters that one process follows.
pub const FOLLOWERS_MAX: usize = 64;

/// What to run.
#[derive(Clone, Debug)]
pub struct RunRequest {
    /// Which.
    pub followers: Vec<FollowerFolder>,
    /// The place of the configuration, for those that are not initialized.
    pub init: Option<String>,
    /// The gateway to IPFS.
    pub gateway: String,
}

/// What a follower tells the process that it is a part of.
#[derive(Debug)]
enum Report {
    Ready,
    Ended,
}

/// What a follower is given by the process that it is a part of.
struct Seat {
    /// Turns true when it has to stop.
    stop: watch::Receiver<bool>,
    reports: mpsc::Sender<Report>,
    /// Whether there are others.
    is_one_of_many: bool,
}

/// Runs followers until a signal ends them. One that cannot start or go on says so, and the others go on.
///
/// # Errors
/// When one failed; what failed was printed by then.
pub fn run(request: &RunRequest) -> Result<(), Trouble> {
    open_files::raise_limit();
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("starting the runtime", error))?;
    runtime.block_on(supervise(request))
}

async fn supervise(request: &RunRequest) -> Result<(), Trouble> {
    let mut signals = Signals::subscribe()?;
    let count = request.followers.len();
    let (stop, stopping) = watch::channel(false);
    let (is_ready, ready) = watch::channel(false);
    let (reports, mut heard) = mpsc::channel(2 * FOLLOWERS_MAX);
    let announce = tokio::spawn(daemon::tell_service_manager(ready));
    let mut threads = Vec::with_capacity(count);
    for follower in &request.followers {
        let seat = Seat { stop: stopping.clone(), reports: reports.clone(), is_one_of_many: count > 1 };
        let (follower, request) = (follower.clone(), request.clone());
        let thread = thread::Builder::new()
            .name(format!("follow {}", follower.name()))
            .spawn(move || sit(&follower, &request, seat))
            .map_err(|error| Error::io("starting a thread", error))?;
        threads.push(thread);
    }
    drop(reports);
    let (mut readies, mut ended) = (0, 0);
    while ended < count {
        tokio::select! {
            biased;
            report = heard.recv() => {
                match report {
                    Some(Report::Ready) => readies += 1,
                    Some(Report::Ended) => ended += 1,
                    // All threads are gone, one of them in a way that it could not tell of.
                    None => break,
                }
                // Those that failed are not waited for.
                let all = readies > 0 && readies + ended >= count;
                is_ready.send_if_modified(|ready| all && !std::mem::replace(ready, true));
            }
            () = signals.next() => {
                if !stop.send_replace(true) {
                    daemon::tell_of_the_end();
                }
            }
        }
    }
    announce.abort();
    let failed =
        threads.into_iter().map(thread::JoinHandle::join).filter(|end| !matches!(end, Ok(true))).count();
    if failed > 0 { Err(Trouble::said()) } else { Ok(()) }
}

/// The whole life of one follower, on a thread of its own. False when it failed, which was printed.
fn sit(follower: &FollowerFolder, request: &RunRequest, seat: Seat) -> bool {
    let (reports, is_one_of_many) = (seat.reports.clone(), seat.is_one_of_many);
    let name = follower.name().to_string();
    let named = name.clone();
    let name_thread = move || {
        if is_one_of_many {
            logging::name_thread(&named);
        }
    };
    name_thread();
    let runtime = Builder::new_multi_thread().enable_all().on_thread_start(name_thread).build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(follow(follower, request, seat)),
        Err(error) => Err(Error::io("starting the runtime", error).into()),
    };
    if let Err(trouble) = &ended
        && !trouble.is_said()
    {
        if is_one_of_many {
            eprintln!("{name}: {trouble}");
        } else {
            eprintln!("{trouble}");
        }
    }
    // Nobody listens any more when the process gave up.
    let _ = reports.blocking_send(Report::Ended);
    ended.is_ok()
}

async fn follow(follower: &FollowerFolder, request: &RunRequest, mut seat: Seat) -> Result<(), Trouble> {
    let environment: Environment<'_> = &process_environment;
    if let Some(place) = &request.init {
        if follower.is_initialized() {
            print(format_args!(
                "Configuration for this cluster already exists. Skipping initialization.\nIf you wish to re-initialize, \
                 simply delete {}\n\n",
                follower.path().display()
            ));
        } else {
            init(follower, place, &request.gateway, environment)?;
        }
    }
    if !follower.is_initialized() {
        print(not_initialized(follower));
        return Err(Trouble::said());
    }
    print(format_args!(
        "Starting the IPFS Cluster follower peer for \"{}\".\nCTRL-C to stop it.\n",
        follower.name()
    ));
    let _lock = lock(follower)?;
    let mut stop = seat.stop.clone();
    let config = tokio::select! {
        config = prepare(follower, &request.gateway, environment) => config?,
        _ = stop.wait_for(|stop| *stop) => return Ok(()),
    };
    let peer = start(config).await?;
    let ready = tokio::spawn(report_ready(peer.ready(), seat.reports.clone()));
    let shown = tokio::spawn(screen::show(follower.name().to_string(), peer.cluster().clone()));
    let reason = tokio::select! {
        reason = peer.stopped() => outcome(reason),
        _ = seat.stop.wait_for(|stop| *stop) => Ok(()),
    };
    // What is said from now on must not find the screen in its way.
    shown.abort();
    let _ = shown.await;
    let stopped = peer.stop().await;
    ready.abort();
    stopped.and(reason).map_err(Trouble::from)
}

fn lock(follower: &FollowerFolder) -> Result<FolderLock, Trouble> {
    follower.folder().lock().map_err(|error| Trouble::of(&error, "error obtaining execution lock"))
}

async fn report_ready(mut ready: watch::Receiver<bool>, reports: mpsc::Sender<Report>) {
    if ready.wait_for(|ready| *ready).await.is_ok() {
        let _ = reports.send(Report::Ready).await;
    }
}

/// What is printed of a cluster that was never initialized.
pub fn not_initialized(follower: &FollowerFolder) -> String {
    format!(
        "\nThis cluster peer has not been initialized.\n\nTry running \"{PROGRAM} {} init <config-url>\" first.\n",
        follower.name()
    )
}

/// The configuration, and an IPFS daemon that answers. What is behind the gateway of the daemon is fetched when that is
/// there; anything else before, because it says where the daemon is.
async fn prepare(
    follower: &FollowerFolder,
    gateway: &str,
    environment: Environment<'_>,
) -> Result<PeerConfig, Trouble> {
    let reading = |error: Error| {
        Trouble::of(&error, format!("reading the configurations in {}", follower.path().display()))
    };
    print("Checking if IPFS is online (will wait for 2 minutes)...\n");
    let local = template::local(follower).map_err(reading)?;
    let known = template::known(follower, &local);
    let expected = ipfs::config(known.as_ref(), environment)
        .or_else(|_| ipfs::config(None, environment))
        .map_err(reading)?;
    let is_behind_ipfs = local.source().is_some_and(|source| source::ipfs_path(&source, gateway).is_some());
    if is_behind_ipfs {
        ipfs::wait(&expected).await?;
    }
    let template =
        template::load(follower, &local, gateway, &expected, environment).await.map_err(reading)?;
    let told = &template.config.ipfshttp;
    if !is_behind_ipfs || told.node_multiaddress != expected.node_multiaddress {
        ipfs::wait(told).await?;
    }
    report(follower, &template);
    adapt(template.config, follower, environment).map_err(reading)
}

fn report(follower: &FollowerFolder, template: &Template) {
    if let Some(error) = &template.stale {
        warn!(
            "{error}: going on with the configuration of an earlier start, {}",
            follower.cached_json().display()
        );
    }
    for warning in &template.warnings {
        // No API of the configuration is served here.
        if !matches!(warning, Warning::UnservedSection { path, .. } if path.starts_with("api.")) {
            warn!("{warning}");
        }
    }
    if template::trusts_everybody(&template.config) {
        warn!(
            "consensus.crdt.trusted_peers is \"*\": whoever has the secret of this cluster can make this peer pin and \
             unpin anything"
        );
    }
    if let Some(data) = &template.config.reference_data
        && !storage::exists(&storage::folder(&template.config))
    {
        let (path, kind) = (data.path.display(), data.kind);
        info!(
            "{path} holds the pinset of a Go peer ({kind}), which is left as it is: the peers of the cluster give it again"
        );
    }
}

/// What every follower is, whatever its configuration says.
fn adapt(
    mut config: PeerConfig,
    follower: &FollowerFolder,
    environment: Environment<'_>,
) -> ClusterResult<PeerConfig> {
    config.cluster.follower_mode = true;
    config.restapi = Some(api(follower, environment)?);
    // The reference's followers do not have it.
    config.num_pin = None;
    running::check(&config)?;
    Ok(config)
}

/// The API of a follower: the usual settings, on a socket in its folder, and what the environment says.
fn api(follower: &FollowerFolder, environment: Environment<'_>) -> ClusterResult<RestApiSection> {
    let mut section = RestApiSection::default();
    // A socket that cannot be is no obstacle to an address that was named.
    if environment(LISTEN_VARIABLE).is_none_or(|addresses| addresses.is_empty()) {
        // No page of a browser gets at a socket, so none needs to be allowed to.
        section = RestApiSection::strict();
        section.http_listen_multiaddress =
            std::iter::once(parse_multiaddr(&follower.socket_address()?)?).collect();
    }
    let value = serde_json::to_value(&section)
        .map_err(|error| Error::internal("the settings of the API cannot be written").with_source(error))?;
    let mut section = overlay::load(Some(&value), environment)?.section;
    hash_passwords(&mut section)?;
    Ok(section)
}

async fn start(config: PeerConfig) -> Result<Running, Trouble> {
    let options = RunOptions {
        closed: vec![Method::RepoGcLocal],
        avoid_taken_ports: true,
        beside_reference_data: true,
        ..RunOptions::default()
    };
    Running::start(config, options).await.map_err(Trouble::from)
}
