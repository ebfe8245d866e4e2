//! What the exchange of streams reads of other peers, for `testing::decoders`: says whether the bytes were read, and
//! panics when what was read does not hold.

use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use tokio::io::AsyncReadExt as _;

use super::frame::{Frame, FrameReader};
use crate::types::Block;

fn read_all(first: &[u8], second: &[u8]) -> (Vec<Frame>, bool) {
    let mut reader = FrameReader::new(first.chain(second));
    let mut frames = Vec::new();
    loop {
        match reader.next().now_or_never() {
            Some(Ok(Some(frame))) => frames.push(frame),
            Some(end) => return (frames, end.is_ok()),
            None => panic!("bytes that are there were waited for"),
        }
    }
}

fn written(frames: &[Frame]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    frames.iter().for_each(|frame| frame.write(&mut bytes));
    bytes.to_vec()
}

/// Frames on a stream.
pub(crate) fn frames(bytes: &[u8]) -> bool {
    let (frames, all) = read_all(bytes, &[]);
    let (again, whole) = read_all(&written(&frames), &[]);
    assert!(whole && again == frames, "written and read again");
    let (first, second) = bytes.split_at(bytes.len() / 2);
    assert_eq!(read_all(first, second), (frames, all), "in two pieces");
    all
}

/// A stream of every kind, and one of a block alone.
pub(crate) fn frame_samples() -> Vec<Vec<u8>> {
    let cid = Block::raw("x").cid;
    let frames = [
        Frame::WantHave(cid),
        Frame::WantBlock(cid),
        Frame::Cancel(cid),
        Frame::Have(cid),
        Frame::HaveNot(cid),
        Frame::Block(cid, Bytes::from_static(b"x")),
        Frame::Block(cid, Bytes::new()),
    ];
    frames.chunks(1).map(written).chain([written(&frames)]).collect()
}
