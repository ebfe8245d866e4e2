//! Sockets in the file system.

use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, os::unix::net::UnixListener as StdListener};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};
use tracing::{debug, info};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// How long whoever listens on a socket may take to take us.
const IS_ALIVE_TIMEOUT: Duration = Duration::from_secs(1);
/// What others than the owner and its group may not do: anything. Connecting takes the right to write.
const MODE_MAX: u32 = 0o770;

/// A listening socket and its file, which goes with it.
#[derive(Debug)]
pub(super) struct Listening {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode, to know our file again.
    file: Option<(u64, u64)>,
}

impl Listening {
    /// Listens. A socket that a dead process left behind is replaced.
    ///
    /// Its file has the mode that the process's umask leaves, as in the reference, but never anything for users that
    /// are neither the owner nor in its group. Nobody can connect before that is so.
    ///
    /// # Errors
    /// `AddrInUse` when somebody listens there, or when something else than a socket is there; what the system says.
    pub(super) async fn bind(path: &Path) -> io::Result<Self> {
        let address = SockAddr::unix(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        match socket.bind(&address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                remove_if_dead(path).await?;
                socket.bind(&address)?;
            }
            bound => bound?,
        }
        let metadata = fs::symlink_metadata(path)?;
        let mode = metadata.permissions().mode() & MODE_MAX;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let listener = UnixListener::from_std(StdListener::from(socket))?;
        Ok(Self { listener, path: path.to_owned(), file: Some((metadata.dev(), metadata.ino())) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let Some(ours) = self.file.take() else { return };
        let is_ours = fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == ours);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            debug!(%error, path = %self.path.display(), "the file of a socket was not removed");
        }
    }
}

/// Removes a socket on which nobody listens.
async fn remove_if_dead(path: &Path) -> io::Result<()> {
    let in_use = |why: &str| Err(io::Error::new(ErrorKind::AddrInUse, why.to_owned()));
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return in_use("address already in use: something else than a socket is there");
    }
    match tokio::time::timeout(IS_ALIVE_TIMEOUT, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {
            info!(path = %path.display(), "replacing the socket that a process left behind");
            fs::remove_file(path)
        }
        // It listens, or takes too long to, or does not let us ask.
        _ => in_use("address already in use: another process listens there"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists());

        let listening = Listening::bind(&path).await.unwrap();
        assert_eq!(mode(&path) & 0o007, 0, "{:o}", mode(&path));
        let error = Listening::bind(&path).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        let (accepted, connected) = tokio::join!(listening.accept(), UnixStream::connect(&path));
        assert!(accepted.is_ok() && connected.is_ok());
        drop(listening);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn only_our_own_socket_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let listening = Listening::bind(&path).await.unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "something else").unwrap();
        drop(listening);
        assert_eq!(fs::read_to_string(&path).unwrap(), "something else");

        let error = Listening::bind(&path).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert_eq!(fs::read_to_string(&path).unwrap(), "something else");
        let long = folder.path().join("x".repeat(120));
        assert_eq!(Listening::bind(&long).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
