//! The crate-count rule: what an embedder gets who takes the library without features.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::cargo::{cargo, output};

const CRATES_MAX: usize = 110;
const FORBIDDEN: [&str; 4] = ["libp2p", "libp2p-swarm", "axum", "clap"];

/// An error when the library without features needs too many crates, or one that belongs to a feature or a program.
pub(crate) fn check() -> Result<()> {
    let args = ["tree", "-p", "ipfs-cluster", "--no-default-features", "-e", "normal", "--prefix", "none"];
    let tree = output(&mut cargo(args)?)?;
    let crates = crates(&tree);
    let count = crates.len();
    let complaints = complaints(&crates);
    if !complaints.is_empty() {
        bail!("the library without features {}", complaints.join("; it "));
    }
    eprintln!(
        "the library without features needs {count} crates (at most {CRATES_MAX}), none of {FORBIDDEN:?}"
    );
    Ok(())
}

/// The crates that `cargo tree --prefix none` names, each once: `name version`.
fn crates(tree: &str) -> BTreeSet<(&str, &str)> {
    // A line reads `name v1.2.3`, then perhaps `(proc-macro)`, a path, or `(*)` for "shown above".
    tree.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?, words.next()?))
        })
        .collect()
}

fn complaints(crates: &BTreeSet<(&str, &str)>) -> Vec<String> {
    let mut complaints = Vec::new();
    if crates.is_empty() {
        complaints.push("is not in the answer of `cargo tree`".to_owned());
    }
    if crates.len() > CRATES_MAX {
        complaints.push(format!(
            "needs {} crates, more than {CRATES_MAX}; put a new dependency behind a feature",
            crates.len()
        ));
    }
    for (name, version) in crates.iter().filter(|(name, _)| FORBIDDEN.contains(name)) {
        complaints.push(format!(
            "needs {name} {version}; `cargo tree -p ipfs-cluster --no-default-features -e normal -i {name}` shows why"
        ));
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_of_a_crate_counts_once() {
        let tree = "ipfs-cluster v0.1.0 (/somewhere)\nsyn v2.0.1\nsyn v3.0.0\nserde_derive v1.0.0 (proc-macro)\nsyn v2.0.1 (*)\n\n";
        assert_eq!(crates(tree).len(), 4);
        assert!(complaints(&crates(tree)).is_empty());
    }

    #[test]
    fn a_forbidden_crate_is_named_and_one_with_a_longer_name_is_not() {
        let tree = "libp2p-identity v0.3.0\nclap_lex v1.0.0\nlibp2p-swarm v0.48.0\n";
        let complaints = complaints(&crates(tree));
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert!(complaints[0].starts_with("needs libp2p-swarm v0.48.0;"), "{complaints:?}");
    }

    #[test]
    fn one_crate_above_the_limit_is_too_many() {
        let tree = |count: usize| (0..count).map(|i| format!("crate-{i} v1.0.0\n")).collect::<String>();
        assert!(complaints(&crates(&tree(CRATES_MAX))).is_empty());
        assert_eq!(complaints(&crates(&tree(CRATES_MAX + 1))).len(), 1);
    }

    #[test]
    fn an_empty_answer_is_not_a_pass() {
        assert_eq!(complaints(&crates("")).len(), 1);
    }
}
