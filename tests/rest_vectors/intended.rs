//! What differs on purpose, and what is not replayed.

/// A difference that is meant.
pub(crate) struct Intended {
    /// The pair; a star stands for anything.
    pub(crate) pair: &'static str,
    /// Where in the answer; a star stands for anything.
    pub(crate) place: &'static str,
    pub(crate) why: &'static str,
}

const fn meant(pair: &'static str, place: &'static str, why: &'static str) -> Intended {
    Intended { pair, place, why }
}

const ONE_ANSWER: &str =
    "a bad query is answered once and nothing is done; the reference answers twice and goes on";
const STRICT: &str = "what cannot be read is refused; the reference ignores it";
const HELPFUL: &str = "the text of the reference, and then the valid values or an example";
const PARSERS: &str = "the reference's text, but what follows is said by a parser";
const DIRECT: &str = "direct pins are pinned; the reference does not see them when it lists everything";
const DIRECT_MEANT: &str = "mode=direct by CID pins directly; the reference says so and pins recursively";
const NOT_PINNED: &str = "what is not pinned has no time and no empty list is null";
const SYNC: &str = "these requests exist again";
const REAL_STATUS: &str =
    "a filter selects by the real status; the reference shows some items with a made-up one";
const OTHER_NETWORK: &str = "what the network says of a peer that it cannot reach; this one is in memory";
#[cfg(feature = "add")]
const EMPTY: &str = "an upload of nothing is answered with an error; the reference drops the connection";
const PINSET: &str = "GET /peers says how the pinsets of peers compare";
const ALERTS: &str = "every metric that expires is an alert; the reference stops early";
const DAEMON_DOWN: &str =
    "while the daemon is down items have the status cluster_error; the reference lists none";
const DAEMON_DOWN_ONE: &str = "while the daemon is down what the pinset knows of an item is said";
const FAILED_UNPINS: &str = "failed unpins are shown and can be recovered also once the CID left the pinset";

/// Every difference that is meant. One that no pair shows is a mistake here.
pub(crate) const INTENDED: &[Intended] = &[
    meant("pin-badquery-double-body", "documents", ONE_ANSWER),
    meant("pin-expire-*", "documents", ONE_ANSWER),
    meant("pin-origin-*", "documents", ONE_ANSWER),
    meant("pin-update-badcid", "documents", ONE_ANSWER),
    meant("pin-shardsize-bad", "documents", ONE_ANSWER),
    meant("pin-ok-user-alloc-invalid-ignored", "*", STRICT),
    meant("pin-mode-unknown", "*", STRICT),
    meant("allocations-filter-mixed-bad", "*", STRICT),
    meant("status-filter-mixed-bad", "*", STRICT),
    meant("allocations-filter-bad", "/message", HELPFUL),
    meant("status-filter-bad", "/message", HELPFUL),
    meant("pin-expire-in-bad", "/message", HELPFUL),
    meant("pin-expire-at-bad", "/message", HELPFUL),
    meant("peer-rm-crdt", "/message", HELPFUL),
    meant("pin-origin-bad", "/message", PARSERS),
    meant("pin-path-bad", "/message", PARSERS),
    meant("status-cids-bad", "/message", PARSERS),
    meant("peer-rm-bad", "/message", PARSERS),
    meant("pin-direct-by-cid", "/max_depth", DIRECT_MEANT),
    meant("status-all*", "/Qmdzc2*/peer_map/*", DIRECT),
    meant("status-filter-pinned", "/Qmdzc2*", DIRECT),
    meant("status-filter-unexp", "*", DIRECT),
    meant("recover-all", "*", DIRECT),
    meant("recover-all-local", "*", DIRECT),
    meant("recover-all-error", "*", DIRECT),
    meant("recover-all-error#2", "/bafyreibka*", DIRECT),
    meant("recover-all-error#2", "/Qmdzc2*", DIRECT),
    meant("dead-status-all-pinned", "/Qmdzc2*", DIRECT),
    meant("status-filter-unexp-with-error", "*", REAL_STATUS),
    meant("status-unpinned*", "/*", NOT_PINNED),
    meant("recover-not-found", "/*", NOT_PINNED),
    meant("status-after-unpin*", "/*", NOT_PINNED),
    meant("status-cids", "/QmUNL*", NOT_PINNED),
    meant("ipfsdown-*unpin*", "*/origins", NOT_PINNED),
    meant("ipfsdown-*unpin*", "*/created", NOT_PINNED),
    meant("old-sync-*", "*", SYNC),
    meant("peer-add-unknown", "/message", OTHER_NETWORK),
    meant("dead-*", "*/error", OTHER_NETWORK),
    meant("expired-status-alloc-B", "*/error", OTHER_NETWORK),
    meant("two-peers", "*{}", PINSET),
    meant("alerts", "[]", ALERTS),
    #[cfg(feature = "add")]
    meant("add-empty-multipart", "*", EMPTY),
    meant("ipfsdown-status", "/allocations", DAEMON_DOWN_ONE),
    meant("ipfsdown-status", "/origins", DAEMON_DOWN_ONE),
    meant("ipfsdown-status", "/created", DAEMON_DOWN_ONE),
    meant("ipfsdown-status-all", "*", DAEMON_DOWN),
    meant("ipfsdown-status-all-local", "*", DAEMON_DOWN),
    meant("ipfsdown-status-unpinned", "/peer_map/*", FAILED_UNPINS),
    meant("ipfsdown-recover-local", "*", FAILED_UNPINS),
    meant("ipfsdown-recover-all", "*", FAILED_UNPINS),
];

/// Requests that come after a pair whose answer differs, so that the world goes on as it was recorded.
pub(crate) const AFTERWARDS: &[(&str, &[(&str, &str)])] = &[
    ("pin-badquery-double-body", &[("POST", "/pins/QmSfLijvKSSSrqByn4XM8gjXHXmKx8gPpogoNQcDRYakrv")]),
    (
        "pin-ok-user-alloc-invalid-ignored",
        &[("POST", "/pins/QmejFKHuopWaRcV2h2JrW4RP5gwtJRfXavWz3Ex46fe6Xb?replication=1")],
    ),
    (
        "pin-direct-by-cid",
        &[
            ("DELETE", "/pins/QmWJA96EZbDz2s3RWPPB8grTF3vYJM8VESAqNttiTv78yh"),
            ("POST", "/pins/QmWJA96EZbDz2s3RWPPB8grTF3vYJM8VESAqNttiTv78yh"),
        ],
    ),
    ("pin-mode-unknown", &[("POST", "/pins/QmSfLijvKSSSrqByn4XM8gjXHXmKx8gPpogoNQcDRYakrv")]),
];

/// Why a pair is not sent; none for most.
pub(crate) fn left_out(api: &str, name: &str, path: &str) -> Option<&'static str> {
    let reason = match api {
        "ipfsproxy" => "IPFS proxy",
        "pinsvc" | "pinsvc-tls" => "pinning service",
        "prometheus" => "Prometheus",
        "rest-raft" if cfg!(not(feature = "consensus-raft")) => "Raft, which this build does not have",
        _ if cfg!(not(feature = "add"))
            && path.starts_with("/add")
            && name != "method-GET-/add"
            && !name.starts_with("cors-") =>
        {
            "adds content, which this build does not"
        }
        _ => return None,
    };
    Some(reason)
}

/// Whether a text fits a pattern in which a star stands for anything.
pub(crate) fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|tail| {
            (0..=tail.len()).filter(|at| tail.is_char_boundary(*at)).any(|at| fits(rest, &tail[at..]))
        }),
    }
}
