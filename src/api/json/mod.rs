//! The JSON of pins and statuses, written by hand.
//!
//! Listings have a million lines. Their time went to base58, base32, dates and allocations on the way from a value to
//! its text, so these types have writers of their own, which give what their serde form gives (a property test
//! compares them). Everything else goes through serde.

mod strings;

use std::collections::BTreeMap;

pub(crate) use self::strings::{string, value};
pub(crate) use crate::types::text::pin::Shape;
pub(crate) use crate::types::text::time::Civil;
use crate::types::text::{self, ids, list, time};
use crate::types::{Added, Event, GlobalPinInfo, Happening, Multiaddr, PeerId, Pin, PinStatus};

/// A value that is one line of a listing, without the line's end.
pub(crate) trait Line: Send + 'static {
    /// About how many bytes a line has, to reserve them.
    const BYTES: usize;

    /// Appends the value's JSON.
    fn write(&self, out: &mut Vec<u8>);
}

impl Line for Pin {
    const BYTES: usize = 512;

    fn write(&self, out: &mut Vec<u8>) {
        pin(out, self, Shape::Stored);
    }
}

impl Line for GlobalPinInfo {
    const BYTES: usize = 512;

    fn write(&self, out: &mut Vec<u8>) {
        global_pin_info(out, self);
    }
}

impl Line for Event {
    const BYTES: usize = 768;

    fn write(&self, out: &mut Vec<u8>) {
        event(out, self);
    }
}

impl Line for Added {
    const BYTES: usize = 256;

    fn write(&self, out: &mut Vec<u8>) {
        added(out, self);
    }
}

/// A pin.
pub(crate) fn pin(out: &mut Vec<u8>, pin: &Pin, shape: Shape) {
    text::pin::pin(out, pin, shape, string);
}

/// What all peers say of one CID.
pub(crate) fn global_pin_info(out: &mut Vec<u8>, info: &GlobalPinInfo) {
    out.extend_from_slice(b"{\"cid\":");
    ids::cid(out, &info.cid);
    out.extend_from_slice(b",\"name\":");
    string(out, &info.name);
    out.extend_from_slice(b",\"allocations\":");
    peers(out, &info.allocations);
    out.extend_from_slice(b",\"origins\":");
    addresses(out, &info.origins);
    out.extend_from_slice(b",\"created\":");
    time::or_zero(out, info.created);
    out.extend_from_slice(b",\"metadata\":");
    metadata(out, &info.metadata);
    out.extend_from_slice(b",\"peer_map\":{");
    for (index, (peer, status)) in info.peer_map.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        ids::peer(out, peer);
        out.push(b':');
        pin_status(out, status);
    }
    out.extend_from_slice(b"}}");
}

fn pin_status(out: &mut Vec<u8>, status: &PinStatus) {
    out.extend_from_slice(b"{\"peername\":");
    string(out, &status.peername);
    if let Some(daemon) = &status.ipfs_peer_id {
        out.extend_from_slice(b",\"ipfs_peer_id\":");
        ids::peer(out, daemon);
    }
    if !status.ipfs_peer_addresses.is_empty() {
        out.extend_from_slice(b",\"ipfs_peer_addresses\":");
        addresses(out, &status.ipfs_peer_addresses);
    }
    out.extend_from_slice(b",\"status\":\"");
    out.extend_from_slice(status.status.as_str().as_bytes());
    out.extend_from_slice(b"\",\"timestamp\":");
    time::or_zero(out, status.timestamp);
    out.extend_from_slice(b",\"error\":");
    string(out, &status.error);
    out.extend_from_slice(b",\"attempt_count\":");
    text::unsigned(out, status.attempt_count.into());
    out.extend_from_slice(b",\"priority_pin\":");
    boolean(out, status.priority_pin);
    out.push(b'}');
}

/// What happened to whoever watches: what all have in common, then what it is about.
fn event(out: &mut Vec<u8>, event: &Event) {
    out.extend_from_slice(b"{\"cursor\":");
    text::plain(out, &event.cursor);
    out.extend_from_slice(b",\"time\":");
    time::or_zero(out, Some(event.time));
    out.extend_from_slice(b",\"type\":");
    string(out, event.what.as_str());
    out.extend_from_slice(b",\"peer\":");
    ids::peer(out, &event.peer);
    if let Some(cid) = event.what.cid() {
        out.extend_from_slice(b",\"cid\":");
        ids::cid(out, cid);
    }
    match &event.what {
        Happening::Pinned(entry) | Happening::Unpinned(entry) => {
            out.extend_from_slice(b",\"pin\":");
            pin(out, entry, Shape::Stored);
        }
        Happening::Status(info) => {
            out.extend_from_slice(b",\"name\":");
            string(out, &info.name);
            out.extend_from_slice(b",\"info\":");
            pin_status(out, &info.status);
        }
        Happening::Peer { subject, peername, is_alive } => {
            out.extend_from_slice(b",\"subject\":");
            ids::peer(out, subject);
            out.extend_from_slice(b",\"peername\":");
            string(out, peername);
            out.extend_from_slice(b",\"state\":");
            string(out, if *is_alive { "appeared" } else { "expired" });
        }
        Happening::Alert(alert) => {
            out.extend_from_slice(b",\"alert\":");
            // Into memory, of texts and numbers.
            let _ = value(out, &**alert);
        }
        Happening::Resync(reason) => {
            out.extend_from_slice(b",\"reason\":");
            string(out, reason);
        }
        Happening::Heartbeat | Happening::Other(_) => {}
    }
    out.push(b'}');
}

/// What something that was added became; zeros and who has it are told where there is something to tell.
fn added(out: &mut Vec<u8>, added: &Added) {
    out.extend_from_slice(b"{\"name\":");
    string(out, &added.name);
    out.extend_from_slice(b",\"cid\":");
    match &added.cid {
        Some(cid) => ids::cid(out, cid),
        None => out.extend_from_slice(b"null"),
    }
    for (key, number) in [("bytes", added.bytes), ("size", added.size)] {
        if number > 0 {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(b"\":");
            text::unsigned(out, number);
        }
    }
    if !added.allocations.is_empty() {
        out.extend_from_slice(b",\"allocations\":");
        peers(out, &added.allocations);
    }
    out.push(b'}');
}

fn boolean(out: &mut Vec<u8>, value: bool) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

fn peers(out: &mut Vec<u8>, peers: &[PeerId]) {
    list(out, peers, ids::peer);
}

fn addresses(out: &mut Vec<u8>, addresses: &[Multiaddr]) {
    text::pin::addresses(out, addresses, string);
}

fn metadata(out: &mut Vec<u8>, metadata: &BTreeMap<String, String>) {
    text::pin::metadata(out, metadata, string);
}

#[cfg(test)]
mod tests;
