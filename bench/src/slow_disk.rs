//! A disk on which it takes longer until something is safe, as on most servers: `strace` holds up the answers to the calls
//! that wait for the disk, of all threads of a program, and stops it at no other call.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

/// The calls that wait for the disk.
const CALLS: &str = "fsync,fdatasync,sync_file_range,msync";
/// Syncs that the disk's own time is taken of.
const OWN_SYNCS: usize = 200;

/// How much longer syncs take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlowDisk {
    delay: Duration,
}

impl SlowDisk {
    pub(crate) fn new(delay: Duration) -> Self {
        Self { delay }
    }

    /// Whether there is what it takes.
    ///
    /// # Errors
    /// What is missing.
    pub(crate) async fn check() -> Result<()> {
        let mut command = Self::new(Duration::ZERO).arguments(Path::new("/dev/null"));
        let output = command.arg("true").output().await.context("strace is not installed")?;
        if !output.status.success() {
            bail!("strace does not work here: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// A command that runs what is given as its further arguments, and notes its syncs. The program is the process that is
    /// started, and strace watches it from aside, so that it can be signalled and measured as ever.
    pub(crate) fn arguments(self, notes: &Path) -> Command {
        let mut command = Command::new("strace");
        command.args(["-D", "-f", "-qq", "--seccomp-bpf", "-o"]).arg(notes);
        command.arg("-e").arg(format!("trace={CALLS}"));
        command.arg("-e").arg(format!("inject={CALLS}:delay_exit={}", self.delay.as_micros()));
        command.arg("--");
        command
    }

    /// Where the syncs of a peer in a folder are noted.
    pub(crate) fn notes(folder: &Path) -> PathBuf {
        folder.with_extension("syncs")
    }

    /// How many syncs were noted so far.
    pub(crate) fn syncs(folder: &Path) -> Result<u64> {
        let notes = BufReader::new(File::open(Self::notes(folder))?);
        let mut syncs = 0;
        for line in notes.lines() {
            // One that another thread's came between is noted a second time, when it ends.
            syncs += u64::from(!line?.contains("resumed>"));
        }
        Ok(syncs)
    }
}

/// How long the disk itself takes to make a page of a file safe: median.
pub(crate) fn own_sync_time(folder: &Path) -> Result<Duration> {
    let path = folder.join("sync-time");
    let mut file = File::create_new(&path)?;
    let mut times = Vec::with_capacity(OWN_SYNCS);
    for _ in 0..OWN_SYNCS {
        file.write_all(&[0x5A; 4096])?;
        let started = Instant::now();
        file.sync_data()?;
        times.push(started.elapsed());
    }
    std::fs::remove_file(path)?;
    times.sort_unstable();
    Ok(times[OWN_SYNCS / 2])
}

/// Reads a time of a command line: `500us`, `2ms`.
pub(crate) fn parse_delay(text: &str) -> Result<Duration, String> {
    let split = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is no time, as 500us or 2ms are"))?;
    match unit {
        "us" => Ok(Duration::from_micros(number)),
        "ms" => Ok(Duration::from_millis(number)),
        _ if number == 0 => Ok(Duration::ZERO),
        _ => Err(format!("{text:?} has no unit: us or ms")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_unit() {
        for (text, expected) in [("0", 0), ("500us", 500), ("2ms", 2_000)] {
            assert_eq!(parse_delay(text), Ok(Duration::from_micros(expected)), "{text}");
        }
        for text in ["", "5", "ms", "5s", "-1ms"] {
            assert!(parse_delay(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn syncs_are_counted_once_also_where_threads_interleave() {
        let folder = tempfile::tempdir().unwrap();
        let peer = folder.path().join("peer");
        let notes = "1 fdatasync(9) = 0 (DELAYED)\n1 fsync(8 <unfinished ...>\n2 fdatasync(9) = 0\n1 <... fsync resumed>) = 0\n";
        std::fs::write(SlowDisk::notes(&peer), notes).unwrap();
        assert_eq!(SlowDisk::syncs(&peer).unwrap(), 3);
    }
}
