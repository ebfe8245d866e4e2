//! Where an export goes: standard output, or a file that is complete or not there.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use ipfs_cluster::{Error, Result};

/// Bytes collected before they are written.
const BUFFER_BYTES: usize = 256 << 10;

/// A destination. A file appears under its name when [`Output::finish`] returns, so an export that fails does not
/// take the last good one with it.
#[derive(Debug)]
pub enum Output {
    /// Standard output, or a path that is no plain file, such as a pipe.
    Stream(Box<dyn WriteDebug>),
    /// A file, written under another name beside it.
    File {
        /// The writer.
        writer: BufWriter<File>,
        /// Where it is written.
        temporary: PathBuf,
        /// Where it will be.
        path: PathBuf,
    },
}

/// A writer that can be shown in `Debug`.
pub trait WriteDebug: Write + Send + std::fmt::Debug {}
impl<T: Write + Send + std::fmt::Debug> WriteDebug for T {}

impl Output {
    /// Standard output if no path is given.
    ///
    /// # Errors
    /// `Io` or `NotFound` naming the file.
    pub fn create(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else {
            return Ok(Self::Stream(Box::new(BufWriter::with_capacity(BUFFER_BYTES, io::stdout()))));
        };
        let failed = |source| Error::io(format!("open {}", path.display()), source);
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            let stream = File::options().write(true).open(path).map_err(failed)?;
            return Ok(Self::Stream(Box::new(BufWriter::with_capacity(BUFFER_BYTES, stream))));
        }
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
        let file = File::create(&temporary).map_err(failed)?;
        Ok(Self::File { writer: BufWriter::with_capacity(BUFFER_BYTES, file), temporary, path })
    }

    /// Returns once everything is written, and for a file, on disk under its name.
    ///
    /// # Errors
    /// `Io` or `StorageFull`; a file of that name is then what it was before.
    pub fn finish(mut self) -> Result<()> {
        let failed = |source| Error::io("writing the export", source);
        self.flush().map_err(failed)?;
        if let Self::File { writer, temporary, path } = &self {
            writer.get_ref().sync_all().map_err(failed)?;
            fs::rename(temporary, path).map_err(failed)?;
        }
        Ok(())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stream(stream) => stream.write(bytes),
            Self::File { writer, .. } => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stream(stream) => stream.flush(),
            Self::File { writer, .. } => writer.flush(),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Self::File { temporary, .. } = self {
            // Gone already if it was finished.
            let _ = fs::remove_file(temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_when_it_is_finished_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("export.json");
        fs::write(&path, "old").unwrap();
        let mut output = Output::create(Some(&path)).unwrap();
        output.write_all(b"new").unwrap();
        drop(output);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        let mut output = Output::create(Some(&path)).unwrap();
        output.write_all(b"new").unwrap();
        output.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(Output::create(Some(&folder.path().join("no/such/folder"))).is_err());
    }
}
