//! The one error type of the crate: what kind, who, and what next.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, coarsely enough to decide what to do about it.
///
/// The names given by [`ErrorKind::as_str`] are stable: they travel in logs and between peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller gave something that can never work: fix the input.
    InvalidInput,
    /// The named thing does not exist.
    NotFound,
    /// What was asked contradicts what is there (another pin type, a second handler for one protocol).
    Conflict,
    /// This implementation cannot do that, now or later.
    Unsupported,
    /// This peer refuses writes (follower mode).
    ReadOnly,
    /// The other side exists but does not answer now.
    Unavailable,
    /// The other side did not answer, or made no progress, in the time it had.
    Timeout,
    /// The operation was given up because a newer one replaced it or its owner went away.
    Cancelled,
    /// A bounded queue is full: try later.
    QueueFull,
    /// The component was shut down.
    ShutDown,
    /// Fewer peers can take a pin than its replication factor asks for; the source is a
    /// [`NotEnoughPeers`](crate::allocator::NotEnoughPeers).
    NotEnoughPeers,
    /// The caller may not do this.
    Unauthorized,
    /// The other side understood and refused; the message is its own.
    Remote,
    /// Somebody else holds the folder or the lock.
    Locked,
    /// Data on disk or on the wire is not what it must be.
    Corrupt,
    /// No space is left for what has to be written.
    StorageFull,
    /// The operating system failed us.
    Io,
    /// A bug, or a component that broke its contract.
    Internal,
}

impl ErrorKind {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid_input",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Unsupported => "unsupported",
            Self::ReadOnly => "read_only",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::QueueFull => "queue_full",
            Self::ShutDown => "shut_down",
            Self::NotEnoughPeers => "not_enough_peers",
            Self::Unauthorized => "unauthorized",
            Self::Remote => "remote",
            Self::Locked => "locked",
            Self::Corrupt => "corrupt",
            Self::StorageFull => "storage_full",
            Self::Io => "io",
            Self::Internal => "internal",
        }
    }

    /// Whether trying the same again later can succeed without anybody changing the input.
    pub const fn is_temporary(self) -> bool {
        match self {
            Self::Unavailable
            | Self::Timeout
            | Self::QueueFull
            | Self::NotEnoughPeers
            | Self::Remote
            | Self::StorageFull
            | Self::Locked => true,
            Self::InvalidInput
            | Self::NotFound
            | Self::Conflict
            | Self::Unsupported
            | Self::ReadOnly
            | Self::Cancelled
            | Self::ShutDown
            | Self::Unauthorized
            | Self::Corrupt
            | Self::Io
            | Self::Internal => false,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error: kind, component, message and source.
///
/// One word wide and cheap to clone, because one failed disk sync has to be told to every writer that
/// waited for it. Outside implementations of our contracts make their own with [`Error::new`].
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    component: Option<&'static str>,
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of a kind. The message is lowercase, has no full stop, names the thing and the way out.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner { kind, component: None, message: message.into(), source: None }))
    }

    /// Says which component speaks (`"kubo"`, `"tracker"`).
    #[must_use]
    pub fn component(mut self, component: &'static str) -> Self {
        Arc::make_mut(&mut self.0).component = Some(component);
        self
    }

    /// Attaches the cause, which [`Error::downcast_source`] finds again.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let source: Box<dyn StdError + Send + Sync> = source.into();
        Arc::make_mut(&mut self.0).source = Some(Arc::from(source));
        self
    }

    /// Puts what was being done before the message: `context: message`.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        let inner = Arc::make_mut(&mut self.0);
        inner.message = format!("{context}: {}", inner.message);
        self
    }

    /// What kind it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Who said it, if it said so.
    pub fn component_name(&self) -> Option<&'static str> {
        self.0.component
    }

    /// The message alone, as [`fmt::Display`] prints it.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Whether trying again later can help, see [`ErrorKind::is_temporary`].
    pub fn is_temporary(&self) -> bool {
        self.0.kind.is_temporary()
    }

    /// The source as a concrete type, where a caller needs the details.
    pub fn downcast_source<T: StdError + 'static>(&self) -> Option<&T> {
        self.0.source.as_deref().and_then(|source| source.downcast_ref::<T>())
    }

    /// Shorthand for [`ErrorKind::InvalidInput`].
    pub fn invalid_input(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    /// Shorthand for [`ErrorKind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// Shorthand for [`ErrorKind::ShutDown`]: `component` was asked after it had stopped.
    pub fn shut_down(component: &'static str) -> Self {
        Self::new(ErrorKind::ShutDown, format!("{component} is shut down")).component(component)
    }

    /// Shorthand for [`ErrorKind::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// An operating system error, with what was being done. A full disk becomes
    /// [`ErrorKind::StorageFull`], a missing file [`ErrorKind::NotFound`].
    pub fn io(doing: impl fmt::Display, source: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match source.kind() {
            Io::NotFound => ErrorKind::NotFound,
            Io::StorageFull | Io::QuotaExceeded => ErrorKind::StorageFull,
            Io::TimedOut => ErrorKind::Timeout,
            _ => ErrorKind::Io,
        };
        Self::new(kind, format!("{doing}: {source}")).with_source(source)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.kind)?;
        if let Some(component) = self.0.component {
            write!(f, " ({component})")?;
        }
        write!(f, ": {}", self.0.message)?;
        if let Some(source) = &self.0.source {
            write!(f, " (caused by: {source})")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_word_wide() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }

    #[test]
    fn a_clone_keeps_kind_component_and_source() {
        let error = Error::io("reading x", std::io::Error::from(std::io::ErrorKind::StorageFull))
            .component("storage")
            .context("opening the folder");
        let clone = error.clone();
        assert_eq!(clone.kind(), ErrorKind::StorageFull);
        assert_eq!(clone.component_name(), Some("storage"));
        assert!(clone.downcast_source::<std::io::Error>().is_some());
        assert!(clone.to_string().starts_with("opening the folder: reading x: "), "{clone}");
    }
}
