use super::*;
use crate::types::parse_cid;

/// Name, bytes and what the reference decoded, of the vectors of bitswap.
fn vectors() -> Vec<(String, Vec<u8>, Vec<Cid>)> {
    let all: serde_json::Value =
        serde_json::from_str(include_str!("../../../../tests/data/wire-vectors.json")).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let read = |vector: &serde_json::Value| {
        let decoded = match &vector["decoded"] {
            serde_json::Value::Array(cids) => cids.iter().map(text).collect(),
            one => vec![text(one)],
        };
        let cids = decoded.iter().map(|cid| parse_cid(cid).unwrap()).collect();
        (text(&vector["name"]), hex::decode(text(&vector["hex"])).unwrap(), cids)
    };
    let ours = |vector: &&serde_json::Value| text(&vector["name"]).starts_with("bitswap/");
    all["vectors"].as_array().unwrap().iter().filter(ours).map(read).collect()
}

async fn read_all(bytes: &[u8]) -> io::Result<Vec<Message>> {
    let room = Semaphore::new(1);
    let mut reader = MessageReader::new(bytes, &room);
    let mut messages = Vec::new();
    while let Some(message) = reader.next().await? {
        messages.push(message);
    }
    Ok(messages)
}

fn written(message: &Message, dialect: Dialect) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    message.write(dialect, &mut bytes);
    bytes.to_vec()
}

#[tokio::test]
async fn messages_of_the_reference_are_read_and_written_byte_by_byte() {
    let mut visited = 0;
    for (name, bytes, cids) in vectors() {
        let message = read_all(&bytes).await.unwrap().pop().unwrap();
        let expected = |full, kinds: &[EntryKind]| {
            let priority = |kind: EntryKind| if kind == EntryKind::Cancel { 0 } else { i32::MAX };
            let entry =
                |(cid, kind): (&Cid, &EntryKind)| Entry { cid: *cid, priority: priority(*kind), kind: *kind };
            Message { full, entries: cids.iter().zip(kinds).map(entry).collect(), ..Message::default() }
        };
        match name.as_str() {
            "bitswap/want-block" => {
                assert_eq!(message, expected(true, &[EntryKind::Block { send_dont_have: true }]));
            }
            "bitswap/want-have+cancel" => {
                let kinds = [EntryKind::Have { send_dont_have: true }, EntryKind::Cancel];
                assert_eq!(message, expected(false, &kinds));
            }
            "bitswap/block+donthave" => {
                let block = message.blocks[0].clone().block().unwrap();
                assert_eq!(block.cid, cids[0]);
                assert_eq!(Payload::of(&block), message.blocks[0]);
                assert_eq!(message.blocks.len(), 1);
                let absent = "bafybeicym4ssznq6l6kqfkyje7wuzyg3uxmweh5og6ebenxcwzigt7o57q";
                assert_eq!(message.presences, [(parse_cid(absent).unwrap(), false)]);
            }
            other => panic!("nobody looks at the vector {other}"),
        }
        assert_eq!(hex::encode(written(&message, Dialect::Presences)), hex::encode(bytes), "{name}");
        visited += 1;
    }
    assert_eq!(visited, 3, "every vector of the group");
}

fn everything() -> Message {
    let block = Block::raw("block");
    let cid = block.cid;
    let entry = |priority, kind| Entry { cid, priority, kind };
    Message {
        full: true,
        entries: vec![
            entry(1, EntryKind::Have { send_dont_have: true }),
            entry(-1, EntryKind::Block { send_dont_have: false }),
            entry(0, EntryKind::Cancel),
        ],
        blocks: vec![
            Payload::of(&block),
            Payload::of(&Block::raw(Bytes::new())),
            Payload::of(&Block::raw(vec![7; 200_000])),
        ],
        presences: vec![(cid, true), (cid, false)],
        pending_bytes: 77,
    }
}

#[tokio::test]
async fn every_part_survives_the_way_in_pieces_of_any_size() {
    let mut bytes = written(&everything(), Dialect::Presences);
    bytes.extend(written(&Message::default(), Dialect::Presences));
    bytes.extend(written(&everything(), Dialect::Presences));
    for piece in [1, 7, 1_000, 100_000] {
        let (mut one, other) = tokio::io::duplex(piece);
        let bytes = bytes.clone();
        let sending = tokio::spawn(async move {
            tokio::io::AsyncWriteExt::write_all(&mut one, &bytes).await.unwrap();
        });
        let room = Semaphore::new(1);
        let mut reader = MessageReader::new(other, &room);
        for expected in [everything(), Message::default(), everything()] {
            assert_eq!(reader.next().await.unwrap(), Some(expected));
        }
        assert_eq!(reader.next().await.unwrap(), None);
        assert_eq!(room.available_permits(), 1);
        sending.await.unwrap();
    }
}

#[tokio::test]
async fn older_peers_get_what_they_understand() {
    let bare = read_all(&written(&everything(), Dialect::Bare)).await.unwrap().remove(0);
    assert_eq!((bare.blocks.len(), bare.presences.len(), bare.pending_bytes), (3, 0, 0));
    let block = bare.blocks[0].clone().block().unwrap();
    assert_eq!(block.cid, Cid::new_v0(*Block::raw("block").cid.hash()).unwrap());
    let prefixes = read_all(&written(&everything(), Dialect::Prefixes)).await.unwrap().remove(0);
    assert_eq!((prefixes.blocks, prefixes.presences.len()), (everything().blocks, 0));
}

#[tokio::test]
async fn what_is_no_message_is_an_error_and_a_claimed_length_takes_no_memory() {
    let framed = |body: &[u8]| {
        let mut bytes = BytesMut::new();
        encode_varint(body.len() as u64, &mut bytes);
        bytes.put_slice(body);
        bytes.to_vec()
    };
    let many = |item: &[u8]| framed(&item.repeat(ITEMS_MAX + 1));
    for (case, bytes, kind) in [
        ("a field beyond its message", framed(&[0x0a, 0x7f]), io::ErrorKind::InvalidData),
        ("an entry without a cid", framed(&[0x0a, 2, 0x0a, 0]), io::ErrorKind::InvalidData),
        ("a presence without a cid", framed(&[0x22, 0]), io::ErrorKind::InvalidData),
        ("a block without a prefix", framed(&[0x1a, 0]), io::ErrorKind::InvalidData),
        ("half a prefix", framed(&[0x1a, 4, 0x0a, 2, 1, 0x70]), io::ErrorKind::InvalidData),
        ("an end of a group", framed(&[0x0c]), io::ErrorKind::InvalidData),
        (
            "an endless number",
            framed(&[0x28, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255]),
            io::ErrorKind::InvalidData,
        ),
        ("too many blocks", many(&[0x12, 0]), io::ErrorKind::InvalidData),
        ("4 MiB and a byte claimed", vec![0x81, 0x80, 0x80, 2], io::ErrorKind::InvalidData),
        ("an endless length", vec![255; 20], io::ErrorKind::InvalidData),
        ("half a message", framed(&[0; 40])[..20].to_vec(), io::ErrorKind::UnexpectedEof),
        ("half a length", vec![0x81], io::ErrorKind::UnexpectedEof),
    ] {
        assert_eq!(read_all(&bytes).await.map(|_| ()).unwrap_err().kind(), kind, "{case}");
    }
    let claimed: &[u8] = &[0x80, 0x80, 0x80, 2];
    let room = Semaphore::new(1);
    let mut reader = MessageReader::new(claimed, &room);
    assert_eq!(reader.next().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert!(reader.buffer.capacity() <= 4 * READ_BYTES, "{}", reader.buffer.capacity());
}

#[test]
fn a_cid_that_has_no_place_here_is_passed_over_and_unknown_fields_too() {
    // A digest of 100 bytes, which Go allows; then what nobody knows yet.
    let mut long = vec![1, 0x55, 0x12, 100];
    long.resize(104, 7);
    let mut entry = BytesMut::new();
    put_bytes(1, &long, &mut entry);
    let mut wantlist = BytesMut::new();
    put_bytes(1, &entry, &mut wantlist);
    let mut body = BytesMut::new();
    put_bytes(1, &wantlist, &mut body);
    put_bytes(9, b"later", &mut body);
    put_number(10, 5, &mut body);
    body.put_slice(&[0x5d, 1, 2, 3, 4]);
    assert_eq!(Message::parse(body.freeze()).unwrap(), Message::default());
}

#[tokio::test(start_paused = true)]
async fn a_message_that_does_not_go_on_is_given_up() {
    let (mut one, other) = tokio::io::duplex(64);
    let room = Semaphore::new(1);
    let mut reader = MessageReader::new(other, &room);
    // Nothing at all is fine.
    assert!(timeout(100 * PATIENCE_WITH_STREAMS, reader.next()).await.is_err());
    tokio::io::AsyncWriteExt::write_all(&mut one, &[20, 1]).await.unwrap();
    assert_eq!(reader.next().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
}
