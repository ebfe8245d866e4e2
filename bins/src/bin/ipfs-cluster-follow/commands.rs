//! What the commands do.

use std::io::{self, BufWriter, Write};
use std::time::Duration;

use futures::StreamExt as _;
use ipfs_cluster::client::{ApiError, Client};
use ipfs_cluster::config::process_environment;
use ipfs_cluster::ipfs_connector::{IpfsConnector as _, KuboConnector};
use ipfs_cluster::state::{StateQuery, StateReader as _};
use ipfs_cluster::types::{Cid, StatusFilter};
use ipfs_cluster::{Error, ErrorKind};
use ipfs_cluster_bins::follow::folder::{Base, FollowerFolder};
use ipfs_cluster_bins::follow::leave::Pins;
use ipfs_cluster_bins::follow::run::{FOLLOWERS_MAX, RunRequest, not_initialized};
use ipfs_cluster_bins::follow::source::{self, DEFAULT_GATEWAY};
use ipfs_cluster_bins::follow::{self, PROGRAM, Trouble, ipfs, pinset, shown, template};
use ipfs_cluster_bins::process::{block_on, print};
use ipfs_cluster_bins::service::logging;
use tokio::time::timeout;

use crate::cli::{Init, Leave, Run};

/// How long a peer may take to say that it is there.
const API_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a listing that are collected before they are written.
const OUTPUT_BUFFER_BYTES: usize = 256 << 10;
/// Lines that nobody wants to see each time somebody asks for a list; weaker than what the user says.
const QUIET: &str = "restapilog:error";
/// The variable with levels of the log, as in `ipfs-cluster-service`.
const LEVELS_VARIABLE: &str = "IPFS_CLUSTER_LOG_LEVEL";

pub(crate) fn clusters(base: &Base) -> Result<(), Trouble> {
    let names = base.clusters()?;
    if names.is_empty() {
        print(format_args!(
            "
No clusters configured yet!
 
If this is the first time you are running {PROGRAM},
be sure to check out the usage documentation. Here are some
examples to get you going:

$ {PROGRAM} --help                     - general description and usage help
$ {PROGRAM} <clusterName> --help       - Help and subcommands for the <clusterName>'s follower peer
$ {PROGRAM} <clusterName> info --help  - Help for the \"info\" subcommand (same for others).
"
        ));
        return Ok(());
    }
    let mut text = format!(
        "Configurations found for {} follower peers. For info and help, try running:\n\n",
        names.len()
    );
    for name in names {
        text.push_str(&format!("{PROGRAM} \"{name}\"\n"));
    }
    print(format_args!("{text}\nTip: \"{PROGRAM} --help\" for help and examples.\n"));
    Ok(())
}

fn must_be_initialized(follower: &FollowerFolder) -> Result<(), Trouble> {
    if follower.is_initialized() {
        return Ok(());
    }
    print(not_initialized(follower));
    Err(Trouble::said())
}

pub(crate) fn info(follower: &FollowerFolder) -> Result<(), Trouble> {
    must_be_initialized(follower)?;
    block_on(async {
        let reading = |error: &Error| {
            Trouble::of(error, format!("reading the configurations in {}", follower.path().display()))
        };
        let local = template::local(follower).map_err(|error| reading(&error))?;
        let place = local.source().map_or_else(
            || follower.folder().service_json().display().to_string(),
            |url| source::shown(&url),
        );
        let gateway = std::env::var("IPFS_GATEWAY").unwrap_or_else(|_| DEFAULT_GATEWAY.to_owned());
        let known = template::known(follower, &local);
        let expected = ipfs::config(known.as_ref(), &process_environment).map_err(|error| reading(&error))?;
        let loaded = template::load(follower, &local, &gateway, &expected, &process_environment).await;
        let (source, config, stale) = match loaded {
            Ok(template) => match template.stale {
                None => (format!("Available ({place})"), template.config.ipfshttp, None),
                stale => (
                    format!("failed retrieving configuration source ({place})"),
                    template.config.ipfshttp,
                    stale,
                ),
            },
            Err(error) if source::is_silence(&error) => {
                (format!("failed retrieving configuration source ({place})"), expected, None)
            }
            Err(error) => return Err(reading(&error)),
        };
        print(format_args!(
            "Information about follower peer for Cluster \"{}\":\n\nConfig folder: {}\nConfig source URL: {source}\n",
            follower.name(),
            follower.path().display()
        ));
        let client = follower
            .client(&process_environment)
            .map_err(|error| Trouble::of(&error, "error creating client"));
        let is_online = match &client {
            Ok(client) => timeout(API_TIMEOUT, client.version()).await.is_ok_and(|answer| answer.is_ok()),
            Err(_) => false,
        };
        print(format_args!("Cluster Peer online: {is_online}\n"));
        let kubo = KuboConnector::with_config(config)?;
        let has_ipfs = timeout(ipfs::QUESTION_TIMEOUT, kubo.id()).await.is_ok_and(|answer| answer.is_ok());
        print(format_args!("IPFS peer online: {has_ipfs}\n"));
        if let Some(error) = stale {
            print(format_args!(
                "The configuration of an earlier start is used ({}).\n",
                shown(&error.to_string())
            ));
        }
        client.map(|_| ())
    })?
}

pub(crate) fn init(follower: &FollowerFolder, options: &Init) -> Result<(), Trouble> {
    let url = options.url.as_deref().unwrap_or_default();
    follow::init::init(follower, url, &options.gateway, &process_environment)
}

pub(crate) fn run(followers: Vec<FollowerFolder>, options: Run) -> Result<(), Trouble> {
    if followers.is_empty() {
        return Err(Trouble::new(format!("which cluster? {PROGRAM} NAME run, or {PROGRAM} run NAME...")));
    }
    if followers.len() > FOLLOWERS_MAX {
        return Err(Trouble::new(format!("one process follows at most {FOLLOWERS_MAX} clusters")));
    }
    if let Some(twice) = followers.iter().enumerate().find(|(at, one)| followers[..*at].contains(one)) {
        return Err(Trouble::new(format!("\"{}\" is named twice", twice.1.name())));
    }
    if options.init.is_some() && followers.len() > 1 {
        return Err(Trouble::new("--init makes one follower: name one"));
    }
    let levels = std::env::var(LEVELS_VARIABLE).unwrap_or_default();
    logging::start(false, &format!("{QUIET},{levels}"), &process_environment)?;
    follow::run::run(&RunRequest { followers, init: options.init, gateway: options.gateway })
}

pub(crate) fn leave(follower: &FollowerFolder, options: &Leave) -> Result<(), Trouble> {
    let pins = match (options.unpin, options.keep_pins) {
        (true, _) => Some(Pins::Unpin),
        (false, true) => Some(Pins::Keep),
        (false, false) => None,
    };
    block_on(follow::leave::leave(follower, pins, &process_environment))?
}

pub(crate) fn list(follower: &FollowerFolder) -> Result<(), Trouble> {
    must_be_initialized(follower)?;
    block_on(async {
        let client = follower
            .client(&process_environment)
            .map_err(|error| Trouble::of(&error, "error creating client"))?;
        match list_online(client).await {
            Listed::Whole => Ok(()),
            Listed::Not => list_offline(follower).await,
            Listed::Broken(trouble) => Err(trouble),
        }
    })?
}

enum Listed {
    Whole,
    /// Nobody was there.
    Not,
    Broken(Trouble),
}

/// What the running peer says, as it comes.
async fn list_online(client: Client) -> Listed {
    let mut output = Output::new();
    // Whoever listens answers at once; the list itself may take as long as it takes.
    match timeout(API_TIMEOUT, client.version()).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => match ApiError::of(&error) {
            Some(answer) => return Listed::Broken(refused(&error, answer)),
            None => return Listed::Not,
        },
        Err(_) => return Listed::Broken(Trouble::new("the peer is running and does not answer")),
    }
    let mut items = client.status_all(StatusFilter::ALL, true);
    while let Some(item) = items.next().await {
        let item = match item {
            Ok(item) => item,
            Err(error) => {
                output.flush();
                return Listed::Broken(match ApiError::of(&error) {
                    Some(answer) => refused(&error, answer),
                    None => error.into(),
                });
            }
        };
        // Of a follower, there is one.
        for info in item.peer_map.values().take(1) {
            if !output.line(&item.cid, &info.status.to_string(), &item.name, &info.error) {
                return Listed::Whole;
            }
        }
    }
    output.flush();
    Listed::Whole
}

fn refused(error: &Error, answer: &ApiError) -> Trouble {
    Trouble::of(error, format!("The Peer API seems to be running but returned with code {}", answer.code))
}

/// What is on disk.
async fn list_offline(follower: &FollowerFolder) -> Result<(), Trouble> {
    let _lock = match follower.folder().lock() {
        Err(error) if error.kind() == ErrorKind::Locked => {
            return Err(Trouble::of(&error, "the peer is running, and its API does not answer"));
        }
        locked => locked?,
    };
    let obtaining = |error: Error| Trouble::of(&error, "error obtaining the pinset");
    let Some(pinset) = pinset::open(follower, &process_environment).await.map_err(obtaining)? else {
        return Ok(());
    };
    let mut output = Output::new();
    let mut pages = pinset.state.list(StateQuery::default());
    'listing: while let Some(page) = pages.next().await {
        for pin in page.map_err(obtaining)? {
            if !output.line(&pin.cid, "offline", &pin.options.name, "") {
                break 'listing;
            }
        }
    }
    output.flush();
    drop(pages);
    pinset.close().map_err(obtaining)
}

/// Standard output, until nobody reads it any more.
struct Output(BufWriter<io::Stdout>);

impl Output {
    fn new() -> Self {
        Self(BufWriter::with_capacity(OUTPUT_BUFFER_BYTES, io::stdout()))
    }

    /// False when there is nobody who reads.
    fn line(&mut self, cid: &Cid, status: &str, name: &str, error: &str) -> bool {
        let name = shown(name);
        let written = match error {
            "" => writeln!(self.0, "{status:<20} {cid} {name}"),
            error => writeln!(self.0, "{status:<20} {cid} {name} ({})", shown(error)),
        };
        written.is_ok()
    }

    fn flush(&mut self) {
        let _ = self.0.flush();
    }
}
