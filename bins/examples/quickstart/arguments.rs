//! What the quickstart is asked for.

use anyhow::{Context as _, Result, bail};

pub(crate) const SERVE_DEFAULT: &str = "/ip4/127.0.0.1/tcp/9094";
const USAGE: &str = "usage: cargo run --release --example quickstart -- [--consensus crdt|raft|etcd|solo] [--etcd URL] \
                     [--serve [MULTIADDRESS]]";

/// How the peers agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Crdt,
    Raft,
    Etcd,
    Solo,
}

impl Name {
    /// When a write is done.
    pub(crate) const fn done(self) -> &'static str {
        match self {
            Self::Crdt => "this peer has it on its disk; the others hear of it",
            Self::Raft => "more than half of the peers have it on their disks",
            Self::Etcd => "etcd has it on its disks; every peer copies it",
            Self::Solo => "it is on disk",
        }
    }

    /// The arguments for the same again, and those of `init`.
    pub(crate) const fn flag(self) -> &'static str {
        match self {
            Self::Crdt => "",
            Self::Raft => " --consensus raft",
            Self::Etcd => " --consensus etcd",
            Self::Solo => " --consensus solo",
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) consensus: Name,
    /// The etcd to use; without one it is started.
    pub(crate) etcd: Option<String>,
    /// Where the REST API is, if anywhere.
    pub(crate) serve: Option<String>,
}

impl Arguments {
    /// None when it was asked how to ask.
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut parsed = Self { consensus: Name::Crdt, etcd: None, serve: None };
        let mut arguments = arguments.peekable();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next_if(|next| !next.starts_with('-'));
            match argument.as_str() {
                "-h" | "--help" => {
                    println!("{USAGE}");
                    return Ok(None);
                }
                "--serve" => parsed.serve = Some(value().unwrap_or_else(|| SERVE_DEFAULT.to_owned())),
                "--consensus" => {
                    parsed.consensus = match value().as_deref() {
                        Some("crdt") => Name::Crdt,
                        Some("raft") => Name::Raft,
                        Some("etcd") => Name::Etcd,
                        Some("solo") => Name::Solo,
                        other => bail!(
                            "--consensus {}: it is one of crdt, raft, etcd and solo\n{USAGE}",
                            other.unwrap_or("says nothing")
                        ),
                    }
                }
                "--etcd" => {
                    let address = value().with_context(|| {
                        format!("--etcd needs an address, such as http://127.0.0.1:2379\n{USAGE}")
                    })?;
                    parsed.etcd = Some(address);
                    parsed.consensus = Name::Etcd;
                }
                other => bail!("unknown argument {other:?}\n{USAGE}"),
            }
        }
        Ok(Some(parsed))
    }
}
