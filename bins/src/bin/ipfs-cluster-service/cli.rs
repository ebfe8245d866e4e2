//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ipfs_cluster_bins::args::version;
use ipfs_cluster_bins::manual::Shell;

/// A peer of an IPFS cluster: agrees with the other peers on a set of pins, and keeps the IPFS daemon beside it in
/// step.
///
/// `init` writes the configuration and a new identity, `daemon` runs the peer, `ipfs-cluster-ctl` talks to it.
#[derive(Debug, Parser)]
#[command(
    name = "ipfs-cluster-service",
    version = version(),
    disable_version_flag = true,
    subcommand_help_heading = "Commands",
    max_term_width = 100,
    // Of a flag that is given twice the last one counts, as in Go.
    args_override_self = true
)]
pub(crate) struct Cli {
    /// Folder of the configuration and data [default: ~/.ipfs-cluster]
    #[arg(short, long, value_name = "FOLDER", env = "IPFS_CLUSTER_PATH", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,

    // The reference has it here and in the commands, where alone it does something.
    #[arg(short, long, hide = true)]
    pub(crate) force: bool,

    /// Log everything
    #[arg(short, long)]
    pub(crate) debug: bool,

    /// Levels of the log, for all or by facility: info,cluster:debug,pintracker:debug
    #[arg(
        short,
        long,
        value_name = "LEVELS",
        env = "IPFS_CLUSTER_LOG_LEVEL",
        default_value = "",
        hide_default_value = true,
        hide_env_values = true
    )]
    pub(crate) loglevel: String,

    /// Print the version
    #[arg(short, long, action = clap::ArgAction::Version)]
    version: Option<bool>,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a configuration, and an identity if there is none
    Init(Init),
    /// Run the peer
    Daemon(Daemon),
    /// Print the configuration that followers of this cluster need
    FollowConfig(FollowConfig),
    /// Work on the pinset of a peer that does not run
    #[command(arg_required_else_help = false)]
    State(State),
    /// Say who may use the REST API
    #[command(arg_required_else_help = false)]
    Users(Users),
    /// Print the peer id
    Id,
    /// Print the version
    Version,
    /// Print completions for a shell
    Completion { shell: Shell },
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man { folder: PathBuf },
    // The reference answers these with the help, so nobody reads the words.
    #[command(external_subcommand)]
    Unknown(#[expect(dead_code)] Vec<OsString>),
}

/// Write service.json, an identity if there is none, and a peerstore
///
/// CLUSTER_* variables go into the file. The secret of the cluster is made up, unless CLUSTER_SECRET or
/// --custom-secret gives it.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Write only that the configuration is at this address
    #[arg(value_name = "HTTP-SOURCE-URL")]
    pub(crate) source: Option<String>,

    /// How peers agree: crdt, raft (one order, a leader and a quorum), etcd (through one that runs already, at
    /// CLUSTER_ETCD_ENDPOINTS), or solo, a cluster of one
    #[arg(long, default_value = "crdt")]
    pub(crate) consensus: String,

    /// Engine that keeps the pinset: fjall or redb. Those of a Go peer (badger, badger3, leveldb, pebble) get a section
    /// for it in the file, beside fjall
    #[arg(long, default_value = "fjall", alias = "storage")]
    pub(crate) datastore: String,

    /// Ask for the secret of the cluster
    #[arg(short = 's', long)]
    pub(crate) custom_secret: bool,

    /// Addresses of other peers, separated by commas, for the peerstore; with raft they are the first members
    #[arg(long, value_name = "ADDRESSES", default_value = "", hide_default_value = true)]
    pub(crate) peers: String,

    /// Make the first peer of a cluster that others may follow: this peer and --peers are trusted, nobody else
    #[arg(long)]
    pub(crate) collaborative: bool,

    /// What tells the cluster from others, by crdt or in one etcd [default: ipfs-cluster, or a name of its own with
    /// --collaborative]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub(crate) cluster_name: String,

    /// Overwrite a configuration without asking
    #[arg(short, long)]
    pub(crate) force: bool,

    /// Listen on free ports instead of the usual ones
    #[arg(long)]
    pub(crate) randomports: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Daemon {
    /// Accepted and unused: the store upgrades itself
    #[arg(short, long)]
    pub(crate) upgrade: bool,

    /// Addresses of peers to join, separated by commas
    #[arg(short = 'j', long, value_name = "ADDRESSES", default_value = "", hide_default_value = true)]
    pub(crate) bootstrap: String,

    /// Leave the cluster when the peer stops
    #[arg(short = 'x', long, hide = true)]
    pub(crate) leave: bool,

    /// Collect statistics
    #[arg(long)]
    pub(crate) stats: bool,

    /// Collect traces
    #[arg(long)]
    pub(crate) tracing: bool,

    /// Do not trust the peers to join
    #[arg(long)]
    pub(crate) no_trust: bool,
}

/// Print the configuration that followers of this cluster need, as JSON
///
/// Serve it over HTTP or add it to IPFS; `ipfs-cluster-follow NAME run --init URL` follows it, that of Go ipfs-cluster too.
/// It has the secret of the cluster, which is public then: whoever has it can connect and read, and only trusted peers can
/// change anything. It has no private key and no password.
#[derive(Debug, Args)]
pub(crate) struct FollowConfig {
    /// Where followers reach this peer, instead of what it announces or listens on; may be repeated
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', action = clap::ArgAction::Append)]
    pub(crate) address: Vec<String>,

    /// A peer whose changes followers take, beside this one and those it trusts by name; may be repeated
    #[arg(long, value_name = "PEER ID", value_delimiter = ',', action = clap::ArgAction::Append)]
    pub(crate) trust: Vec<String>,

    /// What followers call the cluster [default: its cluster_name]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct State {
    #[command(subcommand)]
    pub(crate) command: Option<StateCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StateCommand {
    /// Write the pinset, one pin in JSON on each line; with etcd as this peer saw it last
    Export(Export),
    /// Replace the pinset by what "export" wrote; with etcd that of all peers, which follow at once
    Import(Import),
    /// Remove the pinset and everything else that the peers agreed on; with etcd this peer's copy of it
    Cleanup(Cleanup),
    /// Look at what the peers agreed on, as it is stored
    #[command(arg_required_else_help = false)]
    Crdt(Crdt),
    /// Look at the log of a raft peer, and recover from a quorum that is lost for good
    #[command(arg_required_else_help = false)]
    Raft(Raft),
    #[command(external_subcommand)]
    Unknown(Vec<OsString>),
}

#[derive(Debug, Args)]
pub(crate) struct Crdt {
    #[command(subcommand)]
    pub(crate) command: Option<CrdtCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CrdtCommand {
    /// Print the heads, the height and whether something is missing
    Info,
    /// Write the DAG for Graphviz; it has a line or more for every change ever made
    Dot(Export),
    /// Have the next run look through the whole DAG for what is missing
    MarkDirty,
    /// Have the next run look for nothing
    MarkClean,
    #[command(external_subcommand)]
    Unknown(Vec<OsString>),
}

#[derive(Debug, Args)]
pub(crate) struct Raft {
    #[command(subcommand)]
    pub(crate) command: Option<RaftCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RaftCommand {
    /// Print the members, the term and how long the log is
    Info,
    /// Make this peer the only member, where more than half of the members will never come back
    ///
    /// Do it on one peer only: of those that are left the one whose last entry is of the greatest term, and if these are the
    /// same, has the greatest number ("state raft info"). All others, those that come back later too, run "state cleanup" and then "daemon
    /// --bootstrap" with an address of this one.
    Recover(Cleanup),
    #[command(external_subcommand)]
    Unknown(Vec<OsString>),
}

#[derive(Debug, Args)]
pub(crate) struct Users {
    #[command(subcommand)]
    pub(crate) command: Option<UsersCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum UsersCommand {
    /// Add a user, or change a password; it is read from the terminal or from standard input
    Add {
        /// The name
        name: String,
    },
    /// Remove a user
    Rm {
        /// The name
        name: String,
    },
    /// List the users
    Ls,
    #[command(external_subcommand)]
    Unknown(Vec<OsString>),
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// Write to a file instead of standard output
    #[arg(short, long)]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The file; standard input if there is none
    pub(crate) file: Option<PathBuf>,

    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,

    /// Replace the least number of peers of every pin, if positive
    #[arg(long, alias = "rmin", value_name = "PEERS", default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) replication_min: i32,

    /// Replace the greatest number of peers of every pin, if positive
    #[arg(long, alias = "rmax", value_name = "PEERS", default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) replication_max: i32,

    /// Replace the allocations of every pin: peer ids, separated by commas
    #[arg(long, alias = "allocs", value_name = "PEER IDS", default_value = "", hide_default_value = true)]
    pub(crate) allocations: String,
}

#[derive(Debug, Args)]
pub(crate) struct Cleanup {
    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
