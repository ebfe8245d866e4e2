//! What differs on purpose.

use std::fmt;

use crate::world::Kind;

/// A difference that is meant.
pub(crate) struct Intended {
    /// How the command begins.
    line: &'static str,
    ctl: Option<Kind>,
    daemon: Option<Kind>,
    why: &'static str,
}

impl Intended {
    pub(crate) fn covers(&self, line: &str, (ctl, daemon): (Kind, Kind)) -> bool {
        line.starts_with(self.line)
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

/// Every difference that is meant. One that does not show is a mistake here.
pub(crate) const INTENDED: &[Intended] = &[by_ctl("bogus", ""), by_daemon("bogus", "")];
