//! Our programs and the reference's.

use std::path::{Path, PathBuf};

/// Whose program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Go,
    Ours,
}

impl Kind {
    /// The `ipfs-cluster-service`; the reference's programs are in the folder `go`.
    pub(crate) fn service(self, go: &Path) -> PathBuf {
        match self {
            Self::Go => go.join("ipfs-cluster-service"),
            Self::Ours => env!("CARGO_BIN_EXE_ipfs-cluster-service").into(),
        }
    }

    /// The `ipfs-cluster-ctl`.
    pub(crate) fn ctl(self, go: &Path) -> PathBuf {
        match self {
            Self::Go => go.join("ipfs-cluster-ctl"),
            Self::Ours => env!("CARGO_BIN_EXE_ipfs-cluster-ctl").into(),
        }
    }
}
