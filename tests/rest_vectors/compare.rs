//! Where an answer of ours differs from the reference's.
//!
//! What belongs to one run is not compared but matched up: where the reference had the same time or address twice, so
//! must we.

use std::collections::BTreeMap;

use ipfs_cluster::types::Timestamp;

use super::caller::Received;
use super::node::Node;
use super::recording::{Body, Recording};

/// One difference.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    /// `status`, `header date`, `trailers`, `body`, or where in the body: `/cid/field`.
    pub(crate) place: String,
    pub(crate) theirs: String,
    pub(crate) ours: String,
}

/// What stands for what, so far.
#[derive(Debug, Default)]
pub(crate) struct Matched {
    /// Addresses, without the peer.
    addresses: BTreeMap<String, String>,
    /// Whole seconds of what was pinned, by CID and the reference's.
    pinned: BTreeMap<(String, String), String>,
}

impl Matched {
    /// The pinset was written otherwise than by requests.
    pub(crate) fn forget_pins(&mut self) {
        self.pinned.clear();
    }
}

/// All differences between an answer and the recorded one.
pub(crate) fn differences(recording: &Recording, ours: &Received, matched: &mut Matched) -> Vec<Difference> {
    let mut comparison =
        Comparison { recording, matched, exact: true, times: BTreeMap::new(), found: Vec::new() };
    comparison.answer(ours);
    comparison.found
}

struct Comparison<'a> {
    recording: &'a Recording,
    matched: &'a mut Matched,
    /// Escapes are compared.
    exact: bool,
    /// Times in one document.
    times: BTreeMap<String, String>,
    found: Vec<Difference>,
}

impl Comparison<'_> {
    fn differs(&mut self, place: &str, theirs: impl Into<String>, ours: impl Into<String>) {
        self.found.push(Difference { place: place.to_owned(), theirs: theirs.into(), ours: ours.into() });
    }

    fn same(&mut self, place: &str, theirs: impl ToString, ours: impl ToString) {
        let (theirs, ours) = (theirs.to_string(), ours.to_string());
        if theirs != ours {
            self.differs(place, theirs, ours);
        }
    }

    fn answer(&mut self, ours: &Received) {
        let theirs = &self.recording.answer;
        self.same("version", "HTTP/1.1", &ours.version);
        self.same("status", theirs.status, ours.status);
        self.headers(ours);
        let mut trailers: Vec<_> =
            ours.trailers.iter().map(|(name, value)| (name.to_lowercase(), value.clone())).collect();
        trailers.sort();
        if theirs.trailers != trailers {
            self.differs("trailers", format!("{:?}", theirs.trailers), format!("{trailers:?}"));
        }
        let text = String::from_utf8_lossy(&ours.body);
        match &theirs.body {
            Body::Text(expected) => self.same("body", expected, &text),
            Body::Documents { documents, exact } => {
                self.exact = *exact;
                self.body(documents, &text);
            }
        }
    }

    /// All headers but the date, which must be there where handlers answer. The length of a body that is compared
    /// anyway need not be the same: times have fewer digits now and then.
    fn headers(&mut self, ours: &Received) {
        let mut headers: Vec<_> =
            ours.headers.iter().map(|(name, value)| (name.to_lowercase(), value.clone())).collect();
        headers.sort();
        let dates = headers.iter().filter(|(name, _)| name == "date").count();
        if ours.status != 431 {
            self.same("header date", 1, dates);
        }
        headers.retain(|(name, _)| name != "date");
        let theirs = &self.recording.answer.headers;
        let names: std::collections::BTreeSet<_> =
            theirs.iter().chain(&headers).map(|(name, _)| name).collect();
        for name in names {
            let values = |headers: &[(String, String)]| -> Vec<String> {
                let of_name = headers.iter().filter(|(other, _)| other == name);
                of_name.map(|(_, value)| value.clone()).collect()
            };
            let (theirs, ours) = (values(theirs), values(&headers));
            let lengths = name == "content-length" && theirs.len() == ours.len();
            if theirs != ours && !lengths {
                self.differs(&format!("header {name}"), theirs.join(" | "), ours.join(" | "));
            }
        }
        if let Some(length) = ours.header("content-length") {
            self.same("header content-length", length, ours.body.len());
        }
    }

    fn body(&mut self, theirs: &[Node], text: &str) {
        let ours = match Node::documents(text) {
            Ok(ours) => ours,
            Err(error) => return self.differs("body", "JSON", format!("{error}: {text}")),
        };
        let written: String = ours.iter().map(|document| document.write() + "\n").collect();
        self.same("spaces", &written, text);
        // But for uploads, whose lines come in order.
        let chunked = self.recording.answer.chunks.is_some() && !self.recording.path.starts_with("/add");
        if !chunked {
            self.same("documents", theirs.len(), ours.len());
            for (theirs, ours) in theirs.iter().zip(&ours) {
                self.document("", theirs, ours);
            }
            return;
        }
        // Lines come in any order.
        for document in theirs {
            let key = key(document);
            match ours.iter().find(|ours| self::key(ours) == key) {
                Some(ours) => self.document(&format!("/{key}"), document, ours),
                None => self.differs(&format!("/{key}"), document.write(), "no such line"),
            }
        }
        for document in &ours {
            let key = key(document);
            let times = |documents: &[Node]| documents.iter().filter(|one| self::key(one) == key).count();
            let (expected, found) = (times(theirs), times(&ours));
            if expected < found {
                self.differs(&format!("/{key}"), format!("{expected} such lines"), document.write());
            }
        }
    }

    fn document(&mut self, place: &str, theirs: &Node, ours: &Node) {
        self.times.clear();
        let cid = theirs.get("cid").and_then(Node::text).unwrap_or_default().to_owned();
        self.value(place, &cid, theirs, ours);
        let time = |node: &Node| node.get("timestamp").and_then(Node::text).map(seconds);
        if let (Some(theirs), Some(ours)) = (time(theirs), time(ours)) {
            // A pin: what it says of its time holds for its status.
            self.matched.pinned.insert((cid, theirs), ours);
        }
    }

    fn value(&mut self, place: &str, cid: &str, theirs: &Node, ours: &Node) {
        let field = place.rsplit('/').next().unwrap_or_default();
        match (theirs, ours) {
            (Node::Fields(theirs), Node::Fields(ours)) => {
                let names = |fields: &[(String, Node)]| -> Vec<String> {
                    fields.iter().map(|(name, _)| name.clone()).collect()
                };
                let (expected, found) = (names(theirs), names(ours));
                if expected != found {
                    let place = format!("{place}{{}}");
                    self.differs(&place, expected.join(" "), found.join(" "));
                }
                for (name, theirs) in theirs {
                    if let Some((_, ours)) = ours.iter().find(|(other, _)| other == name) {
                        self.value(&format!("{place}/{name}"), cid, theirs, ours);
                    }
                }
            }
            (Node::List(theirs), Node::List(ours)) => {
                if theirs.len() != ours.len() {
                    let write = |items: &[Node]| Node::List(items.to_vec()).write();
                    self.differs(&format!("{place}[]"), write(theirs), write(ours));
                    // What has a name can be found nevertheless.
                    for theirs in theirs.iter().filter(|theirs| theirs.get("name").is_some()) {
                        let same = ours.iter().find(|ours| ours.get("name") == theirs.get("name"));
                        let place = format!("{place}/{}", theirs.get("name").and_then(Node::text).unwrap());
                        match same {
                            Some(ours) => self.value(&place, cid, theirs, ours),
                            None => self.differs(&place, theirs.write(), "none of this name"),
                        }
                    }
                    return;
                }
                let (mut theirs, mut ours) = (theirs.clone(), ours.clone());
                if self.recording.path == "/monitor/metrics" {
                    // Names of metrics come in any order.
                    theirs.sort_by_key(Node::write);
                    ours.sort_by_key(Node::write);
                }
                for (number, (theirs, ours)) in theirs.iter().zip(&ours).enumerate() {
                    let place = match field {
                        "addresses" | "cluster_peers_addresses" => format!("{place}/*address"),
                        _ => format!("{place}/{number}"),
                    };
                    self.value(&place, cid, theirs, ours);
                }
            }
            (Node::Text(expected), Node::Text(found)) => match field {
                "timestamp" | "created" | "expire_at" | "triggered_at" => {
                    self.time(place, cid, &expected.value, &found.value);
                }
                "*address" => self.address(place, &expected.value, &found.value),
                _ if self.exact => {
                    self.same(place, without_port(&expected.written), without_port(&found.written))
                }
                _ => self.same(place, without_port(&expected.value), without_port(&found.value)),
            },
            (Node::Word(expected), Node::Word(found)) => match field {
                "expire" | "received_at" => {
                    let plausible = |word: &str| word.parse::<i64>().is_ok_and(|time| time > 1 << 60);
                    self.same(place, plausible(expected), plausible(found));
                }
                _ => self.same(place, expected, found),
            },
            _ => self.differs(place, theirs.write(), ours.write()),
        }
    }

    fn time(&mut self, place: &str, cid: &str, theirs: &str, ours: &str) {
        let kind = |text: &str| match text {
            _ if text.parse::<Timestamp>().is_err() => "no time",
            "0001-01-01T00:00:00Z" => "none",
            _ if text.contains('.') => "nanoseconds",
            _ => "seconds",
        };
        if kind(theirs) != kind(ours) {
            return self.differs(place, theirs, ours);
        }
        let before = self.times.entry(theirs.to_owned()).or_insert_with(|| ours.to_owned()).clone();
        let pinned = self.matched.pinned.get(&(cid.to_owned(), theirs.to_owned())).cloned();
        let pinned = pinned.filter(|_| kind(theirs) == "seconds" && !place.ends_with("expire_at"));
        if before != ours || pinned.is_some_and(|pinned| pinned != ours) {
            self.differs(place, format!("{theirs} as before"), format!("{ours}, but {before} before"));
        }
    }

    fn address(&mut self, place: &str, theirs: &str, ours: &str) {
        let (theirs_at, theirs_peer) = theirs.split_once("/p2p/").unwrap_or((theirs, ""));
        let (ours_at, ours_peer) = ours.split_once("/p2p/").unwrap_or((ours, ""));
        let known = self.matched.addresses.entry(theirs_at.to_owned()).or_insert_with(|| ours_at.to_owned());
        if known != ours_at || theirs_peer != ours_peer {
            self.differs(place, theirs, ours);
        }
    }
}

/// What tells the lines of a listing apart.
fn key(document: &Node) -> String {
    let text = |name: &str| document.get(name).and_then(Node::text);
    text("cid").or_else(|| text("id")).unwrap_or_default().to_owned()
}

/// A text without the port of a daemon.
fn without_port(text: &str) -> String {
    const HOST: &str = "127.0.0.1:";
    let mut parts = text.split(HOST);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + HOST + part.trim_start_matches(|char: char| char.is_ascii_digit()))
}

/// A time without its fraction.
fn seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => time.to_owned(),
    }
}
