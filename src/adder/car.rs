//! CARs: content that is a DAG already.

use bytes::Bytes;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::{BlockSink, Content, DagBlock, EntryKind, Lines, Root};
use crate::error::{Error, ErrorKind, Result};
use crate::ipfs_connector::dag::{self, CODEC_DAG_PB, HASH_IDENTITY};
use crate::types::{AddOptions, Added, Block, CarDecoder, CarDigest, CarItem, Cid, cid};

/// Takes the blocks of one CARv1 with one root as they are, and verifies each. The root need not be among them.
///
/// Blocks come in the order of the file, which is most often parents first; what a [`DagBlock`] says of the bytes below it
/// is what its links say.
///
/// # Errors
/// `InvalidInput` for what is no such CAR, or more than that; `Corrupt` for a block that is not what its CID says;
/// `Unsupported` for codecs and hash functions that are not known here; those of content and sink.
pub(crate) async fn import_car(
    content: &mut dyn Content,
    options: &AddOptions,
    sink: &mut dyn BlockSink,
    lines: &Lines,
) -> Result<Vec<Root>> {
    import_rest_of_car(content, options, sink, lines, &mut Car::default()).await
}

/// As [`import_car`], of a CAR whose beginning is known already: the content begins where that ended. When the import ends early,
/// `car` knows how far it came.
pub(crate) async fn import_rest_of_car(
    content: &mut dyn Content,
    options: &AddOptions,
    sink: &mut dyn BlockSink,
    lines: &Lines,
    car: &mut Car,
) -> Result<Vec<Root>> {
    if options.wrap {
        return Err(invalid("cannot wrap a CAR file upload"));
    }
    let entry =
        content.next().await?.ok_or_else(|| invalid("there is nothing in the upload; send one CAR file"))?;
    if entry.kind != EntryKind::File {
        return Err(invalid("expected CAR file is not of type file"));
    }
    while let Some(bytes) = content.read().await? {
        car.decoder.push(bytes);
        while let Some(item) = car.decoder.next_item()? {
            if let Some(block) = car.take(item)? {
                sink.put(block).await?;
            }
            car.note_place();
        }
    }
    car.decoder.finish()?;
    if content.next().await?.is_some() {
        return Err(invalid("only one CAR file can be added at a time"));
    }
    let CarPlace { root, root_dag_bytes, root_file_bytes, bytes, .. } = car.seen;
    let root = root.ok_or_else(|| invalid("unexpected EOF"))?;
    let root = Root { name: entry.path, cid: root, dag_bytes: root_dag_bytes.unwrap_or(bytes) };
    lines
        .tell(Added {
            name: root.name.clone(),
            cid: Some(root.cid),
            bytes,
            size: root_file_bytes,
            allocations: sink.allocations(),
        })
        .await;
    Ok(vec![root])
}

/// What is known of a CAR up to a place behind one of its items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CarPlace {
    /// Where, in bytes from the beginning.
    pub(crate) offset: u64,
    #[serde(with = "cid::option_text")]
    pub(crate) root: Option<Cid>,
    pub(crate) blocks: u64,
    /// Of all blocks.
    pub(crate) bytes: u64,
    /// What the root says of the bytes below it, once it came.
    pub(crate) root_dag_bytes: Option<u64>,
    pub(crate) root_file_bytes: u64,
    /// Only where somebody wants to know.
    pub(crate) digest: Option<CarDigest>,
}

/// A CAR that is being read.
#[derive(Debug, Default)]
pub(crate) struct Car {
    decoder: CarDecoder,
    /// Up to the item that was read last.
    seen: CarPlace,
    /// Up to the item that the sink took last; None where nobody wants to know.
    taken: Option<CarPlace>,
}

impl Car {
    /// One that can go on later from where its import ended.
    pub(crate) fn from_place(place: CarPlace) -> Self {
        Self { decoder: CarDecoder::behind(place.offset), seen: place, taken: Some(place) }
    }

    /// Behind the last item that the sink took.
    pub(crate) fn taken(&self) -> Option<CarPlace> {
        self.taken
    }

    fn note_place(&mut self) {
        if let Some(taken) = &mut self.taken {
            *taken = self.seen;
        }
    }

    /// Counts an item.
    fn see(&mut self, item: &CarItem) {
        let place = &mut self.seen;
        place.offset = self.decoder.position();
        if self.taken.is_some() {
            place.digest = match item {
                CarItem::Header(roots) => Some(CarDigest::of_header(roots, place.offset)),
                CarItem::Block(cid, _) => place.digest.map(|before| before.then(cid, place.offset)),
            };
        }
        if let CarItem::Block(_, data) = item {
            place.blocks += 1;
            place.bytes += data.len() as u64;
        }
    }

    /// The block of an item, verified; none when there is nothing to store.
    fn take(&mut self, item: CarItem) -> Result<Option<DagBlock>> {
        self.see(&item);
        let (cid, data) = match item {
            CarItem::Block(cid, data) => (cid, data),
            CarItem::Header(roots) => {
                let [root] = roots[..] else {
                    return Err(invalid("only CAR files with a single root are supported"));
                };
                self.seen.root = Some(root);
                return Ok(None);
            }
        };
        let is_inline = cid.hash().code() == HASH_IDENTITY;
        let block = match is_inline {
            true if cid.hash().digest() == &data[..] => Block { cid, data },
            true => {
                let text = format!("these {} bytes are not the block {cid}", data.len());
                return Err(Error::new(ErrorKind::Corrupt, text).component("car"));
            }
            false => Block::verified(cid, data)?,
        };
        // Also that it can be walked: else nobody could pin it.
        dag::links(&cid, &block.data)?;
        let (below, file_bytes) = match cid.codec() {
            CODEC_DAG_PB => Node::read(&block.data)?,
            _ => (0, 0),
        };
        let dag_bytes = below.saturating_add(block.data.len() as u64);
        if self.seen.root == Some(cid) {
            self.seen.root_dag_bytes = Some(dag_bytes);
            self.seen.root_file_bytes = file_bytes;
        }
        // Such a block is in its CID, and no daemon stores it.
        Ok((!is_inline).then_some(DagBlock { block, dag_bytes }))
    }
}

/// The sizes in a dag-pb node.
#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(bytes = "bytes", optional, tag = "1")]
    data: Option<Bytes>,
    #[prost(message, repeated, tag = "2")]
    links: Vec<Link>,
}

#[derive(Clone, PartialEq, Message)]
struct Link {
    #[prost(uint64, tag = "3")]
    dag_bytes: u64,
}

/// The head of what UnixFS puts in a node.
#[derive(Clone, PartialEq, Message)]
struct UnixFs {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(bytes = "bytes", tag = "2")]
    data: Bytes,
    #[prost(uint64, tag = "3")]
    file_bytes: u64,
}

impl Node {
    /// The bytes of all blocks below a node, as it says, and those of the file that it is; 0 for what is none.
    fn read(bytes: &Bytes) -> Result<(u64, u64)> {
        const SYMLINK: i32 = 4;
        let node = Self::decode(bytes.clone()).map_err(|source| {
            Error::new(ErrorKind::Corrupt, "a block of the car is not valid dag-pb").with_source(source)
        })?;
        let below = node.links.iter().fold(0u64, |sum, link| sum.saturating_add(link.dag_bytes));
        let file_bytes = match node.data.map(UnixFs::decode) {
            Some(Ok(file)) if file.kind == SYMLINK => file.data.len() as u64,
            Some(Ok(file)) => file.file_bytes,
            // Other things than files may be in a node.
            Some(Err(_)) | None => 0,
        };
        Ok((below, file_bytes))
    }
}

fn invalid(text: impl Into<String>) -> Error {
    Error::invalid_input(text).component("car")
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use async_trait::async_trait;

    use super::*;
    use crate::adder::Entry;
    use crate::ipfs_connector::sample_file_with_chunks;
    use crate::types::{PeerId, car_header, car_section_head};

    #[derive(Debug)]
    struct Files(VecDeque<(Entry, Vec<Bytes>)>, VecDeque<Bytes>);

    #[async_trait]
    impl Content for Files {
        async fn next(&mut self) -> Result<Option<Entry>> {
            let Some((entry, bytes)) = self.0.pop_front() else { return Ok(None) };
            self.1 = bytes.into();
            Ok(Some(entry))
        }

        async fn read(&mut self) -> Result<Option<Bytes>> {
            Ok(self.1.pop_front())
        }
    }

    #[derive(Debug, Default)]
    struct Store(Vec<DagBlock>);

    #[async_trait]
    impl BlockSink for Store {
        async fn put(&mut self, block: DagBlock) -> Result<()> {
            self.0.push(block);
            Ok(())
        }

        fn allocations(&self) -> Vec<PeerId> {
            Vec::new()
        }
    }

    fn car(roots: &[Cid], blocks: &[Block]) -> Vec<u8> {
        let mut car = car_header(roots);
        for block in blocks {
            car.extend(car_section_head(&block.cid, block.data.len()));
            car.extend_from_slice(&block.data);
        }
        car
    }

    async fn import(
        files: &[(&str, &[u8])],
        options: &AddOptions,
    ) -> Result<(Vec<Root>, Vec<DagBlock>, Vec<Added>)> {
        let files = files.iter().map(|(name, bytes)| {
            let entry = Entry { path: (*name).to_owned(), ..Entry::default() };
            (entry, bytes.chunks(100).map(Bytes::copy_from_slice).collect())
        });
        let mut content = Files(files.collect(), VecDeque::new());
        let mut store = Store::default();
        let (lines, mut told) = Lines::new(10);
        let roots = import_car(&mut content, options, &mut store, &lines).await?;
        drop(lines);
        let mut lines = Vec::new();
        while let Some(line) = told.recv().await {
            lines.push(line);
        }
        Ok((roots, store.0, lines))
    }

    async fn refused(car: &[u8]) -> String {
        import(&[("x.car", car)], &AddOptions::default()).await.unwrap_err().message().to_owned()
    }

    #[tokio::test]
    async fn the_blocks_of_a_car_are_taken_and_a_file_tells_its_size() {
        let (root, blocks) = sample_file_with_chunks("hello world", 6);
        let bytes: u64 = blocks.iter().map(|block| block.data.len() as u64).sum();
        let (roots, stored, lines) =
            import(&[("a.car", &car(&[root], &blocks))], &AddOptions::default()).await.unwrap();
        assert_eq!(roots, [Root { name: "a.car".to_owned(), cid: root, dag_bytes: bytes }]);
        assert_eq!(stored.iter().map(|block| block.block.clone()).collect::<Vec<_>>(), blocks);
        assert_eq!(stored.last().unwrap().dag_bytes, bytes);
        let line =
            Added { name: "a.car".to_owned(), cid: Some(root), bytes, size: 11, allocations: Vec::new() };
        assert_eq!(lines, [line]);
    }

    #[tokio::test]
    async fn the_root_may_be_elsewhere_and_blocks_in_cids_are_not_stored() {
        let elsewhere = Block::raw("elsewhere").cid;
        let inline = Cid::new_v1(0x55, multihash_codetable::Multihash::wrap(HASH_IDENTITY, b"tiny").unwrap());
        let inline = Block { cid: inline, data: Bytes::from_static(b"tiny") };
        let file = car(&[elsewhere], &[inline.clone(), Block::raw("here")]);
        let (roots, stored, lines) = import(&[("", &file)], &AddOptions::default()).await.unwrap();
        assert_eq!((roots[0].cid, roots[0].dag_bytes, stored.len()), (elsewhere, 8, 1));
        assert_eq!((lines[0].bytes, lines[0].size), (8, 0));
        let lie = Block { data: Bytes::from_static(b"tinz"), ..inline };
        assert!(refused(&car(&[elsewhere], &[lie])).await.contains("these 4 bytes are not the block"));
    }

    #[tokio::test]
    async fn what_is_no_car_with_one_root_is_refused_in_the_references_words() {
        let (root, blocks) = sample_file_with_chunks("hello world", 6);
        let whole = car(&[root], &blocks);
        assert_eq!(refused(&whole[..whole.len() - 1]).await, "unexpected EOF");
        assert_eq!(refused(b"").await, "unexpected EOF");
        assert_eq!(refused(b"not a car").await, "unexpected EOF");
        for roots in [&[][..], &[root, root]] {
            assert_eq!(
                refused(&car(roots, &blocks)).await,
                "only CAR files with a single root are supported"
            );
        }
        let mut wrong = whole.clone();
        *wrong.last_mut().unwrap() ^= 1;
        assert!(refused(&wrong).await.contains("are not the block"));
        let json = multihash_codetable::MultihashDigest::digest(&multihash_codetable::Code::Sha2_256, b"{}");
        let json = Block { cid: Cid::new_v1(0x0129, json), data: Bytes::from_static(b"{}") };
        assert!(refused(&car(&[root], &[json])).await.contains("unknown codec 0x129"));
        let no_node =
            multihash_codetable::MultihashDigest::digest(&multihash_codetable::Code::Sha2_256, b"<html>");
        let no_node = Block { cid: Cid::new_v1(CODEC_DAG_PB, no_node), data: Bytes::from_static(b"<html>") };
        assert!(refused(&car(&[root], &[no_node])).await.contains("is not valid dag-pb"));

        let wrap = AddOptions { wrap: true, ..AddOptions::default() };
        let error = import(&[("a.car", &whole)], &wrap).await.unwrap_err();
        assert_eq!(error.message(), "cannot wrap a CAR file upload");
        let two = import(&[("a.car", &whole), ("b.car", &whole)], &AddOptions::default()).await.unwrap_err();
        assert_eq!(two.message(), "only one CAR file can be added at a time");
    }
}
