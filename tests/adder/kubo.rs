//! `ipfs add` that only hashes, in a repository of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ipfs_cluster::types::AddLayout;
use tempfile::TempDir;

use crate::ours::Case;

/// Where `cargo xtask test` says that Kubo is.
const VARIABLE: &str = "IPFS_CLUSTER_TEST_KUBO";

pub(crate) struct Kubo {
    program: PathBuf,
    repository: TempDir,
}

impl Kubo {
    /// A fresh repository, or none after saying so.
    pub(crate) fn find() -> Option<Self> {
        let Some(program) = std::env::var_os(VARIABLE).map(PathBuf::from) else {
            println!("skipped: no Kubo (run `cargo xtask kubo`, or all tests with `cargo xtask test`)");
            return None;
        };
        let kubo = Self { program, repository: TempDir::new().unwrap() };
        kubo.run(&["init", "--profile=test", "--empty-repo"]);
        Some(kubo)
    }

    fn output(&self, arguments: &[&str]) -> Output {
        Command::new(&self.program)
            .args(arguments)
            .env("IPFS_PATH", self.repository.path())
            .env("IPFS_TELEMETRY", "off")
            .output()
            .unwrap()
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "ipfs {arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Whether it hashes a file with this function.
    pub(crate) fn takes(&self, case: &Case, path: &Path) -> bool {
        let hash = format!("--hash={}", case.options.hash);
        let arguments = ["add", "--offline", "--only-hash", "--cid-version=1", &hash, path.to_str().unwrap()];
        self.output(&arguments).status.success()
    }

    /// What it says that everything becomes, and the roots' CIDs in their order.
    pub(crate) fn add(&self, case: &Case, paths: &[&Path]) -> Vec<(String, String)> {
        let options = &case.options;
        let mut arguments: Vec<String> =
            ["add", "--offline", "--progress=false", "--pin=false", "-r"].map(str::to_owned).into();
        // Kubo cannot only hash a directory with attributes: it looks for blocks that it did not store.
        arguments.push(format!("--only-hash={}", !case.keep_mode && !case.keep_modified));
        arguments.push(format!("--chunker={}", options.chunker));
        arguments.push(format!("--cid-version={}", options.cid_version));
        arguments.push(format!("--hash={}", options.hash));
        arguments.push(format!("--trickle={}", options.layout == AddLayout::Trickle));
        arguments.push(format!("--wrap-with-directory={}", options.wrap));
        arguments.push(format!("--hidden={}", case.hidden));
        arguments.push(format!("--preserve-mode={}", case.keep_mode));
        arguments.push(format!("--preserve-mtime={}", case.keep_modified));
        arguments.extend(options.raw_leaves.map(|yes| format!("--raw-leaves={yes}")));
        arguments.push("--".to_owned());
        arguments.extend(paths.iter().map(|path| path.to_str().unwrap().to_owned()));
        let output = self.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let lines = output.lines().map(|line| {
            let added = line.strip_prefix("added ").unwrap_or_else(|| panic!("not a line: {line:?}"));
            let (cid, name) = added.split_once(' ').unwrap_or((added, ""));
            (name.to_owned(), cid.to_owned())
        });
        lines.collect()
    }
}

/// By name, so that order does not matter.
pub(crate) fn by_name(lines: &[(String, String)]) -> BTreeMap<&str, &str> {
    lines.iter().map(|(name, cid)| (name.as_str(), cid.as_str())).collect()
}
