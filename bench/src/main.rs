//! Measures `ipfs-cluster-service` as a user meets it: whole programs, over HTTP, on loopback.
//!
//! Run through `cargo xtask bench`, which builds what this needs. Figures are for comparison within one run, never
//! for assertions.

mod add;
mod ctl;
mod daemon;
mod follow;
mod http;
mod load;
mod many;
mod peers;
mod raft;
mod report;
mod scenarios;
mod slow_disk;
mod walk;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;

use add::Adding;
use daemon::Subject;
use report::Row;
use scenarios::Setup;

/// Measures ipfs-cluster-service.
#[derive(Debug, Parser)]
struct Arguments {
    /// Our ipfs-cluster-service.
    #[arg(long)]
    service: PathBuf,
    /// The program that plays an IPFS daemon.
    #[arg(long)]
    fake_kubo: PathBuf,
    /// Our ipfs-cluster-follow; without it the service follows.
    #[arg(long)]
    follow: Option<PathBuf>,
    /// The reference's ipfs-cluster-service, measured beside ours.
    #[arg(long)]
    go_service: Option<PathBuf>,
    /// Our ipfs-cluster-ctl.
    #[arg(long)]
    ctl: PathBuf,
    /// The reference's ipfs-cluster-ctl, measured beside ours.
    #[arg(long)]
    go_ctl: Option<PathBuf>,
    /// Pins of the big pinset.
    #[arg(long, default_value_t = 1_000_000)]
    pins: u64,
    /// Pins posted until all are pinned.
    #[arg(long, default_value_t = 50_000)]
    until_pinned: u64,
    /// Seconds of each run of pin requests.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Pins posted to a cluster of three.
    #[arg(long, default_value_t = 100_000)]
    cluster_pins: u64,
    /// Pins that a new peer of the reference has to fetch; it is too slow for the big pinset.
    #[arg(long, default_value_t = 40_000)]
    go_join_pins: u64,
    /// Pins, a block each, that new peers fetch from a peer of the reference.
    #[arg(long, default_value_t = 200_000)]
    walk_pins: u64,
    /// The same of a chain; the reference takes 20 ms a block.
    #[arg(long, default_value_t = 4_000)]
    walk_chain_pins: u64,
    /// MiB of content that is added.
    #[arg(long, default_value_t = 1_024)]
    add_mib: u64,
    /// Small files that are added, a thousand in each folder.
    #[arg(long, default_value_t = 100_000)]
    add_files: u64,
    /// A real Kubo, into which is added.
    #[arg(long)]
    kubo: Option<PathBuf>,
    /// How our peers agree where there is only one: `solo` or `crdt`. Several always agree by CRDT.
    #[arg(long, default_value = "solo", value_parser = ["solo", "crdt"])]
    consensus: String,
    /// Only these of `post`, `until-pinned`, `big`, `ctl`, `cluster`, `join`, `follow`, `walk`, `raft` (or one of
    /// `raft-writes`, `raft-syncs`, `raft-failover`, `raft-snapshot`), `add`; `walk` needs the reference.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// How much longer than on this disk syncs take in `raft-syncs`, with strace: one run for each.
    #[arg(long, value_delimiter = ',', default_value = "0,500us,1ms,2ms,5ms", value_parser = slow_disk::parse_delay)]
    sync_delay: Vec<Duration>,
    /// With basic authentication, and the log in a file.
    #[arg(long)]
    authenticated: bool,
    /// Where the pinsets live while they are measured; a temporary folder without this.
    #[arg(long)]
    folder: Option<PathBuf>,
}

impl Arguments {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }

    /// A folder that goes when it is dropped.
    fn scratch(&self) -> Result<tempfile::TempDir> {
        Ok(match &self.folder {
            None => tempfile::tempdir()?,
            Some(folder) => tempfile::tempdir_in(folder)?,
        })
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.authenticated {
        http::send_credentials();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(&arguments))
}

async fn run(arguments: &Arguments) -> Result<()> {
    let cores = std::thread::available_parallelism()?;
    let init: &[&str] = match arguments.consensus.as_str() {
        "crdt" => &["init", "--consensus", "crdt"],
        _ => &["init", "--consensus", "solo"],
    };
    let subject = Subject { name: "ours", program: arguments.service.clone(), init, reference: false };
    let mut ours = measure(&subject, Some(&arguments.ctl), arguments).await?;
    let go = arguments.go_service.as_ref().map(|program| Subject {
        name: "reference",
        program: program.clone(),
        init: &["init"],
        reference: true,
    });
    let mut reference = match &go {
        None => None,
        Some(go) => {
            let mut rows = measure(go, arguments.go_ctl.as_deref(), arguments).await?;
            if arguments.wants("walk") {
                let folder = arguments.scratch()?;
                let together = Subject { init: &["init"], ..subject.clone() };
                for (pins, clients) in [(arguments.walk_pins, 64), (arguments.walk_chain_pins, 1)] {
                    let walked =
                        walk::walk(&together, go, &arguments.fake_kubo, folder.path(), pins, clients);
                    let (more, theirs) = walked.await.context("a walk")?;
                    ours.extend(more);
                    rows.extend(theirs);
                }
            }
            Some(rows)
        }
    };
    if arguments.wants("add") {
        let folder = arguments.scratch()?;
        let adding = Adding {
            ours: &subject,
            ctl: &arguments.ctl,
            reference: go.as_ref().zip(arguments.go_ctl.as_deref()),
            fake_kubo: &arguments.fake_kubo,
            forward: &std::env::current_exe()?.with_file_name("forward"),
            kubo: arguments.kubo.as_deref(),
            folder: folder.path().to_owned(),
            mib: arguments.add_mib,
            files: arguments.add_files,
        };
        let (more, theirs) = add::add(&adding).await.context("adding")?;
        ours.extend(more);
        if let Some(rows) = &mut reference {
            rows.extend(theirs);
        }
    }
    println!("\n{cores} cores, load generator on the same cores, one run.\n");
    println!("{}", report::table(&ours, reference.as_deref()));
    Ok(())
}

async fn measure(subject: &Subject, ctl: Option<&Path>, arguments: &Arguments) -> Result<Vec<Row>> {
    let folder = arguments.scratch()?;
    let setup = Setup { subject, fake_kubo: &arguments.fake_kubo, folder: folder.path().to_owned() };
    let wanted = |name: &str| arguments.wants(name);
    let mut rows = Vec::new();
    if wanted("post") {
        eprintln!("{}: pin requests …", subject.name);
        rows.extend(scenarios::post(&setup, arguments.seconds).await.context("pin requests")?);
    }
    if wanted("until-pinned") {
        eprintln!("{}: until pinned …", subject.name);
        rows.extend(scenarios::until_pinned(&setup, arguments.until_pinned).await.context("until pinned")?);
    }
    if wanted("big") {
        eprintln!("{}: a pinset of {} …", subject.name, arguments.pins);
        rows.extend(scenarios::big(&setup, arguments.pins).await.context("a big pinset")?);
    }
    if let Some(program) = ctl.filter(|_| wanted("ctl")) {
        eprintln!("{}: ctl …", subject.name);
        let work = {
            let (program, folder, pins) = (program.to_owned(), folder.path().to_owned(), arguments.pins);
            move || ctl::ctl(&program, &folder, pins)
        };
        rows.extend(tokio::task::spawn_blocking(work).await?.context("ctl")?);
    }
    let together = Subject { init: &["init"], ..subject.clone() };
    let setup = Setup { subject: &together, ..setup };
    if wanted("cluster") {
        eprintln!("{}: three peers …", subject.name);
        rows.extend(many::cluster(&setup, arguments.cluster_pins).await.context("three peers")?);
    }
    if wanted("join") {
        let pins = if subject.reference { arguments.go_join_pins } else { arguments.pins };
        eprintln!("{}: a peer joins {pins} pins …", subject.name);
        rows.extend(many::join(&setup, pins).await.context("a peer joins")?);
    }
    if wanted("follow") {
        let (pins, follower) = match subject.reference {
            true => (arguments.go_join_pins, None),
            false => (arguments.pins, arguments.follow.as_deref()),
        };
        eprintln!("{}: a follower of {pins} pins …", subject.name);
        rows.extend(follow::follow(&setup, follower, pins).await.context("a follower")?);
    }
    let agreeing = Subject { init: &["init", "--consensus", "raft"], ..subject.clone() };
    let setup = Setup { subject: &agreeing, ..setup };
    if wanted("raft") || wanted("raft-writes") {
        eprintln!("{}: three peers on Raft …", subject.name);
        rows.extend(raft::writes(&setup, arguments.seconds).await.context("writes on Raft")?);
    }
    if wanted("raft") || wanted("raft-syncs") {
        eprintln!("{}: three peers on Raft, disks of several speeds …", subject.name);
        let writing = raft::syncs(&setup, &arguments.sync_delay, arguments.seconds);
        rows.extend(writing.await.context("writes on Raft, disks of several speeds")?);
    }
    if wanted("raft") || wanted("raft-failover") {
        eprintln!("{}: the end of a leader …", subject.name);
        rows.extend(raft::failover(&setup).await.context("the end of a leader")?);
    }
    if wanted("raft") || wanted("raft-snapshot") {
        let pins = if subject.reference { arguments.go_join_pins } else { arguments.pins };
        eprintln!("{}: a snapshot of {pins} pins …", subject.name);
        rows.extend(raft::snapshot(&setup, pins).await.context("a snapshot")?);
    }
    Ok(rows)
}
