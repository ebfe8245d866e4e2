//! Finding pins: the parameters of `GET /allocations` and `GET /pins` that the reference does not have.
//!
//! | parameter | what it asks for |
//! |---|---|
//! | `limit` | a page of so many lines at most, 1 to 10,000; the header `X-Next-Cursor` tells where the next one begins |
//! | `after` | what comes behind such a cursor |
//! | `name`, `name-prefix` | pins of this name; pins whose name begins so |
//! | `meta-<key>` | pins with this value in their metadata; several keys must all be there |
//! | `created-after`, `created-before` | pins made at or after this time, before this time; RFC 3339 |
//! | `peer` | pins that this peer must hold: allocated to it, or pinned everywhere |
//! | `sort` | `cid`, `name` or `created`, with `-` in front the last one first |
//! | `order` | `asc` or `desc`, which turns round what `sort` says |
//!
//! A request with none of these is answered as in the reference, whatever else it carries. One with any of them is read
//! strictly: what is unknown, repeated, empty, too long or not what it must be is a 400.

use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::answer::{self, Answer};
use super::query::{Query, quoted};
use crate::api::error::ApiError;
use crate::api::json::Line;
use crate::error::{Error, ErrorKind};
use crate::state::{PAGE_LIMIT_MAX, Selection, StateCursor, StateOrder, StateQuery};
use crate::types::{PinTypeFilter, Timestamp, parse_peer};

/// Tells where the next page begins; absent behind the last one.
pub(super) const NEXT_CURSOR: HeaderName = HeaderName::from_static("x-next-cursor");
/// Pages of at most so many lines are encoded at once, because handing them over would cost more.
const INLINE_ITEMS_MAX: usize = 128;
/// Longest value of a parameter, in bytes.
pub(super) const VALUE_BYTES_MAX: usize = 4096;
/// Most metadata keys that one request asks for.
pub(super) const METADATA_KEYS_MAX: usize = 16;
/// What these parameters may stand beside on `GET /allocations`.
pub(super) const BESIDE_PINS: &[&str] = &["filter"];
/// What they may stand beside on `GET /pins`; `cids` only empty.
pub(super) const BESIDE_STATUSES: &[&str] = &["local", "filter", CIDS];
const CIDS: &str = "cids";
const OURS: [&str; 9] =
    ["limit", "after", "name", "name-prefix", "created-after", "created-before", "peer", "sort", "order"];
const METADATA: &str = "meta-";

/// What is to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Find {
    pub(super) query: StateQuery,
    /// None lists everything in one stream.
    pub(super) limit: Option<usize>,
}

impl Find {
    /// Reads these parameters; none where a request has none of them. `beside` are the others that it may have.
    pub(super) fn read(
        query: &Query<'_>,
        types: PinTypeFilter,
        beside: &[&str],
    ) -> Result<Option<Self>, ApiError> {
        if !query.pairs().any(|(key, _)| OURS.contains(&key) || key.starts_with(METADATA)) {
            return Ok(None);
        }
        check(query, beside)?;
        // The first decides on the order where none is asked for.
        let mut conditions = Vec::new();
        conditions.extend(query.find("name").map(|name| Selection::Name(name.to_owned())));
        conditions.extend(query.find("name-prefix").map(|prefix| Selection::NamePrefix(prefix.to_owned())));
        conditions.extend(
            query
                .family(METADATA)
                .map(|(key, value)| Selection::Metadata { key: key.to_owned(), value: value.to_owned() }),
        );
        let (from, to) = (time(query, "created-after")?, time(query, "created-before")?);
        if from.is_some() || to.is_some() {
            conditions.push(Selection::Created { from, to });
        }
        let mut conditions = conditions.into_iter();
        let selection = conditions.next().unwrap_or_default();
        let (order, backwards) = order(query)?;
        let peer =
            query.find("peer").map(|text| parse_peer(text).map_err(|error| wrong("peer", error.message())));
        let after = query
            .find("after")
            .map(|text| text.parse::<StateCursor>().map_err(|error| wrong("after", error.message())));
        let limit = query.find("limit").map(|text| {
            let number = text.parse().ok().filter(|limit| (1..=PAGE_LIMIT_MAX).contains(limit));
            number.ok_or_else(|| wrong("limit", &format!("{text:?}, expected 1 to {PAGE_LIMIT_MAX}")))
        });
        if after.is_some() && limit.is_none() {
            return Err(wrong("after", "it goes on with pages, so it takes a limit"));
        }
        Ok(Some(Self {
            query: StateQuery {
                selection,
                also: conditions.collect(),
                types,
                peer: peer.transpose()?,
                order,
                descending: backwards,
                after: after.transpose()?,
            },
            limit: limit.transpose()?,
        }))
    }
}

/// Everything that can be said of parameters without knowing what they mean.
fn check(query: &Query<'_>, beside: &[&str]) -> Result<(), ApiError> {
    let mut seen: Vec<&str> = Vec::new();
    for (key, value) in query.pairs() {
        let metadata_key = key.strip_prefix(METADATA);
        if !OURS.contains(&key) && !beside.contains(&key) && metadata_key.is_none() {
            let known = [OURS.join(", "), "meta-<key>".to_owned(), beside.join(", ")].join(", ");
            return Err(ApiError::bad_request(format!(
                "unknown parameter {}, expected {known}",
                quoted(key)
            )));
        }
        if metadata_key == Some("") {
            return Err(ApiError::bad_request("parameter meta- invalid: expected a key behind it"));
        }
        if key.len().max(value.len()) > VALUE_BYTES_MAX {
            let text = format!("longer than {VALUE_BYTES_MAX} bytes");
            return Err(wrong(&quoted(key), &text));
        }
        if seen.contains(&key) {
            return Err(wrong(&quoted(key), "given more than once"));
        }
        if value.is_empty() && OURS.contains(&key) && key != "name" {
            return Err(wrong(key, "it has no value"));
        }
        seen.push(key);
        // Bounds this very loop too.
        if seen.iter().filter(|key| key.starts_with(METADATA)).count() > METADATA_KEYS_MAX {
            let text = format!("more than {METADATA_KEYS_MAX} metadata keys");
            return Err(ApiError::bad_request(text));
        }
    }
    if beside.contains(&CIDS) && query.find(CIDS).is_some_and(|cids| !cids.is_empty()) {
        return Err(ApiError::bad_request("parameter cids cannot stand beside limits, filters and orders"));
    }
    Ok(())
}

fn wrong(name: &str, why: &str) -> ApiError {
    ApiError::bad_request(format!("parameter {name} invalid: {why}"))
}

fn time(query: &Query<'_>, name: &str) -> Result<Option<Timestamp>, ApiError> {
    let time =
        query.find(name).map(|text| text.parse().map_err(|error: crate::Error| wrong(name, error.message())));
    time.transpose()
}

fn order(query: &Query<'_>) -> Result<(Option<StateOrder>, bool), ApiError> {
    let (name, minus) = match query.find("sort") {
        None => (None, false),
        Some(text) => match text.strip_prefix('-') {
            None => (Some(text), false),
            Some(name) => (Some(name), true),
        },
    };
    let order = match name {
        None => None,
        Some("cid") => Some(StateOrder::Cid),
        Some("name") => Some(StateOrder::Name),
        Some("created") => Some(StateOrder::Created),
        Some(_) => {
            return Err(wrong("sort", "expected cid, name or created, or one of them behind a -"));
        }
    };
    let turned = match query.find("order") {
        None | Some("asc") => false,
        Some("desc") => true,
        Some(_) => return Err(wrong("order", "expected asc or desc")),
    };
    Ok((order, minus != turned))
}

/// The answer of a page: lines as in a listing, but whole, so that an error never comes behind a line.
///
/// # Errors
/// None but bugs.
pub(super) async fn page<T: Line>(items: Vec<T>, next: Option<StateCursor>) -> Result<Answer, ApiError> {
    let status = if items.is_empty() { StatusCode::NO_CONTENT } else { StatusCode::OK };
    let body = if items.len() <= INLINE_ITEMS_MAX {
        encoded(&items)
    } else {
        let encoding = tokio::task::spawn_blocking(move || encoded(&items));
        encoding
            .await
            .map_err(|_| ApiError::new(500, "the page broke off because of a bug; the log has the details"))?
    };
    let mut response: Response<Bytes> = answer::document(status, body);
    // A cursor is letters, digits, - and _.
    if let Some(Ok(next)) = next.map(|next| HeaderValue::from_str(&next.to_string())) {
        response.headers_mut().insert(NEXT_CURSOR, next);
    }
    Ok(Answer::Whole(response))
}

/// A page that the pinset or the peers refused.
pub(super) fn refused(error: Error) -> ApiError {
    match error.kind() {
        // Its cursor; everything else was checked before.
        ErrorKind::InvalidInput => wrong("after", error.message()),
        _ => error.into(),
    }
}

fn encoded<T: Line>(items: &[T]) -> Vec<u8> {
    let mut body = Vec::with_capacity(items.len() * T::BYTES);
    for item in items {
        item.write(&mut body);
        body.push(b'\n');
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWKqMeRxLjvowrtRFqBWaPALNyB3tJxAiubfhe9UdwgeBK";

    fn read(text: &str) -> Result<Option<Find>, ApiError> {
        Find::read(&Query::parse(Some(text))?, PinTypeFilter::ALL, BESIDE_STATUSES)
    }

    #[test]
    fn a_request_of_the_reference_is_none_of_ours_whatever_else_it_carries() {
        for text in ["", "local=false&filter=&cids=", "filter=all&filter=pin&nmae=x&limits=3&cids=zzz"] {
            assert_eq!(read(text).unwrap(), None, "{text}");
        }
    }

    #[test]
    fn parameters_become_conditions_with_the_narrowest_first() {
        let cursor = StateQuery::default().cursor_at("x").to_string();
        let found = read(&format!(
            "created-before=2026-01-02T00:00:00Z&created-after=2026-01-01T00:00:00%2B01:00&name-prefix=a%20b&meta-k=v\
             &meta-e=&name=&peer={PEER}&sort=-name&limit=10000&after={cursor}&filter=pin&local=true&cids="
        ))
        .unwrap()
        .unwrap();
        let pair = |key: &str, value: &str| Selection::Metadata { key: key.into(), value: value.into() };
        assert_eq!(found.limit, Some(10_000));
        assert_eq!(found.query.selection, Selection::Name(String::new()));
        assert_eq!(
            found.query.also,
            [
                Selection::NamePrefix("a b".into()),
                pair("k", "v"),
                pair("e", ""),
                Selection::Created {
                    from: Some("2025-12-31T23:00:00Z".parse().unwrap()),
                    to: Some("2026-01-02T00:00:00Z".parse().unwrap()),
                }
            ]
        );
        assert_eq!((found.query.order, found.query.descending), (Some(StateOrder::Name), true));
        assert_eq!(found.query.peer, Some(PEER.parse().unwrap()));
        assert_eq!(found.query.after.unwrap().to_string(), cursor);
    }

    #[test]
    fn a_listing_of_pins_takes_nothing_of_statuses_beside() {
        for text in ["limit=1&cids=", "limit=1&local=false", "limit=1&cids=x"] {
            let query = Query::parse(Some(text)).unwrap();
            let error = Find::read(&query, PinTypeFilter::ALL, BESIDE_PINS).unwrap_err();
            assert!(error.message.starts_with("unknown parameter ") && error.message.ends_with(", filter"));
            assert!(!text.ends_with('x') || read(text).is_err());
            assert!(text.ends_with('x') || read(text).is_ok());
        }
    }

    #[test]
    fn two_ways_of_turning_an_order_round_undo_each_other() {
        for (text, order, descending) in [
            ("order=desc", None, true),
            ("sort=cid&order=asc", Some(StateOrder::Cid), false),
            ("sort=created&order=desc", Some(StateOrder::Created), true),
            ("sort=-created", Some(StateOrder::Created), true),
            ("sort=-created&order=desc", Some(StateOrder::Created), false),
        ] {
            let query = read(text).unwrap().unwrap().query;
            assert_eq!((query.order, query.descending), (order, descending), "{text}");
        }
    }

    #[test]
    fn whatever_is_wrong_is_named_once_and_for_all() {
        let long = "x".repeat(VALUE_BYTES_MAX + 1);
        let many: String = (0..=METADATA_KEYS_MAX).map(|number| format!("&meta-{number}=")).collect();
        for (text, message) in [
            ("limit=0", "parameter limit invalid: \"0\", expected 1 to 10000"),
            ("limit=10001", "parameter limit invalid: \"10001\""),
            ("limit=-1", "parameter limit invalid: \"-1\""),
            ("limit=1e3", "parameter limit invalid: \"1e3\""),
            ("limit=99999999999999999999999", "parameter limit invalid"),
            ("limit=", "parameter limit invalid: it has no value"),
            ("limit", "parameter limit invalid: it has no value"),
            ("limit=1&limit=1", "parameter \"limit\" invalid: given more than once"),
            ("meta-k=1&meta-k=2", "parameter \"meta-k\" invalid: given more than once"),
            ("limit=1&filter=pin&filter=all", "parameter \"filter\" invalid: given more than once"),
            ("limit=1&nmae=x", "unknown parameter \"nmae\", expected limit, after, name, name-prefix, "),
            (
                &format!("after={}", StateQuery::default().cursor_at("x")),
                "parameter after invalid: it goes on with",
            ),
            (
                "after=garbage&limit=1",
                "parameter after invalid: not a cursor; use the one that came with the last page",
            ),
            ("after=", "parameter after invalid: it has no value"),
            ("name-prefix=", "parameter name-prefix invalid: it has no value"),
            ("meta-=x", "parameter meta- invalid: expected a key behind it"),
            (
                "created-after=yesterday",
                "parameter created-after invalid: parsing time \"yesterday\": expected RFC 3339",
            ),
            ("created-before=1700000000", "parameter created-before invalid: parsing time"),
            ("peer=me", "parameter peer invalid: invalid peer id \"me\""),
            ("sort=size", "parameter sort invalid: expected cid, name or created"),
            ("sort=--cid", "parameter sort invalid"),
            ("order=up", "parameter order invalid: expected asc or desc"),
            (
                "limit=1&cids=QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o",
                "parameter cids cannot stand beside",
            ),
            ("name=%ff", "invalid percent-encoding in \"%ff\": not UTF-8"),
            (&format!("name={long}"), "parameter \"name\" invalid: longer than 4096 bytes"),
            (&format!("meta-{long}=x"), "parameter \"meta-xxx"),
            (&format!("limit=1{many}"), "more than 16 metadata keys"),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.status, 400, "{text}");
            assert!(error.message.starts_with(message), "{text}: {}", error.message);
            assert!(error.message.len() < 400, "{}", error.message);
        }
    }
}
