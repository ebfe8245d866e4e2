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

/// Every difference that is meant. One that no pair shows is a mistake here.
pub(crate) const INTENDED: &[Intended] =
    &[meant("pin-badquery-double-body", "documents", "the reference answers twice and does it all the same")];

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

/// What the API does not serve yet; such pairs are not sent.
const PENDING: &[(&str, &str)] = &[];

/// Why a pair is not sent; none for most.
pub(crate) fn left_out(api: &str, name: &str, path: &str) -> Option<&'static str> {
    let reason = match api {
        "ipfsproxy" => "IPFS proxy",
        "pinsvc" | "pinsvc-tls" => "pinning service",
        "prometheus" => "Prometheus",
        "rest-raft" => "Raft",
        _ if path.starts_with("/add") && name != "method-GET-/add" && !name.starts_with("cors-") => {
            "adds content"
        }
        _ => return PENDING.iter().find(|(pairs, _)| fits(pairs, name)).map(|_| "pending"),
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
