//! The cluster peer as a process.

mod cli;
mod crdt;
mod daemon;
mod follow_config;
mod init;
mod raft;
mod state;
mod users;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::CommandFactory as _;
use ipfs_cluster::config::{Identity, process_environment};
use ipfs_cluster::{COMPATIBLE_VERSION, Error};
use ipfs_cluster_bins::args;
use ipfs_cluster_bins::manual;
use ipfs_cluster_bins::process::{self, print};
use ipfs_cluster_bins::service::folder::Folder;
use ipfs_cluster_bins::service::{Doing as _, Failure, logging, memory};

use cli::{Cli, Command, CrdtCommand, RaftCommand, StateCommand, UsersCommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code for a subcommand that does not exist, as in the reference.
const EXIT_NO_SUCH_SUBCOMMAND: u8 = 3;

fn main() -> ExitCode {
    memory::give_back_soon();
    let cli = match args::parse::<Cli>() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match run(cli) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    // What needs neither a folder nor a log.
    match &cli.command {
        Some(Command::Completion { shell }) => {
            print(String::from_utf8_lossy(&manual::completion(Cli::command(), *shell)));
            return Ok(ExitCode::SUCCESS);
        }
        Some(Command::Man { folder }) => {
            manual::write_pages(Cli::command(), folder)
                .map_err(|source| Failure::new("writing manual pages", Error::io("man", source)))?;
            return Ok(ExitCode::SUCCESS);
        }
        _ => {}
    }
    let folder = Folder::locate(cli.config.as_deref()).doing("finding the configuration folder")?;
    logging::start(cli.debug, &cli.loglevel, &process_environment).doing("setting the log level")?;
    match cli.command {
        None | Some(Command::Unknown(_) | Command::Completion { .. } | Command::Man { .. }) => {
            print(Cli::command().render_help());
            return Ok(ExitCode::FAILURE);
        }
        Some(Command::Init(options)) => init::run(&folder, &options)?,
        Some(Command::Daemon(options)) => daemon::run(folder, &options)?,
        Some(Command::FollowConfig(options)) => follow_config::run(folder, &options)?,
        Some(Command::Id) => id(&folder)?,
        Some(Command::Version) => print(format_args!("{COMPATIBLE_VERSION}\n")),
        Some(Command::Users(options)) => match options.command {
            None => print_help(&["users"]),
            Some(UsersCommand::Unknown(words)) => return Ok(no_such_subcommand(&words)),
            Some(UsersCommand::Add { name }) => users::add(&folder, &name)?,
            Some(UsersCommand::Rm { name }) => users::remove(&folder, &name)?,
            Some(UsersCommand::Ls) => users::list(&folder)?,
        },
        Some(Command::State(options)) => match options.command {
            None => print_help(&["state"]),
            Some(StateCommand::Unknown(words)) => return Ok(no_such_subcommand(&words)),
            Some(StateCommand::Export(options)) => state::export(folder, &options)?,
            Some(StateCommand::Import(options)) => state::import(folder, &options)?,
            Some(StateCommand::Cleanup(options)) => state::cleanup(folder, &options)?,
            Some(StateCommand::Raft(options)) => match options.command {
                None => print_help(&["state", "raft"]),
                Some(RaftCommand::Unknown(words)) => return Ok(no_such_subcommand(&words)),
                Some(RaftCommand::Info) => raft::info(folder)?,
                Some(RaftCommand::Recover(options)) => raft::recover(folder, &options)?,
            },
            Some(StateCommand::Crdt(options)) => match options.command {
                None => print_help(&["state", "crdt"]),
                Some(CrdtCommand::Unknown(words)) => return Ok(no_such_subcommand(&words)),
                Some(CrdtCommand::Info) => crdt::info(folder)?,
                Some(CrdtCommand::Dot(options)) => crdt::dot(folder, &options)?,
                Some(CrdtCommand::MarkDirty) => crdt::mark(folder, true)?,
                Some(CrdtCommand::MarkClean) => crdt::mark(folder, false)?,
            },
        },
    }
    Ok(ExitCode::SUCCESS)
}

fn id(folder: &Folder) -> Result<(), Failure> {
    let identity = Identity::load(&folder.identity_json()).doing("loading identity")?;
    let identity = identity
        .with_environment(&process_environment)
        .doing("applying environment variables to the identity")?;
    print(format_args!("{}\n", identity.id()));
    Ok(())
}

fn no_such_subcommand(words: &[OsString]) -> ExitCode {
    let word = words.first().map(|word| word.to_string_lossy()).unwrap_or_default();
    eprintln!("No help topic for '{word}'");
    ExitCode::from(EXIT_NO_SUCH_SUBCOMMAND)
}

fn print_help(subcommands: &[&str]) {
    let mut command = Cli::command();
    // Without this the usage line lacks the program's name.
    command.build();
    let mut found = Some(&mut command);
    for name in subcommands {
        found = found.and_then(|command| command.find_subcommand_mut(name));
    }
    if let Some(command) = found {
        print(command.render_help());
    }
}

/// Of the terminal.
fn terminal(source: std::io::Error) -> Failure {
    Failure::new("asking", Error::io("terminal", source))
}

/// Runs what is asynchronous to its end, which is the doing of something.
fn block_on<F: Future>(doing: &str, work: F) -> Result<F::Output, Failure> {
    process::block_on(work).map_err(|error| Failure::new(doing, error))
}
