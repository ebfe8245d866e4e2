//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ipfs_cluster_bins::args::version;
use ipfs_cluster_bins::follow::source::DEFAULT_GATEWAY;
use ipfs_cluster_bins::manual::Shell;

/// Follows IPFS clusters that others write: pins what their trusted peers pin, and changes nothing.
///
/// A followed cluster has a name that you choose, and below the base folder a folder of that name with an identity, the
/// address of the configuration, which is fetched at every start, and the pinset. Without a command, its state is shown;
/// without a name, the clusters are listed.
#[derive(Debug, Parser)]
#[command(
    name = "ipfs-cluster-follow",
    version = version(),
    disable_version_flag = true,
    subcommand_help_heading = "Commands",
    override_usage = "ipfs-cluster-follow [OPTIONS] [NAME] [COMMAND]\n       ipfs-cluster-follow [OPTIONS] run NAME...",
    after_help = EXAMPLES,
    max_term_width = 100,
    // Of a flag that is given twice the last one counts, as in Go.
    args_override_self = true
)]
pub(crate) struct Cli {
    /// Base folder of the followed clusters [default: ~/.ipfs-cluster-follow]
    #[arg(short, long, value_name = "FOLDER", env = "IPFS_CLUSTER_PATH", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,

    /// Print the version
    #[arg(short, long, action = clap::ArgAction::Version)]
    version: Option<bool>,

    /// The cluster
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  ipfs-cluster-follow mycluster run --init cluster.example.org   follow a cluster, from nothing
  ipfs-cluster-follow mycluster list                             what it pins
  ipfs-cluster-follow mycluster leave --unpin                    end it, and free the space
  ipfs-cluster-follow run one two                                run two at once";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what there is to know of a follower
    #[command(override_usage = "ipfs-cluster-follow NAME info")]
    Info,
    Init(Init),
    Run(Run),
    /// List the pinset
    #[command(override_usage = "ipfs-cluster-follow NAME list")]
    List,
    #[command(alias = "remove")]
    Leave(Leave),
    /// Print completions for a shell
    #[command(override_usage = "ipfs-cluster-follow completion SHELL")]
    Completion {
        shell: Shell,
    },
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man {
        folder: PathBuf,
    },
    #[command(external_subcommand)]
    Unknown(Vec<OsString>),
}

/// Make a new follower: an identity, and a file with the address of its configuration
///
/// The configuration is at an http:// or https:// address, at a path (/ipfs/…, /ipns/…), a CID, a key of IPNS, or a name
/// with a DNSLink; all but the first are got through the gateway of the IPFS daemon. It is an error if there is a follower
/// of this name already.
#[derive(Debug, Args)]
#[command(override_usage = "ipfs-cluster-follow NAME init [OPTIONS] <CONFIG-URL>")]
pub(crate) struct Init {
    /// Where the configuration is
    #[arg(value_name = "CONFIG-URL")]
    pub(crate) url: Option<String>,

    /// The gateway to IPFS
    #[arg(long, value_name = "URL", env = "IPFS_GATEWAY", default_value = DEFAULT_GATEWAY, hide_env_values = true)]
    pub(crate) gateway: String,
}

/// Run a follower until it is stopped (CTRL-C), or several in one process
///
/// It waits two minutes for the IPFS daemon. A configuration that is out of reach is replaced by the one of the last start.
/// The API is on a socket in the follower's folder, for "list" and for "ipfs-cluster-ctl --host /unix/…/api-socket".
#[derive(Debug, Args)]
#[command(
    override_usage = "ipfs-cluster-follow NAME run [OPTIONS]\n       ipfs-cluster-follow run [OPTIONS] NAME..."
)]
pub(crate) struct Run {
    /// Clusters to follow
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,

    /// Make the follower first, with the configuration at this address, unless there is one
    #[arg(long, value_name = "CONFIG-URL")]
    pub(crate) init: Option<String>,

    /// The gateway to IPFS
    #[arg(long, value_name = "URL", env = "IPFS_GATEWAY", default_value = DEFAULT_GATEWAY, hide_env_values = true)]
    pub(crate) gateway: String,
}

/// Stop following a cluster: remove its folder, and its pins if that is wanted
///
/// The follower must not be running. What another cluster that is followed here has pinned too stays pinned. The IPFS
/// daemon does not know who pinned what: something that you pinned yourself and that is in the cluster's pinset is unpinned
/// as well. An interrupted "leave" can be run again.
#[derive(Debug, Args)]
#[command(override_usage = "ipfs-cluster-follow NAME leave [--unpin | --keep-pins]")]
pub(crate) struct Leave {
    /// Remove its pins from the IPFS daemon
    #[arg(long, conflicts_with = "keep_pins")]
    pub(crate) unpin: bool,

    /// Leave its pins where they are
    #[arg(long)]
    pub(crate) keep_pins: bool,
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
