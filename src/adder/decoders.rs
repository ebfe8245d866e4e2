//! Uploads, for `testing::decoders`: it says whether they can be read, and panics when what was read does not hold.

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, stream};

use super::multipart::{Keep, Multipart};
use super::{Content as _, Entry, EntryKind};
use crate::error::Result;
use crate::types::{Block, CarDecoder, CarItem, Cid, car_header, car_section_head};

/// The boundary of all samples, and of those that were recorded.
const BOUNDARY: &str = "vecboundary0123456789";
/// Sizes of the chunks that an upload comes in: what is read must not depend on it.
const CHUNKS: [usize; 3] = [usize::MAX, 1000, 7];

/// The body of a form.
pub(crate) fn forms(bytes: &[u8]) -> bool {
    let [whole, others @ ..] = CHUNKS.map(|chunk| form(bytes, chunk));
    for other in others {
        match (&whole, other) {
            (Ok(whole), Ok(other)) => assert!(*whole == other, "chunks made a difference"),
            (Err(whole), Err(other)) => assert_eq!(whole.message(), other.message()),
            (whole, other) => panic!("{whole:?} as a whole, {other:?} in chunks"),
        }
    }
    let Ok(entries) = whole else { return false };
    assert!(!entries.is_empty());
    for (entry, bytes) in &entries {
        let names = || entry.path.split('/');
        assert!(entry.path.is_empty() || names().all(|name| !matches!(name, "" | "." | "..")), "{entry:?}");
        assert!(!entry.path.contains('\0') && !entry.path.starts_with('/'), "{entry:?}");
        assert!(entry.kind == EntryKind::File || (bytes.is_empty() && !entry.path.is_empty()), "{entry:?}");
    }
    true
}

fn form(bytes: &[u8], chunk: usize) -> Result<Vec<(Entry, Vec<u8>)>> {
    let chunks: Vec<_> =
        bytes.chunks(chunk.min(bytes.len()).max(1)).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    let mut content =
        Multipart::new(BOUNDARY, stream::iter(chunks).boxed()).keep(Keep { mode: true, modified: true });
    let read = async {
        let mut entries = Vec::new();
        while let Some(entry) = content.next().await? {
            let mut bytes = Vec::new();
            while let Some(more) = content.read().await? {
                assert!(!more.is_empty());
                bytes.extend_from_slice(&more);
            }
            entries.push((entry, bytes));
        }
        Ok(entries)
    };
    read.now_or_never().unwrap_or_else(|| panic!("it waits for what is there"))
}

/// Forms of clients.
pub(crate) fn form_samples() -> Vec<Vec<u8>> {
    let vectors: serde_json::Value = serde_json::from_str(include_str!("../../tests/data/rest-vectors.json"))
        .unwrap_or_else(|error| panic!("REST vectors: {error}"));
    let bodies =
        vectors["vectors"].as_array().into_iter().flatten().filter_map(|one| one["request"]["body"].as_str());
    let mut samples: Vec<_> = bodies
        .filter(|body| body.starts_with("--vecboundary") && body.ends_with("--\r\n"))
        .map(|body| body.as_bytes().to_vec())
        .collect();
    samples.sort();
    samples.dedup();
    assert!(samples.len() > 15, "no vectors");
    let of_kubo = format!(
        "--{BOUNDARY}\r\nAbspath-Encoded: %2Fhome%2Fa%2Fd\r\nContent-Disposition: form-data; \
         name=\"file?mode=020000000755&mtime=1700000000&mtime-nsecs=5\"; filename=\"d\"\r\nContent-Type: \
         application/x-directory\r\n\r\n\r\n--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; \
         filename=\"d%2Fl\"\r\nContent-Type: application/symlink\r\n\r\n../x\r\n--{BOUNDARY}\r\nContent-Disposition: \
         attachment; filename=\"d%2Fa+b\"\r\n\r\n{}\r\n--{BOUNDARY}--\r\n",
        "some bytes\r\n--vecbound".repeat(20),
    );
    samples.push(of_kubo.into_bytes());
    samples
}

/// A CAR.
pub(crate) fn cars(bytes: &[u8]) -> bool {
    let [whole, others @ ..] = CHUNKS.map(|chunk| car(bytes, chunk));
    for other in others {
        assert_eq!(whole.as_ref().ok(), other.as_ref().ok(), "chunks made a difference");
    }
    let Ok(items) = whole else { return false };
    let written: Vec<u8> = items
        .iter()
        .flat_map(|item| match item {
            CarItem::Header(roots) => car_header(roots),
            CarItem::Block(cid, data) => [&car_section_head(cid, data.len())[..], &data[..]].concat(),
        })
        .collect();
    // The keys of a header may come in another order than the one that we write.
    assert_eq!(car(&written, usize::MAX).ok().as_ref(), Some(&items));
    assert_eq!(written.len(), bytes.len());
    true
}

fn car(bytes: &[u8], chunk: usize) -> Result<Vec<CarItem>> {
    let mut decoder = CarDecoder::new();
    let mut items = Vec::new();
    for chunk in bytes.chunks(chunk.min(bytes.len()).max(1)) {
        decoder.push(Bytes::copy_from_slice(chunk));
        while let Some(item) = decoder.next_item()? {
            items.push(item);
        }
    }
    decoder.finish()?;
    Ok(items)
}

/// CARs of some blocks.
pub(crate) fn car_samples() -> Vec<Vec<u8>> {
    let raw = |text: &'static str| Block::raw(text);
    let car = |roots: &[Cid], blocks: &[Block]| {
        let sections = blocks.iter().flat_map(|block| {
            [&car_section_head(&block.cid, block.data.len())[..], &block.data[..]].concat()
        });
        car_header(roots).into_iter().chain(sections).collect::<Vec<_>>()
    };
    let (root, blocks) = crate::ipfs_connector::sample_file_with_chunks("some bytes of a file", 7);
    let long = Block::raw("long ".repeat(100));
    vec![
        car(&[root], &blocks),
        car(&[root], &[]),
        car(&[], &[raw("one"), raw("")]),
        car(&[root, raw("two").cid], &[raw("two"), long]),
    ]
}
