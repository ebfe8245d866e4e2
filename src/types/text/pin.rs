//! A pin.

use std::collections::BTreeMap;

use super::{ids, list, signed, time, unsigned};
use crate::types::{Cid, Multiaddr, PeerId, Pin};

/// Two ways in which the reference writes a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As read from the pinset: empty metadata is `null`, empty origins are `[]`. Our serde form.
    Stored,
    /// As a caller submitted it: empty metadata is `{}`, empty origins are `null`.
    #[cfg_attr(not(feature = "api-rest"), allow(dead_code, reason = "for the answer to a new pin"))]
    Submitted,
}

/// Writes a quoted string; which characters are escaped, those who read it decide.
pub(crate) trait Strings: Fn(&mut Vec<u8>, &str) + Copy {}
impl<F: Fn(&mut Vec<u8>, &str) + Copy> Strings for F {}

/// A pin, with its texts as `string` writes them.
pub(crate) fn pin(out: &mut Vec<u8>, pin: &Pin, shape: Shape, string: impl Strings) {
    let options = &pin.options;
    out.extend_from_slice(b"{\"replication_factor_min\":");
    signed(out, options.replication_factor_min.into());
    out.extend_from_slice(b",\"replication_factor_max\":");
    signed(out, options.replication_factor_max.into());
    out.extend_from_slice(b",\"name\":");
    string(out, &options.name);
    out.extend_from_slice(b",\"mode\":\"");
    out.extend_from_slice(options.mode.as_str().as_bytes());
    out.extend_from_slice(b"\",\"shard_size\":");
    unsigned(out, options.shard_size);
    out.extend_from_slice(b",\"user_allocations\":");
    if options.user_allocations.is_empty() {
        out.extend_from_slice(b"null");
    } else {
        peers(out, &options.user_allocations);
    }
    out.extend_from_slice(b",\"expire_at\":");
    time::or_zero(out, options.expire_at);
    out.extend_from_slice(b",\"metadata\":");
    match shape {
        Shape::Submitted => map(out, &options.metadata, string),
        Shape::Stored => metadata(out, &options.metadata, string),
    }
    out.extend_from_slice(b",\"pin_update\":");
    cid_or_null(out, options.pin_update.as_ref());
    out.extend_from_slice(b",\"origins\":");
    match shape {
        Shape::Submitted if options.origins.is_empty() => out.extend_from_slice(b"null"),
        Shape::Submitted | Shape::Stored => addresses(out, &options.origins, string),
    }
    out.extend_from_slice(b",\"cid\":");
    ids::cid(out, &pin.cid);
    out.extend_from_slice(b",\"type\":\"");
    out.extend_from_slice(pin.pin_type.as_str().as_bytes());
    out.extend_from_slice(b"\",\"allocations\":");
    peers(out, &pin.allocations);
    out.extend_from_slice(b",\"max_depth\":");
    signed(out, pin.max_depth.into());
    out.extend_from_slice(b",\"reference\":");
    cid_or_null(out, pin.reference.as_ref());
    out.extend_from_slice(b",\"timestamp\":");
    time::or_zero(out, pin.timestamp);
    out.push(b'}');
}

fn peers(out: &mut Vec<u8>, peers: &[PeerId]) {
    list(out, peers, ids::peer);
}

/// A list of addresses.
pub(crate) fn addresses(out: &mut Vec<u8>, addresses: &[Multiaddr], string: impl Strings) {
    // Addresses may carry paths, whose characters may need escapes.
    list(out, addresses, |out, address| string(out, &address.to_string()));
}

fn cid_or_null(out: &mut Vec<u8>, cid: Option<&Cid>) {
    match cid {
        Some(cid) => ids::cid(out, cid),
        None => out.extend_from_slice(b"null"),
    }
}

/// Metadata, which is `null` when there is none.
pub(crate) fn metadata(out: &mut Vec<u8>, metadata: &BTreeMap<String, String>, string: impl Strings) {
    if metadata.is_empty() {
        out.extend_from_slice(b"null");
    } else {
        map(out, metadata, string);
    }
}

fn map(out: &mut Vec<u8>, pairs: &BTreeMap<String, String>, string: impl Strings) {
    out.push(b'{');
    for (index, (key, value)) in pairs.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        string(out, key);
        out.push(b':');
        string(out, value);
    }
    out.push(b'}');
}
