//! What Raft reads of other peers and of its store, for `testing::decoders`: each says whether the bytes were read, and
//! panics when what was read does not hold.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use openraft::{CommittedLeaderId, EntryPayload};

use super::command::{self, Key, Operation, Operations, Part};
use super::lineage::{Last, Start};
use super::message::{Answer, Appended, Head, Question};
use super::records::Seen;
use super::removal::Members;
use super::types::{Command, Entry, LogId, Membership, Node, PartOutcome, StoredMembership, Vote};
use super::wire::{PEERS_MAX, Reader, read, written};
use crate::error::ErrorKind;
use crate::types::{Cid, PeerId, Pin, PinOperation, Revision};

/// An entry of the log, as it is stored and sent.
pub(crate) fn entries(bytes: &[u8]) -> bool {
    let again = |bytes: Bytes| read(bytes, Reader::entry).map(|entry| written(|writer| writer.entry(&entry)));
    let Ok(first) = again(Bytes::copy_from_slice(bytes)) else { return false };
    assert_eq!(again(first.clone()).ok(), Some(first));
    if let Ok(Entry { payload: EntryPayload::Membership(members), .. }) =
        read(Bytes::copy_from_slice(bytes), Reader::entry)
    {
        assert!(members.nodes().count() <= PEERS_MAX);
    }
    true
}

/// What one peer asks for at a time, and what is put together of it.
pub(crate) fn parts(bytes: &[u8]) -> bool {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(parts) = command::split(bytes.clone()) {
        assert_eq!(command::split(command::join(&parts)).ok(), Some(parts));
    }
    let Ok(part) = Part::decode(bytes) else { return false };
    assert!(part.key.floor <= part.key.sequence);
    assert_eq!(Part::decode(encoded(&part)).ok(), Some(part));
    true
}

fn encoded(part: &Part) -> Bytes {
    let mut all = Operations::default();
    for Operation { operation, tells } in &part.operations {
        let one = Operations::encode(std::slice::from_ref(operation), *tells).unwrap_or_default();
        all.bytes.extend(one.bytes);
        all.count += one.count;
    }
    all.into_part(part.key)
}

/// What peers ask each other.
pub(crate) fn questions(bytes: &[u8]) -> bool {
    let again = |kind: u8, body: Bytes| {
        Question::decode(kind, body).ok().map(|(head, question)| question.encode(&head))
    };
    let Some((kind, body)) = split(bytes) else { return false };
    let Some((kind, body)) = again(kind, body) else { return false };
    assert_eq!(again(kind, body.clone()), Some((kind, body)));
    true
}

/// What they answer.
pub(crate) fn answers(bytes: &[u8]) -> bool {
    let Some((kind, body)) = split(bytes) else { return false };
    let Ok((start, answer)) = Answer::decode(kind, body) else { return false };
    let (kind, body) = answer.encode(start);
    let again = Answer::decode(kind, body.clone()).map(|(start, answer)| answer.encode(start));
    assert_eq!(again.ok(), Some((kind, body)));
    true
}

/// What is remembered of parts: a length, the key, the value.
pub(crate) fn seen(bytes: &[u8]) -> bool {
    let Some((length, rest)) = split(bytes) else { return false };
    let Some((key, value)) = rest.split_at_checked(length.into()) else { return false };
    Seen::decode(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)).is_ok()
}

fn split(bytes: &[u8]) -> Option<(u8, Bytes)> {
    let (first, rest) = bytes.split_first()?;
    Some((*first, Bytes::copy_from_slice(rest)))
}

fn peer(number: u8) -> Option<PeerId> {
    // A key message of type Ed25519, under the identity hash.
    let bytes = [&[0, 36, 8, 1, 18, 32][..], &[number; 32]].concat();
    PeerId::from_bytes(&bytes).ok()
}

fn node(number: u8) -> Node {
    Node(peer(number))
}

fn log_id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(3, node(1)), index)
}

fn sample_part() -> Option<Bytes> {
    let cid = Cid::new_v1(0x55, cid::multihash::Multihash::<64>::wrap(0x12, &[7; 32]).ok()?);
    let mut pin = Pin::new(cid, Default::default());
    pin.options.name = "a name".to_owned();
    let operations = [
        PinOperation::Pin(Arc::new(pin.clone())),
        PinOperation::Revise(Revision::replace(pin.clone(), pin.clone())),
        PinOperation::Revise(Revision::remove(pin)),
        PinOperation::Unpin(cid),
    ];
    let key = Key { origin: peer(1)?, session: 5, sequence: 9, floor: 7 };
    Some(Operations::encode(&operations, true).ok()?.into_part(key))
}

/// Entries of every kind.
pub(crate) fn entry_samples() -> Vec<Vec<u8>> {
    let nodes = BTreeSet::from([node(1), node(2)]);
    let members = Membership::new(vec![nodes.clone(), BTreeSet::from([node(3)])], nodes.clone());
    let command = Command(command::join(&[sample_part().unwrap_or_default()]));
    [EntryPayload::Blank, EntryPayload::Membership(members), EntryPayload::Normal(command)]
        .into_iter()
        .map(|payload| written(|writer| writer.entry(&Entry { log_id: log_id(4), payload })).to_vec())
        .collect()
}

/// A part with operations of every kind, alone and in an entry.
pub(crate) fn part_samples() -> Vec<Vec<u8>> {
    let part = sample_part().unwrap_or_default();
    vec![part.to_vec(), command::join(&[part.clone(), part]).to_vec()]
}

/// A question of every kind.
pub(crate) fn question_samples() -> Vec<Vec<u8>> {
    let vote = Vote::new_committed(3, node(1));
    let entry = |index| Entry { log_id: log_id(index), payload: EntryPayload::Blank };
    let append = AppendEntriesRequest {
        vote,
        prev_log_id: Some(log_id(3)),
        leader_commit: None,
        entries: vec![entry(4), entry(5)],
    };
    let Some(peer) = peer(2) else { return Vec::new() };
    let head = Head {
        cluster: Some([7; 16]),
        start: Start { session: 9, heir: 3, joined: 2 },
        known: Last { session: 5, at: 4 },
    };
    [
        Question::Append(append),
        Question::Vote(VoteRequest::new(vote, Some(log_id(9))), Some(vote)),
        Question::HandOver(vote, log_id(9)),
        Question::WouldVote(None),
        Question::Propose(sample_part().unwrap_or_default()),
        Question::Barrier,
        Question::Add(peer),
        Question::Remove(peer),
        Question::Removed(log_id(7)),
        Question::Snapshot(vote, 12, log_id(8)),
    ]
    .iter()
    .map(|question| {
        let (kind, body) = question.encode(&head);
        [&[kind][..], &body].concat()
    })
    .collect()
}

/// An answer of every kind.
pub(crate) fn answer_samples() -> Vec<Vec<u8>> {
    let vote = Vote::new(4, node(2));
    [
        Answer::Done,
        Answer::Append(Appended::Success),
        Answer::Append(Appended::Conflict),
        Answer::Append(Appended::HigherVote(vote)),
        Answer::Vote(vote, true, Some(log_id(1))),
        Answer::WouldVote(false),
        Answer::Proposed(log_id(7), PartOutcome::Applied(vec![None, Some(Bytes::from_static(b"value"))])),
        Answer::Proposed(log_id(7), PartOutcome::Stale(8)),
        Answer::Proposed(log_id(7), PartOutcome::Unreadable),
        Answer::Proposed(log_id(7), PartOutcome::NotMember),
        Answer::Barrier(9),
        Answer::Installed(vote),
        Answer::NotLeader(peer(1)),
        Answer::NotMember,
        Answer::Members(Members { newest: StoredMembership::default(), agreed: Some(log_id(2)) }),
        Answer::Disowned(Last { session: 5, at: 4 }),
        Answer::Failed(ErrorKind::Unavailable, "no quorum".to_owned()),
    ]
    .iter()
    .map(|answer| {
        let (kind, body) = answer.encode(Start { session: 9, heir: 3, joined: 2 });
        [&[kind][..], &body].concat()
    })
    .collect()
}

/// Records of both kinds.
pub(crate) fn seen_samples() -> Vec<Vec<u8>> {
    let mut batch = crate::storage::Batch::new();
    Seen::Peer(node(1), 5, 7).put(&mut batch);
    Seen::Part(node(1), 9, command::encode_answers(&vec![None])).put(&mut batch);
    batch
        .into_operations()
        .into_iter()
        .map(|operation| {
            let length = u8::try_from(operation.key.len()).unwrap_or(u8::MAX);
            [&[length][..], &operation.key, &operation.value.unwrap_or_default()].concat()
        })
        .collect()
}
