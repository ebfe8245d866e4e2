//! Why a command ended early, and with which exit code.

use std::io;

use ipfs_cluster::client::ApiError;
use ipfs_cluster::{Error, ErrorKind};

/// The reference's exit codes.
const EXIT_LOCAL: u8 = 1;
const EXIT_REFUSED: u8 = 2;
const EXIT_TIMED_OUT: u8 = 62;

#[derive(Debug)]
pub(crate) enum Failure {
    /// Nobody was asked, or the answer made no sense: `error <doing>: <text>` on stderr.
    Local { doing: &'static str, text: String, exit_code: u8 },
    /// The API refused, or with code 0, nobody answered: an error block on stdout.
    Answer(Answer),
    /// Nobody reads what we write any more.
    ClosedPipe,
}

/// What is printed as an error block.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) message: String,
}

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub(crate) fn local(doing: &'static str, text: impl ToString) -> Self {
        Self::Local { doing, text: text.to_string(), exit_code: EXIT_LOCAL }
    }

    pub(crate) fn timed_out(doing: &'static str) -> Self {
        Self::Local { doing, text: "context deadline exceeded".to_owned(), exit_code: EXIT_TIMED_OUT }
    }

    /// The same failure as part of something larger that is done on this side.
    pub(crate) fn while_doing(self, doing: &'static str) -> Self {
        match self {
            Self::Answer(Answer { code, message }) => Self::local(doing, format!("{message} ({code})")),
            Self::Local { text, exit_code, .. } => Self::Local { doing, text, exit_code },
            Self::ClosedPipe => Self::ClosedPipe,
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Local { exit_code, .. } => *exit_code,
            Self::Answer(Answer { code: 0, .. }) => EXIT_LOCAL,
            Self::Answer(_) => EXIT_REFUSED,
            // The reader had enough, as `head` has.
            Self::ClosedPipe => 0,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match (ApiError::of(&error), error.kind()) {
            (Some(refusal), _) => {
                Self::Answer(Answer { code: refusal.code, message: refusal.message.clone() })
            }
            (None, ErrorKind::Unavailable | ErrorKind::Timeout) => {
                Self::Answer(Answer { code: 0, message: error.to_string() })
            }
            (None, _) => Self::local("", error),
        }
    }
}

/// Of writing to stdout.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::ClosedPipe
        } else {
            Self::local("writing the output", error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_tell_refusals_from_silence_and_from_mistakes() {
        let refusal: Failure = ApiError { code: 404, message: "not found".into() }.into_error().into();
        let silence: Failure = Error::new(ErrorKind::Unavailable, "connection refused").into();
        let mistake: Failure = Error::invalid_input("bad cid").into();
        let broken: Failure = Error::new(ErrorKind::Corrupt, "bad line").into();
        let closed: Failure = io::Error::from(io::ErrorKind::BrokenPipe).into();
        let full: Failure = io::Error::from(io::ErrorKind::StorageFull).into();
        let codes = [&refusal, &silence, &mistake, &broken, &closed, &full].map(Failure::exit_code);
        assert_eq!(codes, [2, 1, 1, 1, 0, 1]);
        assert_eq!(Failure::timed_out("waiting").exit_code(), 62);
        assert!(matches!(
            refusal.while_doing("waiting"),
            Failure::Local { doing: "waiting", text, exit_code: 1 } if text == "not found (404)"
        ));
    }
}
