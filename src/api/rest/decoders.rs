//! What callers of the REST API write into their queries, for `testing::decoders`: it says whether every endpoint that
//! could be meant takes it, and panics when what was read does not hold.

use std::fmt::Write as _;

use hyper::HeaderMap;

use super::query::Query;
use super::{events, find};
use crate::types::{PinTypeFilter, Timestamp};

/// The query of a request, read for every endpoint that has parameters.
pub(crate) fn queries(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(query) = Query::parse(Some(text)) else { return false };
    let written = written(&query);
    let again = Query::parse(Some(&written)).unwrap_or_else(|error| panic!("{written:?}: {}", error.message));
    assert!(again.pairs().eq(query.pairs()), "{text:?}");
    let find = |beside| find::Find::read(&query, PinTypeFilter::ALL, beside);
    let (pins, statuses) = (find(find::BESIDE_PINS), find(find::BESIDE_STATUSES));
    if let (Ok(pins), Ok(statuses)) = (&pins, &statuses) {
        assert_eq!(pins, statuses);
    }
    let options = query.pin_options(|| Timestamp::UNIX_EPOCH);
    if let Ok(options) = &options {
        assert_eq!(again.pin_options(|| Timestamp::UNIX_EPOCH).ok().as_ref(), Some(options));
    }
    [
        options.is_ok(),
        matches!(pins, Ok(Some(_))),
        matches!(statuses, Ok(Some(_))),
        events::read(&query, &HeaderMap::new()).is_ok(),
        query.scope().is_ok() && query.cids().is_ok() && query.status_filter().is_ok(),
        query.type_filter().is_ok(),
    ]
    .contains(&true)
}

fn written(query: &Query<'_>) -> String {
    let mut text = String::new();
    let mut add = |part: &str, end: char| {
        for byte in part.bytes() {
            // Writing to a `String` cannot fail.
            let _ = write!(text, "%{byte:02x}");
        }
        text.push(end);
    };
    for (key, value) in query.pairs() {
        add(key, '=');
        add(value, '&');
    }
    text
}

/// Queries of clients.
pub(crate) fn query_samples() -> Vec<Vec<u8>> {
    const CID: &str = "QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o";
    const PEER: &str = "12D3KooWKqMeRxLjvowrtRFqBWaPALNyB3tJxAiubfhe9UdwgeBK";
    [
        "local=false&filter=&cids=".to_owned(),
        format!("local=true&filter=pin_error%2Cqueued&cids={CID},%20{CID}"),
        format!(
            "expire-at=2030-01-02T03%3A04%3A05.5%2B01%3A00&meta-a=1&meta-b=x+y&mode=direct&name=two%20words\
             &origins=%2Fip4%2F127.0.0.1%2Ftcp%2F1%2Fp2p%2F{PEER}&pin-update={CID}&replication-max=3\
             &replication-min=2&shard-size=100&user-allocations={PEER}"
        ),
        format!(
            "limit=7&name-prefix=a+b&meta-k=v%26&created-after=2026-01-02T03:04:05.5Z&peer={PEER}&sort=-created&order=asc"
        ),
        format!("after=00000000000000ab-17&kind=pinned,status&kind=peer&cid={CID}&heartbeat=true"),
        "expire-in=1h30m&replication=-1".to_owned(),
    ]
    .map(String::into_bytes)
    .into()
}
