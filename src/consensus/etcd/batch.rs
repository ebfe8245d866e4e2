//! More operations than one transaction of etcd takes: all or nothing all the same.
//!
//! 1. The author puts the operations below `parts/`, bound to its lease: if it dies now they go with it.
//! 2. One transaction writes `batch`, which says where they are, and takes the lease off them. Now it has happened.
//! 3. Chunk by chunk, transactions do what the parts say, each if `batch` says that it is its turn, and each moves `batch`
//!    on. The last one removes `batch` and the parts.
//!
//! While there is a `batch` nobody writes anything else, and whoever wants to and sees it stand still does step 3 himself.
//! Followers hold back what they see until `batch` is gone, so they show a batch whole (unless it is too large to hold).

use std::str::FromStr;

use bytes::Bytes;
use tokio::time::Instant;
use tracing::{error, warn};

use super::COMPONENT;
use super::gateway::{Failure, Reason, refused};
use super::lane::{Done, Lane, Work};
use super::plan::{Chunk, Write, parts, read_part};
use super::shared::Shared;
use super::wire::{Compare, Op, RangeAsked, Txn};
use crate::error::{Error, ErrorKind, Result};

/// Version of the record.
const VERSION: u32 = 1;

/// What `batch` says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    id: String,
    /// How many parts there are.
    parts: usize,
    /// The part whose turn it is.
    part: usize,
    /// Its operations that are done.
    done: usize,
}

impl Record {
    fn text(&self) -> Bytes {
        format!("{VERSION} {} {} {} {}", self.id, self.parts, self.part, self.done).into()
    }

    /// # Errors
    /// `Corrupt`; `Unsupported` for a later version.
    fn read(text: &[u8]) -> Result<Self> {
        fn number<T: FromStr>(text: Option<&str>) -> Option<T> {
            text?.parse().ok()
        }
        let corrupt = || Error::new(ErrorKind::Corrupt, "the record of a batch in etcd cannot be read");
        let text = std::str::from_utf8(text).map_err(|_| corrupt())?;
        let mut words = text.split(' ');
        match number::<u32>(words.next()) {
            Some(VERSION) => {}
            Some(version) if version > VERSION => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!(
                        "a batch in etcd has version {version}, this program writes {VERSION}; run the newer one"
                    ),
                ));
            }
            _ => return Err(corrupt()),
        }
        let mut read = || {
            let id = words.next().filter(|id| !id.is_empty() && !id.contains('/'))?.to_owned();
            let [parts, part, done] = [(); 3].map(|()| number(words.next()));
            Some(Self { id, parts: parts?, part: part?, done: done? })
        };
        read().filter(|record| record.part < record.parts).ok_or_else(corrupt)
    }
}

/// Writes a batch, and returns the revision of a write after it.
///
/// # Errors
/// `InvalidInput` for one that is too large; else as [`Lane::commit`].
pub(super) async fn write(
    shared: &Shared,
    lane: &mut Lane,
    writes: &[Write],
    lease: i64,
    deadline: Instant,
) -> Result<i64, Failure> {
    let staged = parts(writes, shared.limits.bytes / 2);
    // Beside them there are the lane and the record.
    let most = shared.limits.operations.saturating_sub(4);
    if staged.len() > most {
        return Err(refused(Error::invalid_input(format!(
            "the operations take {} parts of half a request each, but etcd takes {most} in one batch; log them in smaller \
             batches",
            staged.len()
        ))));
    }
    let id = lane.unique(lease);
    let count = staged.len();
    for (number, part) in staged.into_iter().enumerate() {
        let put = Op::put_leased(shared.keys.part(&id, number), part, lease);
        let txn = Txn { success: vec![put], ..Txn::default() };
        shared.gateway.txn(&txn, deadline).await?;
    }
    let record = Record { id: id.clone(), parts: count, part: 0, done: 0 };
    let mut ops: Vec<Op> = (0..count).map(|number| Op::unlease(shared.keys.part(&id, number))).collect();
    ops.push(Op::put(shared.keys.batch(), record.text()));
    let work = Work { ops, lease: Some(lease), ..Work::default() };
    if let Err(failure) = lane.commit(shared, work, deadline).await {
        if failure.reason == Reason::Refused {
            // Nothing happened. What cannot be removed now goes with the lease.
            let txn = Txn { success: vec![Op::delete_range(shared.keys.parts(&id))], ..Txn::default() };
            let _ = shared.gateway.txn(&txn, deadline).await;
        }
        let is_gone = failure.error.message().contains("key not found");
        return Err(if is_gone {
            let text = "etcd gave up the lease of this peer before the batch was complete; log it again";
            refused(Error::new(ErrorKind::Unavailable, text))
        } else {
            failure
        });
    }
    finish(shared, deadline).await?;
    // Others may have done the last step, and then its revision is not known.
    match lane.commit(shared, Work::default(), deadline).await? {
        Done::Committed { revision, .. } => Ok(revision),
        Done::Unmet => Err(refused(Error::internal("a write without conditions did not happen"))),
    }
}

/// What `batch` says now; none when no batch is being written.
pub(super) async fn current(shared: &Shared, deadline: Instant) -> Result<Option<Bytes>, Failure> {
    let asked = RangeAsked { key: shared.keys.batch().into(), ..RangeAsked::default() };
    let answer = shared.gateway.range(&asked, deadline).await?;
    Ok(answer.kvs.into_iter().next().map(|found| found.value.0))
}

/// Does what is left of the batch that is being written, if there is one. Several may do it at once.
///
/// # Errors
/// `Unsupported` for a batch of a later version; else see [`Reason`].
pub(super) async fn finish(shared: &Shared, deadline: Instant) -> Result<(), Failure> {
    let mut text = current(shared, deadline).await?;
    let mut part: Option<(String, usize, Vec<Write>)> = None;
    while let Some(now) = text {
        let record = match Record::read(&now) {
            Ok(record) => record,
            Err(error) if error.kind() == ErrorKind::Unsupported => return Err(refused(error)),
            Err(error) => {
                // Not ours. With it there nobody could ever write again.
                warn!(%error, "removing it");
                text = step(shared, now, Vec::new(), None, deadline).await?;
                continue;
            }
        };
        let writes = match &part {
            Some((id, number, writes)) if *id == record.id && *number == record.part => writes,
            _ => {
                let writes = read(shared, &record, deadline).await?;
                &part.insert((record.id.clone(), record.part, writes)).2
            }
        };
        let mut chunk = Chunk::new(shared.limits);
        let left = writes.get(record.done..).unwrap_or_default();
        for write in left {
            if !chunk.push(write) {
                break;
            }
        }
        let done = record.done + chunk.writes();
        let next = if chunk.writes() < left.len() {
            Some(Record { done, ..record.clone() })
        } else {
            Some(Record { part: record.part + 1, done: 0, ..record.clone() })
                .filter(|next| next.part < next.parts)
        };
        let mut ops: Vec<Op> = chunk.ops(&shared.keys).into_iter().map(|(_, op)| op).collect();
        if next.is_none() {
            ops.push(Op::delete_range(shared.keys.parts(&record.id)));
        }
        text = step(shared, now, ops, next.map(|next| next.text()), deadline).await?;
    }
    Ok(())
}

/// Does this and moves the record on, if it still is as it was; returns what it says then.
async fn step(
    shared: &Shared,
    now: Bytes,
    mut ops: Vec<Op>,
    next: Option<Bytes>,
    deadline: Instant,
) -> Result<Option<Bytes>, Failure> {
    let key = shared.keys.batch();
    ops.push(match &next {
        Some(next) => Op::put(key.clone(), next.clone()),
        None => Op::delete(key.clone()),
    });
    let txn =
        Txn { compare: vec![Compare::value(key.clone(), now)], success: ops, failure: vec![Op::get(key)] };
    let answer = shared.gateway.txn(&txn, deadline).await?;
    if answer.succeeded {
        return Ok(next);
    }
    let found = answer.responses.first().and_then(|range| range.kvs().first());
    Ok(found.map(|found| found.value.0.clone()))
}

/// The operations of a part.
async fn read(shared: &Shared, record: &Record, deadline: Instant) -> Result<Vec<Write>, Failure> {
    let key = shared.keys.part(&record.id, record.part);
    let asked = RangeAsked { key: key.into(), ..RangeAsked::default() };
    let answer = shared.gateway.range(&asked, deadline).await?;
    let Some(found) = answer.kvs.into_iter().next() else {
        // Whoever finished the batch meanwhile removed it; then the record is another, too. If not, somebody else did.
        if current(shared, deadline).await? == Some(record.text()) {
            error!(
                component = COMPONENT,
                part = record.part,
                "a part of a batch is gone from etcd; it is passed over"
            );
        }
        return Ok(Vec::new());
    };
    match read_part(found.value.0) {
        Ok(writes) => Ok(writes),
        Err(error) if error.kind() == ErrorKind::Unsupported => Err(refused(error)),
        Err(error) => {
            error!(component = COMPONENT, %error, part = record.part, "it is passed over");
            Ok(Vec::new())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_others_are_refused() {
        let record = Record { id: "7f-1-2".into(), parts: 3, part: 2, done: 17 };
        assert_eq!(Record::read(&record.text()).unwrap(), record);
        for wrong in
            ["", "1", "1 x", "1 x 3 3 0", "1 x 0 0 0", "1 a/b 3 0 0", "1  3 0 0", "0 x 3 0 0", "1 x -1 0 0"]
        {
            assert_eq!(Record::read(wrong.as_bytes()).unwrap_err().kind(), ErrorKind::Corrupt, "{wrong}");
        }
        assert_eq!(Record::read(b"\xff").unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(Record::read(b"2 x").unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
