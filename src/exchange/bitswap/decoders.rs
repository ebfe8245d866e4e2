//! What bitswap reads of other peers, for `testing::decoders`: each says whether the bytes were read, and panics when
//! what was read does not hold.

use std::io;

use bytes::{Bytes, BytesMut};
use prost::encoding::decode_varint;
use tokio::sync::Semaphore;

use super::message::{Dialect, Entry, EntryKind, Message, MessageReader, Payload};
use crate::types::Block;

fn written(message: &Message) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    message.write(Dialect::Presences, &mut bytes);
    bytes.to_vec()
}

/// What was read says the same when it is written and read again.
fn check(message: Message) {
    // A negative number of bytes to come is not written.
    let expected = Message { pending_bytes: message.pending_bytes.max(0), ..message };
    for payload in &expected.blocks {
        if let Some(block) = payload.clone().block() {
            assert_eq!(Payload::of(&block), *payload);
        }
    }
    let mut written = Bytes::from(written(&expected));
    let length = decode_varint(&mut written).ok();
    assert_eq!(length, Some(written.len() as u64));
    assert_eq!(Message::parse(written).ok(), Some(expected));
}

/// Messages on a stream, each with its length before it.
pub(crate) fn streams(bytes: &[u8]) -> bool {
    let read = async {
        let room = Semaphore::new(1);
        let mut reader = MessageReader::new(bytes, &room);
        while let Some(message) = reader.next().await? {
            check(message);
        }
        Ok(())
    };
    // The reader has a clock for messages that do not go on.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let read: io::Result<()> = runtime.and_then(|runtime| runtime.block_on(read));
    read.is_ok()
}

/// One message, without its length.
pub(crate) fn messages(bytes: &[u8]) -> bool {
    let Ok(message) = Message::parse(Bytes::copy_from_slice(bytes)) else { return false };
    check(message);
    true
}

/// A stream of one message of everything.
pub(crate) fn stream_samples() -> Vec<Vec<u8>> {
    let block = Block::raw("block");
    let cid = block.cid;
    let entry = |priority, kind| Entry { cid, priority, kind };
    let message = Message {
        full: true,
        entries: vec![
            entry(1, EntryKind::Have { send_dont_have: true }),
            entry(-1, EntryKind::Block { send_dont_have: false }),
            entry(0, EntryKind::Cancel),
        ],
        blocks: vec![Payload::of(&block), Payload::of(&Block::raw(Bytes::new()))],
        presences: vec![(cid, true), (cid, false)],
        pending_bytes: 77,
    };
    vec![written(&message), written(&Message::default())]
}
