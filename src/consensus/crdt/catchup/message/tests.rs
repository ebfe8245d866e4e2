use super::super::samples::{block, messages, record};
use super::*;
use crate::consensus::crdt::absorb::PinRecord;

#[test]
fn messages_are_read_as_they_were_written() {
    for message in messages() {
        assert_eq!(Message::decode(&message.encode().into()).unwrap(), message);
        let longer = [message.encode(), vec![0]].concat();
        assert_ne!(Message::decode(&longer.into()).ok(), Some(message));
    }
}

#[test]
fn records_are_read_as_they_were_written_however_many_blocks_they_name() {
    let (mut writer, mut reader) = (RecordWriter::default(), RecordReader::default());
    let records = (0..NAMES_MAX as u64 + 3_000).map(|number| {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&(number / 2).to_be_bytes());
        let other = std::array::from_fn(|place| digest[31 - place]);
        PinRecord { elements: vec![(digest, 1, Bytes::new())], tombstones: vec![other], ..record(0) }
    });
    let (mut written, mut read) = (Vec::new(), Vec::new());
    for record in records {
        if let Some(Message::Records(message)) = writer.put(&record) {
            read.extend(reader.read(&message).unwrap());
        }
        written.push(record);
    }
    let Some(Message::Records(message)) = writer.take() else { panic!("the rest") };
    read.extend(reader.read(&message).unwrap());
    assert!(written == read);
}

#[test]
fn lying_counts_take_no_memory() {
    let mut lie = vec![1];
    put_varint(&mut lie, u64::MAX);
    assert!(Message::decode(&lie.into()).is_err());
    let mut many = vec![8];
    put_digests(&mut many, &vec![block(0); BLOCKS_MAX + 1]);
    assert!(Message::decode(&many.into()).is_err());
}
