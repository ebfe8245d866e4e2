//! The end of a follower: its folder goes, and its pins with it or not.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use indicatif::{ProgressBar, ProgressStyle};
use ipfs_cluster::client::Client;
use ipfs_cluster::config::{Environment, FolderLock, Identity};
use ipfs_cluster::ipfs_connector::{IpfsConnector as _, KuboConnector};
use ipfs_cluster::state::{StateQuery, StateReader as _};
use ipfs_cluster::types::{Cid, PeerId, Pin, PinType};
use ipfs_cluster::{Error, ErrorKind, Result};
use tokio::time::timeout;

use super::folder::FollowerFolder;
use super::init::remove_remains;
use super::pinset::{self, OpenPinset};
use super::run::not_initialized;
use super::{PROGRAM, Trouble, ipfs, template};
use crate::process::print;
use crate::service::prompt;

/// Pins that are asked about, and removed, at a time.
const UNPINS_AT_ONCE_MAX: usize = 8;
/// How long the peer of another cluster may take to say whether it has an entry.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What becomes of the pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pins {
    /// The daemon lets go of them, unless another followed cluster has them too.
    Unpin,
    /// The daemon keeps them.
    Keep,
}

/// Ends a follower that does not run. Interrupted, it can be called again; the folder goes when all else is done.
///
/// # Errors
/// When the follower runs, when nobody says what becomes of the pins, when a pin cannot be removed, and of files. The
/// folder is there still.
pub async fn leave(
    follower: &FollowerFolder,
    pins: Option<Pins>,
    environment: Environment<'_>,
) -> Result<(), Trouble> {
    if !follower.is_initialized() {
        let had_remains = follower.remains().exists();
        remove_remains(follower)?;
        if had_remains {
            print(left(follower));
            return Ok(());
        }
        print(not_initialized(follower));
        return Err(Trouble::said());
    }
    let lock = follower.folder().lock().map_err(|error| follower.busy(&error))?;
    let pins = match pins {
        Some(pins) => pins,
        None => ask(follower)?,
    };
    if pins == Pins::Unpin {
        let counts = unpin_all(follower, environment).await?;
        print(format_args!(
            "{} items were unpinned from IPFS.{}\n",
            counts.unpinned,
            match counts.shared {
                0 => String::new(),
                shared => format!(
                    " {shared} stay pinned, because other clusters that are followed here have them too."
                ),
            }
        ));
    }
    remove(follower, lock)?;
    print(left(follower));
    Ok(())
}

fn left(follower: &FollowerFolder) -> String {
    format!(
        "Cluster \"{}\" is no longer followed: {} was removed.\n",
        follower.name(),
        follower.path().display()
    )
}

fn ask(follower: &FollowerFolder) -> Result<Pins, Trouble> {
    if !std::io::stdin().is_terminal() {
        return Err(Trouble::new(format!(
            "say what becomes of the pins of \"{}\": --unpin removes them from IPFS, --keep-pins does not",
            follower.name()
        )));
    }
    let question = format!("Unpin what \"{}\" has pinned from IPFS too? [y/n]: ", follower.name());
    for _ in 0..3 {
        let answer = prompt::ask(&question, &mut std::io::stdin().lock(), &mut std::io::stdout().lock())
            .map_err(|error| Error::io("asking", error))?;
        match answer.trim() {
            "y" | "Y" => return Ok(Pins::Unpin),
            "n" | "N" => return Ok(Pins::Keep),
            _ => print("Please press either 'y' or 'n'\n"),
        }
    }
    Err(Trouble::new("nothing was done"))
}

/// First out of sight in one step, so that what an interruption leaves is not taken for a follower.
fn remove(follower: &FollowerFolder, lock: FolderLock) -> Result<()> {
    remove_remains(follower)?;
    std::fs::rename(follower.path(), follower.remains())
        .map_err(|error| Error::io(format!("removing {}", follower.path().display()), error))?;
    remove_remains(follower)?;
    drop(lock);
    Ok(())
}

/// What was done with the pins.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    unpinned: u64,
    shared: u64,
}

/// Another followed cluster, and how to ask it.
enum Neighbour {
    /// It does not run, and cannot be started meanwhile.
    Store(OpenPinset, #[expect(dead_code, reason = "keeps it from being started")] FolderLock),
    /// It runs.
    Api(String, Client),
}

impl Neighbour {
    async fn has(&self, cid: &Cid) -> Result<bool> {
        match self {
            Self::Store(pinset, _) => Ok(pinset.state.get(cid).await?.is_some()),
            Self::Api(name, client) => {
                let asked = timeout(ANSWER_TIMEOUT, client.allocation(cid)).await;
                match asked.unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "no answer"))) {
                    Ok(_) => Ok(true),
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
                    Err(error) => Err(unasked(name, &error)),
                }
            }
        }
    }
}

fn unasked(name: &str, error: &Error) -> Error {
    Error::new(
        error.kind(),
        format!(
            "the cluster \"{name}\", which is followed here too, cannot be asked which pins it needs: {error}; \
             --keep-pins leaves all of them alone"
        ),
    )
}

/// Everybody else who is followed here.
async fn neighbours(follower: &FollowerFolder, environment: Environment<'_>) -> Result<Vec<Neighbour>> {
    let mut neighbours = Vec::new();
    for name in follower.base().clusters()? {
        if name == *follower.name() {
            continue;
        }
        let other = follower.base().follower(name.clone());
        let failed = |error: Error| unasked(name.as_str(), &error);
        match other.folder().lock() {
            Ok(lock) => {
                let pinset = pinset::open(&other, environment).await.map_err(failed)?;
                neighbours.extend(pinset.map(|pinset| Neighbour::Store(pinset, lock)));
            }
            Err(locked) if locked.kind() == ErrorKind::Locked => {
                // At its own socket: an address from the environment may be anybody's.
                let client = other.client(&|_| None).map_err(failed)?;
                timeout(ANSWER_TIMEOUT, client.version())
                    .await
                    .unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "it runs and does not answer")))
                    .map_err(failed)?;
                neighbours.push(Neighbour::Api(name.to_string(), client));
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(neighbours)
}

async fn unpin_all(follower: &FollowerFolder, environment: Environment<'_>) -> Result<Counts, Trouble> {
    let Some(pinset) = pinset::open(follower, environment).await? else { return Ok(Counts::default()) };
    let peer = Identity::load(&follower.folder().identity_json())?.with_environment(environment)?.id();
    let neighbours = neighbours(follower, environment).await?;
    let known = template::known(follower, &template::local(follower)?);
    let mut config = ipfs::config(known.as_ref(), environment)?;
    // Who says so here is stronger than who wrote the configuration.
    config.unpin_disable = false;
    let kubo = KuboConnector::with_config(config)?;
    timeout(ipfs::QUESTION_TIMEOUT, kubo.id())
        .await
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "it does not answer")))
        .map_err(|error| {
            error.context("the IPFS daemon is needed to unpin (--keep-pins leaves all pins alone)")
        })?;
    let bar = progress(pinset.state.counts().pins);
    let work = Work { peer, neighbours, kubo, bar, unpinned: AtomicU64::new(0), shared: AtomicU64::new(0) };
    let done = work.run(&pinset).await;
    work.bar.finish_and_clear();
    for neighbour in work.neighbours {
        if let Neighbour::Store(pinset, _) = neighbour {
            pinset.close()?;
        }
    }
    pinset.close()?;
    done.map_err(|error| {
        Trouble::new(format!(
            "{error}\nnothing is lost: \"{PROGRAM} {} leave\" goes on where it was",
            follower.name()
        ))
    })?;
    Ok(Counts {
        unpinned: work.unpinned.load(Ordering::Relaxed),
        shared: work.shared.load(Ordering::Relaxed),
    })
}

/// Shown on a terminal only.
fn progress(pins: u64) -> ProgressBar {
    let bar = ProgressBar::new(pins);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} {eta}") {
        bar.set_style(style);
    }
    bar
}

struct Work {
    peer: PeerId,
    neighbours: Vec<Neighbour>,
    kubo: KuboConnector,
    bar: ProgressBar,
    unpinned: AtomicU64,
    shared: AtomicU64,
}

impl Work {
    async fn run(&self, pinset: &OpenPinset) -> Result<()> {
        let mut pages = pinset.state.list(StateQuery::default());
        while let Some(page) = pages.next().await {
            let page = page?;
            stream::iter(page.iter().map(Ok))
                .try_for_each_concurrent(UNPINS_AT_ONCE_MAX, |pin| self.let_go(pin))
                .await?;
        }
        Ok(())
    }

    async fn let_go(&self, pin: &Pin) -> Result<()> {
        self.bar.inc(1);
        // What the cluster never had this peer pin.
        if pin.is_remote_for(&self.peer) || pin.pin_type == PinType::Meta {
            return Ok(());
        }
        if !self.kubo.is_pinned(&pin.cid, pin.mode()).await? {
            return Ok(());
        }
        for neighbour in &self.neighbours {
            if neighbour.has(&pin.cid).await? {
                self.shared.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
        }
        self.kubo.unpin(&pin.cid).await?;
        self.unpinned.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
