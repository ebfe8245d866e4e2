//! What differs on purpose.

use std::fmt;

use crate::kind::Kind;

/// A difference that is meant.
pub(crate) struct Intended {
    /// The command; a star stands for its end.
    line: &'static str,
    ctl: Option<Kind>,
    daemon: Option<Kind>,
    why: &'static str,
}

impl Intended {
    pub(crate) fn covers(&self, line: &str, (ctl, daemon): (Kind, Kind)) -> bool {
        (line == self.line || self.line.strip_suffix('*').is_some_and(|start| line.starts_with(start)))
            && self.ctl.is_none_or(|kind| kind == ctl)
            && self.daemon.is_none_or(|kind| kind == daemon)
    }
}

impl fmt::Display for Intended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = match (self.ctl, self.daemon) {
            (Some(_), _) => "our ctl",
            (_, Some(_)) => "our daemon",
            _ => "either",
        };
        write!(f, "{} ({whose}): {}", self.line, self.why)
    }
}

const fn by_ctl(line: &'static str, why: &'static str) -> Intended {
    Intended { line, ctl: Some(Kind::Ours), daemon: None, why }
}

const fn by_daemon(line: &'static str, why: &'static str) -> Intended {
    Intended { line, ctl: None, daemon: Some(Kind::Ours), why }
}

const HELPFUL: &str = "the error goes on with what would be right";
const QUIET: &str = "no line of a log in front of the error";
const STRICT: &str = "what cannot be read is an error; the reference ignores it";
const PARSER: &str = "a parser says what is wrong with an id or address";
const DIRECT: &str = "direct pins show as pinned and are not recovered";

/// Every difference that is meant. One that does not show is a mistake here.
pub(crate) const INTENDED: &[Intended] = &[
    by_ctl("pin add --expire-in xyz*", HELPFUL),
    by_ctl("pin add --mode weird*", STRICT),
    by_ctl("pin add notacid", QUIET),
    by_ctl("pin add", QUIET),
    by_ctl("pin rm notacid", QUIET),
    by_ctl("pin rm", QUIET),
    by_ctl("pin ls --filter bogus", STRICT),
    by_ctl("status --filter bogus", HELPFUL),
    by_daemon("status --filter pinned", DIRECT),
    by_daemon("recover", DIRECT),
    by_daemon("peers rm 12D3*", HELPFUL),
    by_ctl("peers rm bad", PARSER),
    by_ctl("--host=/ip4/bad/tcp/1 id", PARSER),
    by_ctl("add dir", QUIET),
    by_ctl("add --nocopy f1.txt", "files can be kept by reference, and not only addresses copied"),
    by_ctl("add missing.txt", QUIET),
    by_ctl("add --allocations bad f1.txt", STRICT),
    by_ctl("add --cid-version x f1.txt", "the error without all of the help"),
    by_ctl("id surplus", STRICT),
    by_ctl("sync *", "this command exists again"),
    by_ctl("--host=/ip4/127.0.0.1/tcp/1 id", QUIET),
    by_ctl("--basic-auth a:b id", "the failure of HTTPS is told in other words"),
    by_ctl("--bogus id", "the error without all of the help"),
    by_ctl("--timeout soon id", "the error without all of the help"),
];
