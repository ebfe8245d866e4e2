//! Follower peers: clusters of others, read only.

mod cli;
mod commands;

use std::process::ExitCode;

use clap::CommandFactory as _;
use ipfs_cluster::Error;
use ipfs_cluster_bins::args;
use ipfs_cluster_bins::follow::folder::{Base, ClusterName, FollowerFolder};
use ipfs_cluster_bins::follow::{PROGRAM, Trouble};
use ipfs_cluster_bins::manual;
use ipfs_cluster_bins::process::print;
use ipfs_cluster_bins::service::memory;

use cli::{Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    memory::give_back_soon();
    let cli = match args::parse::<Cli>() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            if !trouble.is_said() {
                eprintln!("{trouble}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<(), Trouble> {
    let command = match cli.command {
        // What needs no folder.
        Some(Command::Completion { shell }) => {
            print(String::from_utf8_lossy(&manual::completion(Cli::command(), shell)));
            return Ok(());
        }
        Some(Command::Man { folder }) => {
            return manual::write_pages(Cli::command(), &folder)
                .map_err(|error| Trouble::new(format!("error writing manual pages: {error}")));
        }
        command => command,
    };
    let base = Base::locate(cli.config.as_deref())?;
    let follower = |name: &str| Ok::<_, Error>(base.follower(name.parse::<ClusterName>()?));
    let named = cli.name.as_deref().map(follower).transpose()?;
    let one = |named: Option<FollowerFolder>, word: &str| {
        named.ok_or_else(|| Trouble::new(format!("which cluster? {PROGRAM} NAME {word}")))
    };
    match command {
        None => match named {
            None => commands::clusters(&base),
            Some(follower) => commands::info(&follower),
        },
        Some(Command::Info) => commands::info(&one(named, "info")?),
        Some(Command::Init(options)) => commands::init(&one(named, "init <config-url>")?, &options),
        Some(Command::List) => commands::list(&one(named, "list")?),
        Some(Command::Leave(options)) => commands::leave(&one(named, "leave")?, &options),
        Some(Command::Run(options)) => {
            let mut followers: Vec<FollowerFolder> = named.into_iter().collect();
            for name in &options.names {
                followers.push(follower(name)?);
            }
            commands::run(followers, options)
        }
        Some(Command::Unknown(words)) => {
            let word = words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
            Err(Trouble::new(format!(
                "there is no command {word:?}; there are info, init, run, list and leave (see {PROGRAM} --help)"
            )))
        }
        Some(Command::Completion { .. } | Command::Man { .. }) => Ok(()),
    }
}
