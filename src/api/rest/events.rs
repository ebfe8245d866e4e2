//! What happens, as lines or as server-sent events.

use std::time::Duration;

use futures::StreamExt as _;
use hyper::header::{ACCEPT, HeaderMap, HeaderValue};

use super::answer::Listing;
use super::lines::Lines;
use super::query::{self, Query};
use crate::api::error::ApiError;
use crate::api::json::Line as _;
use crate::cluster::{Cluster, WATCH_CIDS_MAX, WatchQuery};
use crate::error::ErrorKind;
use crate::types::{Event, EventCursor, EventKinds, Happening};

/// Silence after which a heartbeat says that the connection lives.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// The header by which a browser says where it was.
const LAST_EVENT_ID: &str = "last-event-id";
/// What can be asked.
const PARAMETERS: [&str; 4] = ["after", "kind", "cid", "heartbeat"];

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Lines,
    ServerSent,
}

/// What a request asks for.
#[derive(Debug)]
pub(super) struct Asked {
    query: WatchQuery,
    format: Format,
}

/// Reads a request.
pub(super) fn read(query: &Query<'_>, headers: &HeaderMap) -> Result<Asked, ApiError> {
    if let Some((unknown, _)) = query.pairs().find(|(key, _)| !PARAMETERS.contains(key)) {
        let text = format!("unknown parameter {unknown:?}, expected some of {}", PARAMETERS.join(", "));
        return Err(ApiError::bad_request(text));
    }
    for once in ["after", "heartbeat"] {
        if query.values(once).count() > 1 {
            return Err(ApiError::bad_request(format!("parameter {once} is there more than once")));
        }
    }
    let values = |name: &'static str| query.values(name).flat_map(query::items);
    let mut cids = Vec::new();
    for text in values("cid") {
        if cids.len() == WATCH_CIDS_MAX {
            return Err(ApiError::bad_request(format!("more than {WATCH_CIDS_MAX} cids cannot be watched")));
        }
        cids.push(query::cid(text)?);
    }
    let names: Vec<_> = values("kind").collect();
    let kinds = match names.as_slice() {
        [] if cids.is_empty() => EventKinds::ALL,
        [] => EventKinds::OF_CIDS,
        names => names.join(",").parse().map_err(refused)?,
    };
    let format = if wants_server_sent(headers) { Format::ServerSent } else { Format::Lines };
    // The header is younger: browsers add it to the address that they began with.
    let after = match headers.get(LAST_EVENT_ID) {
        Some(id) if !id.is_empty() => Some(cursor(id.to_str().unwrap_or_default(), "header Last-Event-ID")?),
        _ => match query.find("after") {
            None | Some("") => None,
            Some(text) => Some(cursor(text, "parameter after")?),
        },
    };
    let heartbeat = (query.flag("heartbeat")? || format == Format::ServerSent).then_some(HEARTBEAT);
    Ok(Asked { query: WatchQuery { after, kinds, cids, heartbeat }, format })
}

/// Begins to watch.
pub(super) fn listing(cluster: &Cluster, asked: Asked) -> Result<Listing, ApiError> {
    let Asked { query, format } = asked;
    let events = cluster.watch(query).map_err(|error| match error.kind() {
        ErrorKind::InvalidInput => refused(error),
        _ => error.into(),
    })?;
    let encoded = events.map(move |event| {
        let mut out = Vec::with_capacity(Event::BYTES);
        write(&mut out, &event, format);
        out
    });
    let content_type = HeaderValue::from_static(match format {
        Format::Lines => "application/x-ndjson",
        Format::ServerSent => "text/event-stream",
    });
    Ok(Listing::endless(Lines::of_encoded(encoded.boxed()), content_type))
}

fn write(out: &mut Vec<u8>, event: &Event, format: Format) {
    match format {
        Format::Lines => {
            event.write(out);
            out.push(b'\n');
        }
        // No data, so no event for the page; but its browser notes how far it is.
        Format::ServerSent if event.what == Happening::Heartbeat => {
            out.extend_from_slice(format!(": heartbeat\nid: {}\n\n", event.cursor).as_bytes());
        }
        Format::ServerSent => {
            let name = event.what.as_str();
            out.extend_from_slice(format!("event: {name}\nid: {}\ndata: ", event.cursor).as_bytes());
            // JSON has no line breaks.
            event.write(out);
            out.extend_from_slice(b"\n\n");
        }
    }
}

fn wants_server_sent(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|range| {
        let name = range.split(';').next().unwrap_or_default();
        name.trim().eq_ignore_ascii_case("text/event-stream")
    })
}

fn cursor(text: &str, place: &str) -> Result<EventCursor, ApiError> {
    text.parse()
        .map_err(|error: crate::Error| ApiError::bad_request(format!("{place} invalid: {}", error.message())))
}

fn refused(error: crate::Error) -> ApiError {
    ApiError::bad_request(error.message())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::types::{
        Alert, Block, EventKind, Metric, PeerId, Pin, PinInfo, PinOptions, PinStatus, Timestamp,
        TrackerStatus,
    };

    fn asked(query: &str, headers: &[(&'static str, &'static str)]) -> Result<Asked, ApiError> {
        let headers = headers.iter().map(|(name, value)| {
            (hyper::header::HeaderName::from_static(name), HeaderValue::from_static(value))
        });
        read(&Query::parse(Some(query)).unwrap(), &headers.collect())
    }

    #[test]
    fn requests_are_read_strictly() {
        const CID: &str = "QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o";
        let plain = asked("", &[]).unwrap();
        assert_eq!((plain.format, plain.query.kinds), (Format::Lines, EventKinds::ALL));
        assert_eq!((plain.query.after, plain.query.heartbeat), (None, None));
        let full = format!(
            "after=0000000000000007-12&kind=peer,&kind=alert&cid={CID},{CID}&cid={CID}&heartbeat=true"
        );
        let full = asked(&full, &[]).unwrap().query;
        assert_eq!(full.after, Some(EventCursor::new(7, 12)));
        assert_eq!(full.kinds, EventKinds::from(EventKind::Peer) | EventKind::Alert.into());
        assert_eq!((full.cids.len(), full.heartbeat), (3, Some(HEARTBEAT)));
        assert_eq!(asked(&format!("cid={CID}"), &[]).unwrap().query.kinds, EventKinds::OF_CIDS);

        let accept = ("accept", "text/html, Text/Event-Stream;q=0.9");
        let browser =
            asked("after=0000000000000007-12", &[accept, ("last-event-id", "0000000000000007-13")]).unwrap();
        assert_eq!(
            (browser.format, browser.query.after),
            (Format::ServerSent, Some(EventCursor::new(7, 13)))
        );
        assert_eq!(browser.query.heartbeat, Some(HEARTBEAT));
        assert_eq!(asked("", &[accept, ("last-event-id", "")]).unwrap().query.after, None);

        let many = format!("cid={}", vec![CID; WATCH_CIDS_MAX + 1].join(","));
        for (query, text) in [
            ("after=1", "parameter after invalid: \"1\" is no cursor of an event"),
            ("after=0000000000000007-1&after=0000000000000007-1", "parameter after is there more than once"),
            ("kind=pinned,resync", "unknown kind of events \"resync\", expected a comma list of pinned,"),
            ("heartbeat=yes", "parameter heartbeat invalid"),
            ("cid=x", "error decoding Cid: invalid cid: "),
            ("cids=x", "unknown parameter \"cids\", expected some of after, kind, cid, heartbeat"),
            (&many, "more than 1024 cids cannot be watched"),
        ] {
            let error = asked(query, &[]).unwrap_err();
            assert!(error.status == 400 && error.message.starts_with(text), "{query}: {error}");
        }
        let error = asked("", &[("last-event-id", "\"")]).unwrap_err();
        assert!(error.message.starts_with("header Last-Event-ID invalid: "), "{error}");
    }

    #[test]
    fn every_event_is_read_as_it_was_written() {
        let peer = PeerId::random();
        let pin =
            Pin::new(Block::raw("x").cid, PinOptions { name: "a \"<b>\"".into(), ..Default::default() });
        let mut info =
            PinInfo::of_cid(pin.cid, peer, PinStatus::new(TrackerStatus::PinError, Timestamp::UNIX_EPOCH));
        (info.name, info.status.error) = ("n".to_owned(), "no\nway".to_owned());
        let metric = Metric {
            name: "ping".into(),
            peer,
            value: "{}".into(),
            expire: 7,
            valid: true,
            weight: -1,
            partitionable: false,
            received_at: 3,
        };
        for what in [
            Happening::Pinned(Arc::new(pin.clone())),
            Happening::Unpinned(Arc::new(pin)),
            Happening::Status(Arc::new(info)),
            Happening::Peer { subject: PeerId::random(), peername: "ü".into(), is_alive: true },
            Happening::Peer { subject: PeerId::random(), peername: String::new(), is_alive: false },
            Happening::Alert(Arc::new(Alert { metric, triggered_at: Timestamp::from_unix_seconds(9) })),
            Happening::Resync("why".into()),
            Happening::Heartbeat,
            Happening::Other("of later versions".into()),
        ] {
            let event =
                Event { cursor: EventCursor::new(1, 2), time: Timestamp::from_unix_seconds(5), peer, what };
            let mut out = Vec::new();
            event.write(&mut out);
            assert_eq!(serde_json::from_slice::<Event>(&out).unwrap(), event);
        }
        for broken in ["{}", "{\"type\":\"pinned\"}", "[]"] {
            assert!(serde_json::from_str::<Event>(broken).is_err());
        }
    }

    #[test]
    fn a_heartbeat_moves_a_browser_on_without_an_event() {
        let peer: PeerId = "12D3KooWKqMeRxLjvowrtRFqBWaPALNyB3tJxAiubfhe9UdwgeBK".parse().unwrap();
        let written = |what: Happening, format| {
            let cursor = EventCursor::new(7, 12);
            let event = Event { cursor, time: Timestamp::UNIX_EPOCH, peer, what };
            let mut out = Vec::new();
            write(&mut out, &event, format);
            (String::from_utf8(out).unwrap(), event)
        };
        assert_eq!(
            written(Happening::Heartbeat, Format::ServerSent).0,
            ": heartbeat\nid: 0000000000000007-12\n\n"
        );
        let json = format!(
            "{{\"cursor\":\"0000000000000007-12\",\"time\":\"1970-01-01T00:00:00Z\",\"type\":\"resync\",\
             \"peer\":\"{peer}\",\"reason\":\"a\\nb\"}}"
        );
        let (lines, event) = written(Happening::Resync("a\nb".into()), Format::Lines);
        assert_eq!(lines, format!("{json}\n"));
        assert_eq!(serde_json::from_str::<Event>(&lines).unwrap(), event);
        assert_eq!(
            written(Happening::Resync("a\nb".into()), Format::ServerSent).0,
            format!("event: resync\nid: 0000000000000007-12\ndata: {json}\n\n")
        );
    }
}
