//! What each command does: a request, and how its answer is shown.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::time::Duration;

use ipfs_cluster::client::{ApiError, Client, Find, Request, Watch};
use ipfs_cluster::clock::{SystemClock, WallClock as _};
use ipfs_cluster::config::Secret;
use ipfs_cluster::types::{
    Cid, GlobalPinInfo, IpfsPath, PeerId, Pin, PinOptions, Timestamp, TrackerStatus, parse_cid,
    parse_go_duration, parse_peer,
};
use ipfs_cluster_bins::manual;
use serde_json::value::RawValue;
use tokio::time::{MissedTickBehavior, interval_at, sleep, timeout};

use crate::add::add;
use crate::args::{self, Cli, Command, Health, Ipfs, Leases, Peers, PinAdd, Wait};
use crate::failure::{Failure, Result};
use crate::format;
use crate::output::{Encoding, Output, Show, parse};
use crate::progress::{Audience, Progress};
use crate::wait::{Verdict, count, statuses, verdict};

/// How long a pin is given to get somewhere before its status is shown.
const BEFORE_STATUS: Duration = Duration::from_secs(1);
/// How often the status is asked for while waiting.
const WAIT_INTERVAL: Duration = Duration::from_secs(1);
pub(crate) const WAITING: &str = "waiting for pin status";

/// Runs a command to its end.
pub(crate) async fn run(mut cli: Cli, out: &mut Output) -> Result<()> {
    let command = cli.take_command();
    out.audience = Audience::of_this_process(cli.debug);
    check_secret(&cli.secret)?;
    out.encoding = match cli.encoding.as_str() {
        "text" => Encoding::Text,
        "json" => Encoding::Json,
        _ => return Err(Failure::local("", "unsupported encoding")),
    };
    let Some(command) = command else { return Ok(()) };
    match &command {
        Command::Completion { shell } => {
            return out.text(&String::from_utf8_lossy(&manual::completion(args::command(), *shell)));
        }
        Command::Commands => return out.text(&format::commands(&args::command())),
        Command::Man { folder } => {
            return doing("writing manual pages", manual::write_pages(args::command(), folder));
        }
        _ => {}
    }
    let client = client(&cli)?;
    match command {
        Command::Id => out.fetch(&client, &Request::id(), format::peer).await,
        Command::Version => out.fetch(&client, &Request::version(), format::version).await,
        Command::Peers(Peers::Ls) => out.stream(&client, [Request::peers()], format::peer).await,
        Command::Peers(Peers::Rm { peer }) => {
            let peer = peer.unwrap_or_default();
            let peer = doing("parsing peer ID", parse_peer(&peer))?;
            Ok(client.call(&Request::peer_rm(&peer)).await?)
        }
        Command::Add(args) => add(&args, &client, out).await,
        Command::Pin(command) => pin(command, &client, out).await,
        Command::Status { local, filter, find, cids } => {
            let cids = cids.iter().map(|cid| cid_of(cid)).collect::<Result<Vec<_>>>()?;
            let find = find_of(&find, !cids.is_empty())?;
            match cids.as_slice() {
                [] => {
                    let filter = doing("parsing filter flag", filter.parse())?;
                    found(Request::status_all(filter, local.local), &find, &client, out, format::status).await
                }
                [cid] => out.fetch(&client, &Request::status(cid, local.local), format::status).await,
                cids => out.stream(&client, Request::status_cids(cids, local.local), format::status).await,
            }
        }
        Command::Sync { local, cid } => match given(cid) {
            Some(cid) => {
                out.fetch(&client, &Request::sync(&cid_of(&cid)?, local.local), format::status).await
            }
            None => out.stream(&client, [Request::sync_all(local.local)], format::status).await,
        },
        Command::Recover { local, cid } => match given(cid) {
            Some(cid) => {
                out.fetch(&client, &Request::recover(&cid_of(&cid)?, local.local), format::status).await
            }
            None => out.stream(&client, [Request::recover_all(local.local)], format::status).await,
        },
        Command::Watch { kind, after, cids } => watch(&kind, after, &cids, &client, out).await,
        Command::Health(command) => health(command, &client, out).await,
        Command::Ipfs(Ipfs::Gc { local }) => {
            let mut progress = out.audience.progress();
            let request = Request::repo_gc(local.local);
            // Printed when the progress is gone.
            let collected: Box<RawValue> =
                progress.during("collecting garbage", client.fetch(&request)).await?;
            drop(progress);
            out.document(&collected, format::repo_gc)
        }
        Command::Leases(Leases::Ls) => out.stream(&client, [Request::leases()], format::lease).await,
        Command::Leases(Leases::Rm { cids }) => {
            if cids.is_empty() {
                return Err(Failure::local("", "need the CID of at least one lease"));
            }
            let cids = cids.iter().map(|cid| cid_of(cid)).collect::<Result<Vec<_>>>()?;
            for cid in &cids {
                client.call(&Request::release_lease(cid)).await?;
            }
            Ok(())
        }
        Command::Completion { .. } | Command::Commands | Command::Man { .. } => Ok(()),
    }
}

fn client(cli: &Cli) -> Result<Client> {
    let credentials = cli.basic_auth.as_deref().unwrap_or_default();
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    // As in the reference, so that a password never travels in the clear by accident.
    let implied = !user.is_empty() && !cli.https && !cli.force_http;
    if implied {
        eprintln!("SSL automatically enabled with basic auth credentials. Set \"force-http\" to disable");
    }
    let mut builder = Client::builder()
        .timeout(Duration::from_secs(cli.timeout.into()))
        .basic_auth(user, password)
        .https(cli.https || implied)
        .no_check_certificate(cli.no_check_certificate);
    for host in cli.host.split(',') {
        let is_peer = is_peer(host);
        if is_peer && cli.https {
            eprintln!("Using libp2p-http for {host}. The https flag will be ignored for this connection");
        }
        if is_peer && !cli.secret.is_empty() {
            let secret = cli.secret.parse::<Secret>();
            builder =
                builder.secret(secret.map_err(|_| {
                    Failure::local("creating API client", "length of ProtectorKey should be 32")
                })?);
        }
        builder = builder.host(host);
    }
    builder.build().map_err(|error| match error.kind() {
        ipfs_cluster::ErrorKind::InvalidInput => Failure::local("parsing host multiaddress", error),
        _ => Failure::local("creating API client", error),
    })
}

/// Whether an address leads to a peer of libp2p.
fn is_peer(host: &str) -> bool {
    !host.starts_with("/unix/") && ["/p2p/", "/ipfs/", "/dnsaddr/"].iter().any(|part| host.contains(part))
}

/// The secret is only used with libp2p, but a bad one is a mistake wherever it is given.
fn check_secret(secret: &str) -> Result<()> {
    match secret.chars().find(|letter| !letter.is_ascii_hexdigit()) {
        Some(letter) => {
            let text = format!("encoding/hex: invalid byte: U+{:04X} '{letter}'", u32::from(letter));
            Err(Failure::local("parsing secret", text))
        }
        None if secret.len() % 2 == 1 => {
            Err(Failure::local("parsing secret", "encoding/hex: odd length hex string"))
        }
        None => Ok(()),
    }
}

pub(crate) fn doing<T, E: Display>(what: &'static str, result: std::result::Result<T, E>) -> Result<T> {
    result.map_err(|error| Failure::local(what, error))
}

fn cid_of(text: &str) -> Result<Cid> {
    doing("parsing cid", parse_cid(text))
}

/// An argument that is there; scripts leave variables empty.
fn given(argument: Option<String>) -> Option<String> {
    argument.filter(|text| !text.is_empty())
}

/// Prints events until somebody has enough, which is success.
async fn watch(
    kinds: &[String],
    after: Option<String>,
    cids: &[String],
    client: &Client,
    out: &mut Output,
) -> Result<()> {
    let kinds = kinds.join(",");
    let kinds = Some(kinds).filter(|kinds| !kinds.is_empty());
    let watch = Watch {
        after: given(after).map(|text| doing("parsing after", text.parse())).transpose()?,
        kinds: kinds.map(|kinds| doing("parsing kind flag", kinds.parse())).transpose()?,
        cids: cids.iter().map(|cid| cid_of(cid)).collect::<Result<_>>()?,
    };
    tokio::select! {
        biased;
        ended = interrupted() => ended,
        ended = out.watch(client, &watch) => ended,
    }
}

/// Returns when the program is told to end.
async fn interrupted() -> Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminated = doing("waiting for signals", signal(SignalKind::terminate()))?;
        tokio::select! {
            ended = tokio::signal::ctrl_c() => doing("waiting for signals", ended),
            _ = terminated.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    doing("waiting for signals", tokio::signal::ctrl_c().await)
}

async fn health(command: Health, client: &Client, out: &mut Output) -> Result<()> {
    match command {
        Health::Graph { file, all_ipfs_peers } => {
            let graph = client.graph().await?;
            let dot = format::graph(&graph, all_ipfs_peers);
            match file {
                Some(file) => doing("creating output file", std::fs::write(file, dot)),
                None => out.text(&dot),
            }
        }
        Health::Metrics { name } => match given(name) {
            None => out.fetch(client, &Request::metric_names(), format::names).await,
            Some(name) => {
                let show = |text: &mut String, json: &str| format::metrics(text, json, SystemClock.now());
                out.fetch(client, &Request::metrics(&name)?, show).await
            }
        },
        Health::Alerts => {
            let show = |text: &mut String, json: &str| format::alerts(text, json, SystemClock.now());
            out.fetch(client, &Request::alerts(), show).await
        }
        Health::Bandwidth => out.fetch(client, &Request::bandwidth(), format::bandwidth).await,
    }
}

async fn pin(command: args::Pin, client: &Client, out: &mut Output) -> Result<()> {
    match command {
        args::Pin::Add(add) => {
            let options = pin_options(&add)?;
            let what = path(add.what)?;
            pinned(&Request::pin(what, &options), TrackerStatus::Pinned, &add.wait, client, out).await
        }
        args::Pin::Rm { wait, what } => {
            pinned(&Request::unpin(path(what)?), TrackerStatus::Unpinned, &wait, client, out).await
        }
        args::Pin::Update { name, expire_in, wait, from, to } => {
            let from = doing("parsing from Cid", parse_cid(&from.unwrap_or_default()))?;
            let expire_at = expire_at(expire_in)?;
            let options = PinOptions { pin_update: Some(from), name, expire_at, ..PinOptions::default() };
            pinned(&Request::pin(path(to)?, &options), TrackerStatus::Pinned, &wait, client, out).await
        }
        args::Pin::Ls { filter, find, cid } => {
            let cid = given(cid);
            let find = find_of(&find, cid.is_some())?;
            match cid {
                Some(cid) => out.fetch(client, &Request::allocation(&cid_of(&cid)?), format::pin).await,
                None => {
                    let filter = doing("parsing filter flag", filter.parse())?;
                    found(Request::allocations(filter), &find, client, out, format::pin).await
                }
            }
        }
    }
}

/// What to find; nothing of it can stand beside a CID.
fn find_of(args: &args::Find, is_of_cids: bool) -> Result<Find> {
    let time = |text: &Option<String>, what| {
        text.as_ref().map(|text| doing(what, text.parse::<Timestamp>())).transpose()
    };
    let find = Find {
        limit: args.limit,
        after: args.after.clone(),
        name: args.name.clone(),
        name_prefix: args.name_prefix.clone(),
        metadata: metadata(&args.metadata)?,
        created_after: time(&args.created_after, "parsing created-after")?,
        created_before: time(&args.created_before, "parsing created-before")?,
        peer: args.peer.as_ref().map(|peer| doing("parsing peer ID", parse_peer(peer))).transpose()?,
        sort: args.sort.clone(),
    };
    if is_of_cids && find != Find::default() {
        return Err(Failure::local("", "flags that find pins cannot stand beside a CID"));
    }
    Ok(find)
}

/// Lists what is found: all of it, or a page.
async fn found(request: Request, find: &Find, client: &Client, out: &mut Output, show: Show) -> Result<()> {
    let request = request.find(find);
    if find.limit.is_none() {
        return out.stream(client, [request], show).await;
    }
    if let Some(next) = out.page(client, &request, show).await? {
        // A closed stderr is no reason to fail.
        let _ = writeln!(io::stderr(), "there may be more: --after {next}");
    }
    Ok(())
}

fn path(what: Option<String>) -> Result<IpfsPath> {
    doing("", what.unwrap_or_default().parse())
}

fn pin_options(add: &PinAdd) -> Result<PinOptions> {
    let (min, max) = match add.replication {
        0 => (add.replication_min, add.replication_max),
        both => (both, both),
    };
    Ok(PinOptions {
        replication_factor_min: min,
        replication_factor_max: max,
        name: add.name.clone(),
        mode: doing("parsing mode", add.mode.parse())?,
        user_allocations: allocations(&add.allocations)?,
        expire_at: expire_at(add.expire_in.clone())?,
        metadata: metadata(&add.metadata)?,
        ..PinOptions::default()
    })
}

pub(crate) fn allocations(text: &str) -> Result<Vec<PeerId>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let peers: ipfs_cluster::Result<Vec<_>> = text.split(',').map(|peer| parse_peer(peer.trim())).collect();
    peers.map_err(|_| Failure::local("decoding allocations", "some peer IDs could not be decoded"))
}

pub(crate) fn expire_at(expire_in: Option<String>) -> Result<Option<Timestamp>> {
    let Some(text) = given(expire_in) else { return Ok(None) };
    let expire_in = doing("parsing expire-in", parse_go_duration(&text))?;
    Ok(Some(SystemClock.now() + expire_in))
}

pub(crate) fn metadata(pairs: &[String]) -> Result<BTreeMap<String, String>> {
    pairs
        .iter()
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(Failure::local("parsing metadata", "metadata were not in the format key=value")),
        })
        .collect()
}

/// Pins or unpins, waits if asked to, and shows the pin or how it stands.
async fn pinned(
    request: &Request,
    target: TrackerStatus,
    args: &Wait,
    client: &Client,
    out: &mut Output,
) -> Result<()> {
    let answer: Box<RawValue> = client.fetch(request).await?;
    let pin: Pin = parse(&answer)?;
    let mut status = None;
    if args.wait {
        let default_limit =
            if target == TrackerStatus::Pinned { pin.options.replication_factor_min } else { 0 };
        let limit = args.wait_limit.unwrap_or(default_limit);
        let progress = out.audience.progress();
        status = Some(wait_until(&pin.cid, target, limit, args.wait_timeout, client, progress).await?);
    }
    if args.no_status {
        return out.document(&answer, format::pin);
    }
    let status = match status {
        Some(status) => status,
        None => {
            sleep(BEFORE_STATUS).await;
            client.fetch(&Request::status(&pin.cid, false)).await?
        }
    };
    out.document(&status, format::status)
}

/// Asks for the status until it is as wanted, and gives the last answer.
pub(crate) async fn wait_until(
    cid: &Cid,
    target: TrackerStatus,
    limit: i32,
    at_most: Duration,
    client: &Client,
    mut progress: Progress,
) -> Result<Box<RawValue>> {
    // Takes the progress along, so that it is gone before an error is told.
    let reached = async move {
        let mut ticks = interval_at(tokio::time::Instant::now() + WAIT_INTERVAL, WAIT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let answer: Box<RawValue> = client.fetch(&Request::status(cid, false)).await?;
            let info: GlobalPinInfo = parse(&answer)?;
            let statuses = statuses(&info);
            let mut verdict_now = verdict(&statuses, target, limit);
            progress.say(|| {
                let (done, needed) = count(&statuses, target, limit);
                format!("{target} on {done} of {needed} peers")
            });
            if target == TrackerStatus::Unpinned && verdict_now == Verdict::Reached {
                verdict_now = unpinned_here(cid, client).await?;
            }
            match verdict_now {
                Verdict::Reached => return Ok(answer),
                Verdict::NotYet => {}
                Verdict::Failed => {
                    let text = format!("error has occurred while attempting to reach status: {target}");
                    return Err(Failure::local(WAITING, text));
                }
            }
        }
    };
    let result = if at_most.is_zero() {
        reached.await
    } else {
        timeout(at_most, reached).await.unwrap_or_else(|_| Err(Failure::timed_out(WAITING)))
    };
    result.map_err(|failure| failure.while_doing(WAITING))
}

/// Peers of the reference answer `unpinned` for all of them as soon as a CID has left the pinset; only what a peer
/// says of itself tells whether its daemon is still busy.
async fn unpinned_here(cid: &Cid, client: &Client) -> Result<Verdict> {
    match client.status(cid, true).await {
        Ok(info) => Ok(verdict(&statuses(&info), TrackerStatus::Unpinned, 0)),
        Err(error) if ApiError::of(&error).is_some() => Ok(Verdict::Reached), // it cannot be seen
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<T: std::fmt::Debug>(result: Result<T>) -> String {
        match result.unwrap_err() {
            Failure::Local { doing, text, exit_code: 1 } => format!("error {doing}: {text}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_that_cannot_be_read_are_named() {
        assert_eq!(
            text(allocations("bad")),
            "error decoding allocations: some peer IDs could not be decoded"
        );
        assert_eq!(
            text(metadata(&["a=b".into(), "bad".into()])),
            "error parsing metadata: metadata were not in the format key=value"
        );
        assert!(
            text(expire_at(Some("xyz".into())))
                .starts_with("error parsing expire-in: time: invalid duration \"xyz\"")
        );
        assert_eq!(text(check_secret("zz")), "error parsing secret: encoding/hex: invalid byte: U+007A 'z'");
        assert_eq!(text(check_secret("abc")), "error parsing secret: encoding/hex: odd length hex string");
    }

    #[test]
    fn options_are_read_as_in_the_reference() {
        let peer = "12D3KooWKqMeRxLjvowrtRFqBWaPALNyB3tJxAiubfhe9UdwgeBK";
        assert_eq!(allocations(&format!(" {peer} ,{peer}")).unwrap().len(), 2);
        assert!(allocations("").unwrap().is_empty());
        assert_eq!(metadata(&["a=b=c".into()]).unwrap()["a"], "b=c");
        assert!(expire_at(Some(String::new())).unwrap().is_none());
        assert!(expire_at(Some("500ms".into())).unwrap().unwrap() > SystemClock.now());
    }
}
