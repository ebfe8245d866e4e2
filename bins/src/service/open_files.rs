//! How many files and connections this process may have open.

/// Raises the limit to the most that the system grants. Many systems start programs with room for 1,024, which is for those
/// that wait with `select`; Go's programs raise it too. What cannot be raised stays.
pub fn raise_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        if current == maximum {
            return;
        }
        if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
            tracing::debug!(%error, ?current, "the limit of open files stays as it is");
        }
    }
}
