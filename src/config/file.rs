//! Files of the configuration folder: read whole with a bound, written so that a crash leaves the old one or
//! the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// Only the owner may read it: the file holds a secret.
pub(crate) const MODE_PRIVATE: u32 = 0o600;
/// Everybody may read it, unless the umask says otherwise.
pub(super) const MODE_SHARED: u32 = 0o644;
/// Mode of a configuration folder.
#[cfg(unix)]
const MODE_FOLDER: u32 = 0o700;

/// Creates a configuration folder with its parents, readable by its owner alone. One that exists is left as
/// it is.
///
/// # Errors
/// `Io` naming the folder.
pub fn create_folder(path: &Path) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, MODE_FOLDER);
    builder.create(path).map_err(|source| failed("mkdir", path, source))
}

/// Reads a text file of at most `bytes_max` bytes.
pub(crate) fn read_text(path: &Path, bytes_max: u64) -> Result<String> {
    let file = File::open(path).map_err(|source| failed("open", path, source))?;
    let mut text = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut text).map_err(|source| failed("read", path, source))?;
    if text.len() as u64 > bytes_max {
        return Err(Error::invalid_input(format!(
            "read {}: the file is larger than {bytes_max} bytes, which no configuration needs",
            path.display()
        ))
        .component("config"));
    }
    String::from_utf8(text).map_err(|source| {
        Error::invalid_input(format!("read {}: the file is not UTF-8 text", path.display()))
            .component("config")
            .with_source(source)
    })
}

/// Replaces a file. When it returns, the new content is on disk under that name; when it fails, the old file
/// is untouched.
pub(crate) fn write_atomically(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    // A rename would replace a link by a file, and what it points to would go stale.
    let path = if path.is_symlink() {
        &fs::canonicalize(path).map_err(|source| failed("open", path, source))?
    } else {
        path
    };
    let temporary = temporary_beside(path);
    let written = write_new(&temporary, content, mode)
        .map_err(|source| failed("write", &temporary, source))
        .and_then(|()| fs::rename(&temporary, path).map_err(|source| failed("write", path, source)));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_folder(path).map_err(|source| failed("sync the folder of", path, source))
}

/// An error of the operating system in the reference's words: `open <path>: no such file or directory`.
pub(super) fn failed(operation: &str, path: &Path, source: io::Error) -> Error {
    let path = path.display();
    match source.kind() {
        io::ErrorKind::NotFound => {
            Error::not_found(format!("{operation} {path}: no such file or directory")).with_source(source)
        }
        io::ErrorKind::PermissionDenied => {
            Error::new(ErrorKind::Io, format!("{operation} {path}: permission denied")).with_source(source)
        }
        _ => Error::io(format!("{operation} {path}"), source),
    }
    .component("config")
}

/// A name beside the file that no other writer of this machine uses.
fn temporary_beside(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.{}.{number}.tmp", std::process::id()))
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    // Only a crash of a process with our number can have left one, perhaps with another mode.
    let _ = fs::remove_file(path);
    let mut file = options.open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Makes a rename durable. Windows has no such call and needs none.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_file_has_its_content_and_mode_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("service.json");
        write_atomically(&path, b"one", MODE_PRIVATE).unwrap();
        write_atomically(&path, b"two", MODE_PRIVATE).unwrap();
        assert_eq!(read_text(&path, 3).unwrap(), "two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_write_that_fails_keeps_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peerstore");
        // A folder in the way cannot be replaced by a file.
        fs::create_dir(&path).unwrap();
        fs::write(path.join("kept"), "x").unwrap();
        assert!(write_atomically(&path, b"new", MODE_SHARED).is_err());
        assert!(path.join("kept").exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        write_atomically(&link, b"new", MODE_PRIVATE).unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&target).unwrap(), "new");
    }

    #[test]
    fn a_file_that_is_missing_too_large_or_not_text_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let missing = read_text(&path, 10).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert_eq!(missing.to_string(), format!("open {}: no such file or directory", path.display()));
        fs::write(&path, "12345").unwrap();
        assert!(read_text(&path, 4).unwrap_err().to_string().contains("larger than 4 bytes"));
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(read_text(&path, 4).unwrap_err().to_string().contains("not UTF-8"));
    }

    #[cfg(unix)]
    #[test]
    fn a_new_folder_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        create_folder(&path).unwrap();
        create_folder(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
