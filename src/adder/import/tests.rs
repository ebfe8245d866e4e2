use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::adder::DagBlock;
use crate::adder::content::InMemory;
use crate::types::{Added, PeerId};

/// Keeps what it gets.
#[derive(Debug, Default)]
struct Kept(Vec<DagBlock>);

#[async_trait]
impl BlockSink for Kept {
    async fn put(&mut self, block: DagBlock) -> Result<()> {
        self.0.push(block);
        Ok(())
    }

    fn allocations(&self) -> Vec<PeerId> {
        Vec::new()
    }
}

/// What an add gave.
#[derive(Debug)]
struct Gave {
    roots: Vec<Root>,
    lines: Vec<Added>,
    blocks: Vec<DagBlock>,
}

impl Gave {
    /// Names and CIDs of the lines that are not about progress.
    fn named(&self) -> Vec<(&str, String)> {
        let named = self.lines.iter().filter_map(|line| Some((&*line.name, line.cid?.to_string())));
        named.collect()
    }
}

async fn add(mut content: impl Content, options: AddOptions) -> Result<Gave> {
    let (lines, mut told) = Lines::new(4);
    let listening = tokio::spawn(async move {
        let mut lines = Vec::new();
        while let Some(line) = told.recv().await {
            lines.push(line);
        }
        lines
    });
    let mut sink = Kept::default();
    let roots = import(&mut content, &options, &mut sink, &lines).await?;
    drop(lines);
    Ok(Gave { roots, lines: listening.await.unwrap(), blocks: sink.0 })
}

fn file(name: &str, data: impl Into<Bytes>) -> InMemory {
    InMemory::new().file(name, data)
}

fn v1() -> AddOptions {
    AddOptions { cid_version: 1, ..AddOptions::default() }
}

#[tokio::test]
async fn one_file_gives_the_references_line() {
    let gave = add(file("a.txt", "hello add\n"), AddOptions::default()).await.unwrap();
    assert_eq!(gave.named(), [("a.txt", "QmYChSi44HAAriUxj6boo2SUH83VXNBjbjGpPs92tuShjN".to_owned())]);
    assert_eq!(gave.lines[0].size, 18);
    assert_eq!(gave.roots.len(), 1);
    assert_eq!(gave.roots[0].cid.to_string(), "QmYChSi44HAAriUxj6boo2SUH83VXNBjbjGpPs92tuShjN");
    assert_eq!((gave.roots[0].name.as_str(), gave.roots[0].dag_bytes), ("a.txt", 18));
    assert_eq!(gave.blocks.len(), 1);
}
