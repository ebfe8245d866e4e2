//! Messages to read again and to break.

use bytes::Bytes;

use super::super::absorb::PinRecord;
use super::super::delta::HEIGHT_MAX;
use super::super::key::{self, Digest};
use super::super::ledger::{Branch, Head};
use super::message::{Chunk, Message, RecordWriter, Table, Wanted, Welcome};

pub(in super::super) fn block(number: u8) -> Digest {
    [number; 32]
}

pub(in super::super) fn record(number: u8) -> PinRecord {
    PinRecord {
        pin: key::block_cid(&block(number)),
        elements: vec![(block(1), 7, Bytes::from_static(b"value")), (block(number), 9, Bytes::new())],
        tombstones: vec![block(2), block(1)],
    }
}

pub(in super::super) fn messages() -> Vec<Message> {
    let head = |number| Head { cid: key::block_cid(&block(number)), height: 1 + u64::from(number) };
    let cid = |number| key::block_cid(&block(number));
    let mut writer = RecordWriter::default();
    for number in 0..9 {
        // So few fit into one message.
        writer.put(&record(number));
    }
    let records = writer.take().unwrap_or(Message::Done);
    vec![
        Message::Hello(vec![block(1), block(2)]),
        Message::Welcome(Welcome {
            heads: vec![head(1), head(2)],
            merged: vec![true, false],
            is_whole: true,
            walks: vec![Branch { tip: head(3), open: vec![cid(4), cid(5)], met: vec![cid(6)] }],
            pins: 1_000_000,
        }),
        Message::Compare {
            table: Table::Pins,
            after: Bytes::new(),
            chunks: vec![
                Chunk { to: Bytes::from_static(b"key"), count: 3, sum: u64::MAX },
                Chunk { to: Bytes::new(), count: 0, sum: 0 },
            ],
        },
        Message::Differing(vec![0, 300]),
        Message::Want {
            table: Table::Blocks,
            ranges: vec![Wanted {
                after: Bytes::from_static(b"a"),
                to: Bytes::from_static(b"b"),
                hashes: vec![1, u64::MAX],
            }],
        },
        records,
        Message::Merged(vec![(block(7), 300), (block(8), HEIGHT_MAX)]),
        Message::Fetch(vec![block(1)]),
        Message::Block(block(1), Bytes::from_static(b"block")),
        Message::Block(block(1), Bytes::new()),
        Message::Done,
        Message::Busy,
        Message::Expired,
    ]
}
