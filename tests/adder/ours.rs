//! Our importer into a sink that keeps nothing.

use std::path::Path;

use async_trait::async_trait;
use ipfs_cluster::Result;
use ipfs_cluster::adder::content::Files;
use ipfs_cluster::adder::{BlockSink, DagBlock, Lines, Root, import};
use ipfs_cluster::types::{AddOptions, PeerId};

use crate::kubo::{Kubo, by_name};

/// How something is added.
#[derive(Clone, Debug, Default)]
pub(crate) struct Case {
    pub(crate) options: AddOptions,
    pub(crate) hidden: bool,
    pub(crate) keep_mode: bool,
    pub(crate) keep_modified: bool,
}

struct Dropped;

#[async_trait]
impl BlockSink for Dropped {
    async fn put(&mut self, _: DagBlock) -> Result<()> {
        Ok(())
    }

    fn allocations(&self) -> Vec<PeerId> {
        Vec::new()
    }
}

/// Names and CIDs in the order of the lines, and the roots.
async fn add(case: &Case, paths: &[&Path]) -> Result<(Vec<(String, String)>, Vec<Root>)> {
    let mut content = Files::new(paths.iter().copied())
        .hidden(case.hidden)
        .keep_mode(case.keep_mode)
        .keep_modified(case.keep_modified);
    let (lines, mut told) = Lines::new(16);
    let listening = tokio::spawn(async move {
        let mut named = Vec::new();
        while let Some(line) = told.recv().await {
            named.push((line.name, line.cid.unwrap().to_string()));
        }
        named
    });
    let roots = import(&mut content, &case.options, &mut Dropped, &lines).await?;
    drop(lines);
    Ok((listening.await.unwrap(), roots))
}

/// Whether it can be added at all.
pub(crate) async fn try_add(case: &Case, path: &Path) -> Option<Vec<Root>> {
    add(case, &[path]).await.ok().map(|(_, roots)| roots)
}

/// Adds with both, and says how many lines were equal.
pub(crate) async fn compare(kubo: &Kubo, case: &Case, paths: &[&Path]) -> usize {
    let (ours, roots) = add(case, paths).await.unwrap();
    let kubos = kubo.add(case, paths);
    let (mine, theirs) = (by_name(&ours), by_name(&kubos));
    for (name, cid) in &theirs {
        assert_eq!(mine.get(name), Some(cid), "{name:?} with {case:?}");
    }
    assert_eq!(mine.len(), theirs.len(), "{case:?}");
    // Kubo sorts what is at the top.
    if paths.len() == 1 {
        assert_eq!(ours.last(), kubos.last(), "the last line with {case:?}");
    }
    let named: Vec<_> = roots.iter().map(|root| (root.name.as_str(), root.cid.to_string())).collect();
    assert_eq!(named.len(), if case.options.wrap { 1 } else { paths.len() });
    for (name, cid) in named {
        assert_eq!(theirs.get(name), Some(&cid.as_str()));
    }
    theirs.len()
}
