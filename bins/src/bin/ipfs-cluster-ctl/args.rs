//! The command line: what can be written, and what is said of what cannot.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use ipfs_cluster::client::DEFAULT_HOST;
use ipfs_cluster::types::parse_go_duration;
use ipfs_cluster_bins::args::{from_go_style, refuse, version};
use ipfs_cluster_bins::manual::Shell;

/// Exit code of an unknown command, as in the reference.
const EXIT_UNKNOWN_COMMAND: u8 = 3;

/// Manage an IPFS Cluster through the REST API of its peers.
///
/// Requests go to the first --host, and to the next ones only when no answer comes. "ipfs-cluster-ctl help
/// COMMAND" explains a command.
#[derive(Debug, Parser)]
#[command(
    name = "ipfs-cluster-ctl",
    disable_version_flag = true,
    arg_required_else_help = true,
    // Of a flag that is given twice the last one counts, as in Go.
    args_override_self = true
)]
pub(crate) struct Cli {
    /// Addresses of the API, separated by commas: /ip4/…/tcp/…, /dns4/…/tcp/…, /unix/PATH, or of libp2p, with /p2p/ID
    /// at the end or /dnsaddr/NAME
    #[arg(long, short = 'l', default_value = DEFAULT_HOST, value_name = "MULTIADDR[,…]")]
    pub(crate) host: String,
    /// Secret of the private network in hex, only for addresses of libp2p
    #[arg(long, default_value = "", hide_default_value = true, hide_env_values = true, value_name = "HEX")]
    pub(crate) secret: String,
    /// Use https
    #[arg(long, short = 's')]
    pub(crate) https: bool,
    /// Do not check the certificate of the server, with --https: anybody on the way can then read and change everything
    #[arg(long)]
    pub(crate) no_check_certificate: bool,
    /// How to print: text or json
    #[arg(long, visible_alias = "enc", default_value = "text")]
    pub(crate) encoding: String,
    /// Seconds that a request may take, 0 for as long as it takes
    #[arg(long, short = 't', default_value_t = 0, value_name = "SECONDS")]
    pub(crate) timeout: u32,
    /// Tell on stderr what is asked and answered
    #[arg(long, short = 'd')]
    pub(crate) debug: bool,
    /// Name and password for the API; implies --https unless --force-http is given
    #[arg(long, env = "CLUSTER_CREDENTIALS", hide_env_values = true, value_name = "USER[:PASSWORD]")]
    pub(crate) basic_auth: Option<String>,
    /// Send --basic-auth over plain http
    #[arg(long, short = 'f')]
    pub(crate) force_http: bool,
    /// Print the version of this program
    #[arg(long, short = 'v')]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

impl Cli {
    /// Takes out what is to be done; there once [`parse`] has succeeded.
    pub(crate) fn take_command(&mut self) -> Option<Command> {
        self.command.take()
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the peer that answers
    ///
    /// Shows identity, addresses and IPFS daemon of the peer that the tool talks to.
    Id,
    /// List and manage the peers of the cluster
    #[command(subcommand, arg_required_else_help = true)]
    Peers(Peers),
    /// Add files, folders and URLs, and pin them
    ///
    /// Content is cut into blocks by the peer that answers, and its blocks go to the daemons of the peers that will pin it;
    /// then it is pinned, and has replicas at once. With --local they go to the daemon of the peer that answers, and the
    /// others fetch them from there, which may leave content in a daemon that does not pin it.
    ///
    /// A PATH is a file, with --recursive a folder, an address (http://… or https://…), or - for what comes on standard
    /// input. Of several, entries of one more folder are made, as --wrap-with-directory does it.
    ///
    /// CIDs are those of "ipfs add" with the same options. A CAR file (--format car) with one root is taken as it is. With
    /// --resume its upload can be interrupted: the same command goes on where it was, within 20 hours and while the peer that
    /// answers was not killed; otherwise it begins anew.
    ///
    /// A replication factor of -1 means every peer, 0 what the cluster is configured to. Peers given as allocations
    /// are preferred within the replication factor.
    Add(Add),
    /// Pin, unpin and list
    #[command(subcommand, arg_required_else_help = true)]
    Pin(Pin),
    /// Show where pins stand
    ///
    /// Shows what each peer says of a CID, of several, or without arguments of everything in the pinset: pinned,
    /// in work, waiting or failed, and why.
    ///
    /// --filter keeps items that have one of these statuses on any peer: cluster_error, error, pin_error,
    /// pin_queued, pinned, pinning, queued, remote, sharded, unexpectedly_unpinned, unpin_error, unpin_queued,
    /// unpinned, unpinning.
    Status {
        #[command(flatten)]
        local: Local,
        /// Statuses to show, separated by commas
        #[arg(long, default_value = "", hide_default_value = true)]
        filter: String,
        #[command(flatten)]
        find: Find,
        #[arg(value_name = "CID")]
        cids: Vec<String>,
    },
    /// Make what is reported match the IPFS daemons
    ///
    /// Compares what the peers report of a CID, or of everything, with what their IPFS daemons hold, corrects it
    /// and shows what changed. Pins and unpins nothing.
    Sync {
        #[command(flatten)]
        local: Local,
        cid: Option<String>,
    },
    /// Retry what failed
    ///
    /// Tells the peers to try again to pin or unpin a CID, or everything, that is in error. Shows what was queued.
    Recover {
        #[command(flatten)]
        local: Local,
        cid: Option<String>,
    },
    /// Watch what happens
    ///
    /// Prints a line for each thing that the peer notices, until it is interrupted (Ctrl-C): entries of the pinset that
    /// come, change and go, statuses on this peer, other peers that appear and expire, and alerts; with CIDs only what is
    /// about them. After an interruption of the connection it goes on where it was. A line RESYNC says that something may
    /// have been missed: list again what matters.
    Watch {
        /// What to show, separated by commas: pinned, unpinned, status, peer, alert; can be given several times
        #[arg(long)]
        kind: Vec<String>,
        /// Begin behind the event with this cursor (see --enc json) instead of now
        #[arg(long, value_name = "CURSOR")]
        after: Option<String>,
        #[arg(value_name = "CID")]
        cids: Vec<String>,
    },
    /// Show the version of the peer that answers
    ///
    /// The version of this program is shown by -v.
    Version,
    /// Watch over the cluster
    #[command(subcommand, arg_required_else_help = true)]
    Health(Health),
    /// Manage the IPFS daemons
    #[command(subcommand, arg_required_else_help = true)]
    Ipfs(Ipfs),
    /// Manage what is kept for uploads
    ///
    /// Until their content is pinned, the IPFS daemon of each peer keeps the blocks of an upload by leases, each of some
    /// megabytes; those of an upload that was interrupted and may go on for a day. These commands are about those of the peer
    /// that answers.
    #[command(subcommand, arg_required_else_help = true)]
    Leases(Leases),
    /// Print completions for a shell
    ///
    /// For example: ipfs-cluster-ctl completion bash > ~/.local/share/bash-completion/completions/ipfs-cluster-ctl
    Completion { shell: Shell },
    /// List all commands
    #[command(hide = true)]
    Commands,
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man { folder: PathBuf },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Peers {
    /// List the peers of the cluster
    Ls,
    /// Take a peer out of the cluster
    ///
    /// A peer that is running shuts down. The others should be running too, or they learn of it later.
    Rm {
        #[arg(value_name = "PEER ID")]
        peer: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Pin {
    /// Pin a CID or a path
    ///
    /// Puts it into the pinset, allocates peers for it and has their IPFS daemons pin it. Then shows its status.
    ///
    /// A replication factor of -1 means every peer, 0 what the cluster is configured to. Peers given as allocations
    /// are preferred within the replication factor.
    Add(PinAdd),
    /// Unpin a CID or a path
    ///
    /// Takes it out of the pinset and has the IPFS daemons unpin it, which may take longer than this command.
    Rm {
        #[command(flatten)]
        wait: Wait,
        #[arg(value_name = "CID|PATH")]
        what: Option<String>,
    },
    /// Pin a new version of something that is pinned
    ///
    /// The new pin gets the options and the peers of the existing one, which stays; the IPFS daemons fetch only
    /// what differs.
    Update {
        /// Name of the new pin
        #[arg(long, short = 'n', default_value = "", hide_default_value = true)]
        name: String,
        /// How long until the new pin is removed by itself
        #[arg(long, value_name = "DURATION")]
        expire_in: Option<String>,
        #[command(flatten)]
        wait: Wait,
        #[arg(value_name = "EXISTING CID")]
        from: Option<String>,
        #[arg(value_name = "NEW CID|PATH")]
        to: Option<String>,
    },
    /// List the pinset
    ///
    /// Shows what is to be pinned, where and how, not how far the IPFS daemons are; that is what "status" is for.
    Ls {
        /// Types to list, separated by commas: all, pin, meta-pin, clusterdag-pin, shard-pin
        #[arg(long, default_value = "all")]
        filter: String,
        #[command(flatten)]
        find: Find,
        cid: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// Folders with all that is in them
    #[arg(long, short = 'r')]
    pub(crate) recursive: bool,
    /// Print only CIDs, one on each line
    #[arg(long, short = 'q')]
    pub(crate) quiet: bool,
    /// Print only the last CID, that of the whole, when everything is there
    #[arg(long, short = 'Q')]
    pub(crate) quieter: bool,
    /// Print when everything is there; with --enc json one array instead of objects
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// Put the blocks into the daemon of the peer that answers
    #[arg(long)]
    pub(crate) local: bool,
    /// Name of the pin
    #[arg(long, short = 'n', default_value = "", hide_default_value = true)]
    pub(crate) name: String,
    /// Smallest replication factor
    #[arg(long, visible_alias = "rmin", default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) replication_min: i32,
    /// Largest replication factor
    #[arg(long, visible_alias = "rmax", default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) replication_max: i32,
    /// How long until the pin is removed by itself, for example 48h
    #[arg(long, value_name = "DURATION")]
    pub(crate) expire_in: Option<String>,
    /// Free data to keep with the pin; can be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) metadata: Vec<String>,
    /// Peers to prefer, separated by commas
    #[arg(long, visible_alias = "allocs", default_value = "", hide_default_value = true)]
    pub(crate) allocations: String,
    /// Store the blocks and pin nothing
    #[arg(long)]
    pub(crate) no_pin: bool,
    /// Wait until as many daemons as the smallest replication factor have pinned it
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to --wait, for example 30s; 0 for as long as it takes
    #[arg(long, visible_alias = "wt", default_value = "0s", value_parser = parse_go_duration, value_name = "DURATION")]
    pub(crate) wait_timeout: Duration,
    /// Make a folder of what is added, also of one file
    #[arg(long, short = 'w')]
    pub(crate) wrap_with_directory: bool,
    /// unixfs: files and folders; car: a CAR file
    #[arg(long, default_value = "unixfs")]
    pub(crate) format: String,
    /// How the blocks of a file hang together: balanced or trickle
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) layout: String,
    /// Also what begins with a dot, inside of folders
    #[arg(long, short = 'H')]
    pub(crate) hidden: bool,
    /// Where files are cut: size-BYTES, rabin-MIN-AVG-MAX or buzhash
    #[arg(long, short = 's', default_value = "size-262144")]
    pub(crate) chunker: String,
    /// Blocks with the bytes of files have nothing else in them
    #[arg(long)]
    pub(crate) raw_leaves: bool,
    /// 0 or 1; 1 implies --raw-leaves
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) cid_version: i64,
    /// Hash function; any but sha2-256 implies --cid-version 1
    #[arg(long, default_value = "sha2-256")]
    pub(crate) hash: String,
    /// Have the peer's IPFS daemon refer to files where they lie instead of copying them (needs its filestore, and the
    /// files on its machine); implies --raw-leaves
    #[arg(long)]
    pub(crate) nocopy: bool,
    /// Send of a CAR file only what did not arrive when its upload was interrupted; needs --format car
    #[arg(long)]
    pub(crate) resume: bool,
    #[arg(value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PinAdd {
    /// Replication factor, both smallest and largest
    #[arg(long, short = 'r', default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) replication: i32,
    /// Smallest replication factor
    #[arg(long, visible_alias = "rmin", default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) replication_min: i32,
    /// Largest replication factor
    #[arg(long, visible_alias = "rmax", default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) replication_max: i32,
    /// Peers to prefer, separated by commas
    #[arg(long, visible_alias = "allocs", default_value = "", hide_default_value = true)]
    pub(crate) allocations: String,
    /// Name of the pin
    #[arg(long, short = 'n', default_value = "", hide_default_value = true)]
    pub(crate) name: String,
    /// recursive or direct
    #[arg(long, default_value = "recursive")]
    pub(crate) mode: String,
    /// How long until the pin is removed by itself, for example 48h
    #[arg(long, value_name = "DURATION")]
    pub(crate) expire_in: Option<String>,
    /// Free data to keep with the pin; can be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) metadata: Vec<String>,
    #[command(flatten)]
    pub(crate) wait: Wait,
    #[arg(value_name = "CID|PATH")]
    pub(crate) what: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Show the pin at once instead of its status
    #[arg(long, visible_alias = "ns")]
    pub(crate) no_status: bool,
    /// Wait until it is done
    #[arg(long, short = 'w')]
    pub(crate) wait: bool,
    /// How many peers must be done, 0 for all; by default as many as the smallest replication factor
    #[arg(long, visible_alias = "wl", allow_negative_numbers = true, value_name = "PEERS")]
    pub(crate) wait_limit: Option<i32>,
    /// How long to wait, for example 30s; 0 for as long as it takes
    #[arg(long, visible_alias = "wt", default_value = "0s", value_parser = parse_go_duration, value_name = "DURATION")]
    pub(crate) wait_timeout: Duration,
}

// Not documented, because that would become the description of the commands.
#[derive(Debug, Default, Args)]
pub(crate) struct Find {
    /// List at most so many, and say on stderr where to go on
    #[arg(long, value_name = "NUMBER")]
    pub(crate) limit: Option<usize>,
    /// Go on where a list with --limit was cut, with the same other flags
    #[arg(long, value_name = "CURSOR")]
    pub(crate) after: Option<String>,
    /// Only pins of exactly this name
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Only pins whose name begins like this
    #[arg(long, value_name = "TEXT")]
    pub(crate) name_prefix: Option<String>,
    /// Only pins with this metadata; can be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) metadata: Vec<String>,
    /// Only pins made at this time or later, for example 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) created_after: Option<String>,
    /// Only pins made before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) created_before: Option<String>,
    /// Only pins that this peer must hold
    #[arg(long, value_name = "PEER ID")]
    pub(crate) peer: Option<String>,
    /// Sort by cid, name or created; with - in front the last one first
    #[arg(long, value_name = "[-]FIELD", allow_hyphen_values = true)]
    pub(crate) sort: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Local {
    /// Only on the peer that answers
    #[arg(long)]
    pub(crate) local: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Health {
    /// Draw who is connected to whom, for graphviz
    Graph {
        /// Write the graph to a file
        #[arg(long, short = 'f')]
        file: Option<PathBuf>,
        /// Draw also IPFS daemons that belong to no peer
        #[arg(long)]
        all_ipfs_peers: bool,
    },
    /// List names of metrics, or the latest values of one
    Metrics {
        #[arg(value_name = "METRIC")]
        name: Option<String>,
    },
    /// List metrics that stopped coming
    Alerts,
    /// List what each protocol has moved between peers
    Bandwidth,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Leases {
    /// List the leases of the peer that answers
    ///
    /// RUNNING: blocks still come. WAITING: they have come, and their roots are not pinned yet. FAILED: the upload failed,
    /// and they are about to be released.
    Ls,
    /// Release leases
    ///
    /// Blocks that nothing pinned links to are garbage then. An upload that was interrupted and goes on later may lack them.
    Rm {
        #[arg(value_name = "CID")]
        cids: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Ipfs {
    /// Collect garbage on the IPFS daemons of the peers
    Gc {
        #[command(flatten)]
        local: Local,
    },
}

/// The definition of the command line.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

/// Reads the command line. When there is nothing to do, says what there is to say and gives the exit code.
pub(crate) fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Cli, ExitCode> {
    let mut definition = command();
    let argv = from_go_style(argv, &definition).map_err(|error| refuse(&error))?;
    let matches = definition.try_get_matches_from_mut(argv);
    match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) if cli.version => {
            let _ = writeln!(io::stdout(), "ipfs-cluster-ctl {}", version());
            Err(ExitCode::SUCCESS)
        }
        Ok(cli) if cli.command.is_none() => {
            let _ = definition.print_help();
            Err(ExitCode::SUCCESS)
        }
        Ok(cli) => Ok(cli),
        Err(error) => Err(explain(&error)),
    }
}

fn explain(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = write!(io::stdout(), "{}", error.render());
            ExitCode::SUCCESS
        }
        ErrorKind::InvalidSubcommand => {
            let name = match error.get(ContextKind::InvalidSubcommand) {
                Some(ContextValue::String(name)) => name.as_str(),
                _ => "",
            };
            let _ = writeln!(io::stderr(), "No help topic for '{name}'");
            ExitCode::from(EXIT_UNKNOWN_COMMAND)
        }
        _ => {
            // clap's own code is 2, which here means that the API refused.
            let _ = error.print();
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        command().debug_assert();
    }
}
