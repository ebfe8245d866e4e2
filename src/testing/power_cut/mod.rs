//! Cuts the power under a program: what it did not sync to disk is gone.
//!
//! A killed process keeps what it wrote, because the kernel has it. Here a shim (`shim.c`, compiled on the spot) is
//! loaded into the program and writes down, for one folder, what a power cut would undo; after the program was
//! killed, [`PowerCut::restore`] undoes it.
//!
//! ```no_run
//! # use ipfs_cluster::testing::power_cut::{Loss, PowerCut};
//! # use std::{path::Path, process::Command};
//! let power_cut = PowerCut::new(Path::new("/tmp/peer")).unwrap();
//! let mut command = Command::new("ipfs-cluster-service");
//! power_cut.env(&mut command);
//! let mut child = command.spawn().unwrap();
//! // … until something was acknowledged …
//! child.kill().unwrap();
//! child.wait().unwrap();
//! power_cut.restore(Loss::Everything).unwrap();
//! // Now open the folder and look for what was acknowledged.
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, ErrorKind, Result};
use crate::random::SplitMix64;

mod log;
use log::{Change, Entry, EntryKind, Log};

const COMPONENT: &str = "power cut";
const SHIM_SOURCE: &str = include_str!("shim.c");
/// Disks write whole blocks; a torn write is torn between two of these, in bytes.
const BLOCK_BYTES: u64 = 4_096;

/// What a power cut takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Everything that was not synced.
    Everything,
    /// What a real disk might lose: of all that was not synced, some blocks of some files and the names in some
    /// folders are there all the same, chosen by the seed.
    Some(u64),
}

/// What became of a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Writes and changes of size that the program made.
    pub writes: u64,
    /// Syncs of files and folders that the program made.
    pub syncs: u64,
    /// How many of the writes were not synced.
    pub unsynced_writes: u64,
    /// Files whose content went back.
    pub files_undone: u64,
    /// Blocks that were not synced but stayed, see [`Loss::Some`].
    pub blocks_kept: u64,
    /// Files that are not where the program left them: made, renamed or removed without a sync of the folder.
    pub names_undone: u64,
}

/// A folder whose programs lose power. One program at a time uses it.
#[derive(Debug)]
pub struct PowerCut {
    root: PathBuf,
    side: PathBuf,
}

impl PowerCut {
    /// Gets ready to cut the power for everything below a folder, which is made when it is not there. Beside it
    /// grows a folder of the same name with `.power-cut`, removed when this is dropped.
    ///
    /// # Errors
    /// `Unsupported` where no C compiler (`cc`, or what `CC` says) is found: skip the test and say so. `Io`.
    pub fn new(root: &Path) -> Result<Self> {
        let failed =
            |source| Error::io(format!("cannot prepare {}", root.display()), source).component(COMPONENT);
        fs::create_dir_all(root).map_err(failed)?;
        let root = root.canonicalize().map_err(failed)?;
        let mut side = root.clone().into_os_string();
        side.push(".power-cut");
        let power_cut = Self { root, side: side.into() };
        remove_if_there(&power_cut.side).map_err(failed)?;
        power_cut.start_over().map_err(failed)?;
        power_cut.compile()?;
        Ok(power_cut)
    }

    fn compile(&self) -> Result<()> {
        let source = self.side.join("shim.c");
        fs::write(&source, SHIM_SOURCE)
            .map_err(|error| Error::io(format!("cannot write {}", source.display()), error))?;
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let output = Command::new(&compiler)
            .args(["-shared", "-fPIC", "-O2", "-o"])
            .arg(self.shim())
            .arg(&source)
            .args(["-ldl", "-lpthread"])
            .output()
            .map_err(|source| {
                Error::new(
                    ErrorKind::Unsupported,
                    format!("no C compiler: {compiler} does not start, install one or set CC"),
                )
                .component(COMPONENT)
                .with_source(source)
            })?;
        if !output.status.success() {
            return Err(Error::internal(format!(
                "{compiler} does not compile the shim: {}",
                String::from_utf8_lossy(&output.stderr)
            ))
            .component(COMPONENT));
        }
        Ok(())
    }

    fn shim(&self) -> PathBuf {
        self.side.join("shim.so")
    }

    /// The folder, without symbolic links.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes a program lose power together with this folder. The program must use the C library of the system
    /// dynamically; if it writes in a way that cannot be undone it aborts and says so.
    pub fn env(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", self.shim())
            .env("POWERCUT_ROOT", &self.root)
            .env("POWERCUT_SIDE", &self.side);
    }

    /// Fills the disk, or makes room again: from now on every write into the folder fails, or none.
    ///
    /// # Errors
    /// `Io`.
    pub fn set_disk_full(&self, full: bool) -> Result<()> {
        let marker = self.side.join("full");
        let result = if full {
            File::create(&marker).map(drop)
        } else {
            fs::remove_file(&marker).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })
        };
        result.map_err(|source| Error::io("cannot fill the disk", source).component(COMPONENT))
    }

    /// Undoes what a power cut takes. Call it when the program is dead; then the folder is as the machine would
    /// find it, and another program can be started on it.
    ///
    /// # Errors
    /// `Io`, `Corrupt` when the log is not readable.
    pub fn restore(&self, loss: Loss) -> Result<Damage> {
        let failed = |source| {
            Error::io(format!("cannot cut the power of {}", self.root.display()), source).component(COMPONENT)
        };
        let log_file = match File::open(self.side.join("log")) {
            // The program died before it did anything.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Damage::default()),
            file => file.map_err(failed)?,
        };
        let log = Log::read(&log_file).map_err(|error| error.component(COMPONENT))?;
        let mut damage = Damage { writes: log.writes, syncs: log.syncs, ..Damage::default() };
        let mut luck = Luck::new(loss);
        for (inode, changes) in &log.changes {
            self.undo(*inode, changes, &log_file, &mut luck, &mut damage).map_err(failed)?;
        }
        let current = list_folders(&self.root).map_err(failed)?;
        let mut names = log.folders;
        if luck.is_there() {
            for (folder, entries) in &current {
                if luck.strikes() {
                    // A file that was just being made when the program was killed is not known yet.
                    let known =
                        |entry: &&Entry| entry.kind == EntryKind::Folder || self.inode(entry.inode).exists();
                    names.insert(*folder, entries.iter().filter(known).cloned().collect());
                }
            }
        }
        damage.names_undone = count_undone(&current, &names);
        self.rebuild(&names).map_err(failed)?;
        self.start_over().map_err(failed)?;
        Ok(damage)
    }

    /// Puts the content of one file back.
    fn undo(
        &self,
        inode: u64,
        changes: &[Change],
        log: &File,
        luck: &mut Luck,
        damage: &mut Damage,
    ) -> io::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        damage.unsynced_writes += changes.len() as u64;
        damage.files_undone += 1;
        let file = File::options().read(true).write(true).open(self.inode(inode))?;
        let kept = if luck.is_there() { choose_blocks(&file, changes, luck)? } else { Kept::default() };
        for change in changes.iter().rev() {
            if change.zeros {
                let end = change.size.min(change.offset + change.extent);
                let length = end.saturating_sub(change.offset);
                file.write_all_at(&vec![0; length as usize], change.offset)?;
            } else {
                let mut old = vec![0; change.data_length as usize];
                log.read_exact_at(&mut old, change.data_at)?;
                file.write_all_at(&old, change.offset)?;
            }
            file.set_len(change.size)?;
        }
        for (offset, block) in &kept.blocks {
            file.write_all_at(block, *offset)?;
        }
        if let Some(length) = kept.length {
            file.set_len(length.max(file.metadata()?.len()))?;
        }
        damage.blocks_kept += kept.blocks.len() as u64;
        Ok(())
    }

    fn inode(&self, inode: u64) -> PathBuf {
        self.side.join("inodes").join(inode.to_string())
    }

    /// Makes the folder hold these names and no others.
    fn rebuild(&self, names: &BTreeMap<u64, BTreeSet<Entry>>) -> io::Result<()> {
        let root = fs::metadata(&self.root)?.ino();
        empty(&self.root)?;
        let mut folders = vec![(root, self.root.clone())];
        while let Some((folder, path)) = folders.pop() {
            for entry in names.get(&folder).into_iter().flatten() {
                let path = path.join(&entry.name);
                match entry.kind {
                    EntryKind::File => fs::hard_link(self.inode(entry.inode), &path)?,
                    EntryKind::Folder => {
                        fs::create_dir(&path)?;
                        folders.push((entry.inode, path));
                    }
                }
            }
        }
        Ok(())
    }

    /// Forgets everything: what is in the folder now is what the next program finds.
    fn start_over(&self) -> io::Result<()> {
        let inodes = self.side.join("inodes");
        remove_if_there(&inodes)?;
        fs::create_dir_all(inodes)?;
        for file in ["log", "full"] {
            match fs::remove_file(self.side.join(file)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for PowerCut {
    fn drop(&mut self) {
        // Rubbish in a temporary place is no reason to fail.
        let _ = remove_if_there(&self.side);
    }
}

/// Decides what stays though it was not synced.
#[derive(Debug)]
struct Luck(Option<SplitMix64>);

impl Luck {
    fn new(loss: Loss) -> Self {
        Self(match loss {
            Loss::Everything => None,
            Loss::Some(seed) => Some(SplitMix64::new(seed)),
        })
    }

    fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// Every other time, roughly.
    fn strikes(&mut self) -> bool {
        self.0.as_mut().is_some_and(|random| random.next() & 1 == 1)
    }
}

/// What of a file's changes that were not synced is on disk all the same.
#[derive(Debug, Default)]
struct Kept {
    blocks: Vec<(u64, Vec<u8>)>,
    /// The length got there, whether or not the blocks did.
    length: Option<u64>,
}

fn choose_blocks(file: &File, changes: &[Change], luck: &mut Luck) -> io::Result<Kept> {
    let length = file.metadata()?.len();
    let touched: BTreeSet<u64> = changes
        .iter()
        .filter(|change| change.extent > 0)
        .flat_map(|change| change.offset / BLOCK_BYTES..=(change.offset + change.extent - 1) / BLOCK_BYTES)
        .collect();
    let mut kept = Kept { length: luck.strikes().then_some(length), ..Kept::default() };
    for block in touched {
        let offset = block * BLOCK_BYTES;
        if offset < length && luck.strikes() {
            let mut content = vec![0; BLOCK_BYTES.min(length - offset) as usize];
            file.read_exact_at(&mut content, offset)?;
            kept.blocks.push((offset, content));
        }
    }
    Ok(kept)
}

/// What is in each folder, by its number.
fn list_folders(root: &Path) -> io::Result<BTreeMap<u64, BTreeSet<Entry>>> {
    let mut lists = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let mut entries = BTreeSet::new();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = match entry.file_type()? {
                kind if kind.is_dir() => {
                    folders.push(entry.path());
                    EntryKind::Folder
                }
                kind if kind.is_file() => EntryKind::File,
                _ => continue,
            };
            entries.insert(Entry { kind, inode: entry.metadata()?.ino(), name: entry.file_name() });
        }
        lists.insert(fs::metadata(&folder)?.ino(), entries);
    }
    Ok(lists)
}

fn count_undone(now: &BTreeMap<u64, BTreeSet<Entry>>, then: &BTreeMap<u64, BTreeSet<Entry>>) -> u64 {
    let nothing = BTreeSet::new();
    now.iter()
        .map(|(folder, entries)| {
            entries.symmetric_difference(then.get(folder).unwrap_or(&nothing)).count() as u64
        })
        .sum()
}

fn empty(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn remove_if_there(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with three files, after a shell script and a power cut; none where there is no C compiler.
    fn after(script: &str, loss: Loss) -> Option<(BTreeMap<String, String>, Damage)> {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().join("disk");
        fs::create_dir_all(root.join("inner")).unwrap();
        for (name, content) in [("old", "old content"), ("gone", "going"), ("inner/renamed", "moving")] {
            fs::write(root.join(name), content).unwrap();
        }
        let power_cut = match PowerCut::new(&root) {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                eprintln!("skipped: {error}");
                return None;
            }
            power_cut => power_cut.unwrap(),
        };
        let mut command = Command::new("sh");
        command.args(["-ec", script]).current_dir(&root);
        power_cut.env(&mut command);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let damage = power_cut.restore(loss).unwrap();
        let mut found = BTreeMap::new();
        read_folder(&root, "", &mut found);
        Some((found, damage))
    }

    fn read_folder(folder: &Path, prefix: &str, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                found.insert(format!("{name}/"), String::new());
                read_folder(&entry.path(), &format!("{name}/"), found);
            } else {
                found.insert(name, fs::read_to_string(entry.path()).unwrap());
            }
        }
    }

    fn files<const N: usize>(files: [(&str, &str); N]) -> BTreeMap<String, String> {
        files.map(|(name, content)| (name.to_owned(), content.to_owned())).into()
    }

    const CHANGES: &str = "printf new > old; printf more >> gone; rm gone; mv inner/renamed moved; \
                           mkdir folder; printf made > made; printf kept > synced";

    #[test]
    fn without_a_sync_everything_is_as_before() {
        let Some((found, damage)) = after(CHANGES, Loss::Everything) else { return };
        assert_eq!(
            found,
            files([("old", "old content"), ("gone", "going"), ("inner/", ""), ("inner/renamed", "moving")])
        );
        assert!(damage.unsynced_writes >= 5 && damage.names_undone >= 5, "{damage:?}");
    }

    #[test]
    fn what_was_synced_stays_and_nothing_else() {
        let script = format!(
            "{CHANGES}; sync synced; sync .; sync inner; printf more >> synced; printf late > late; rm made"
        );
        let Some((found, _)) = after(&script, Loss::Everything) else { return };
        assert_eq!(
            found,
            files([
                ("old", "old content"),
                ("inner/", ""),
                ("moved", "moving"),
                ("folder/", ""),
                ("made", ""),
                ("synced", "kept")
            ])
        );
    }

    #[test]
    fn luck_keeps_some_of_it() {
        let mut outcomes = BTreeSet::new();
        for seed in 0..20 {
            let Some((found, _)) = after("printf new > old; mkdir folder", Loss::Some(seed)) else { return };
            let old = found["old"].clone();
            assert!(["old content", "new"].contains(&&*old) || old.starts_with("new"), "{old:?}");
            outcomes.insert((old, found.contains_key("folder/")));
        }
        assert!(outcomes.len() >= 4, "{outcomes:?}");
    }

    #[test]
    fn a_way_of_writing_that_is_not_modelled_stops_the_program() {
        let temporary = tempfile::tempdir().unwrap();
        let Ok(power_cut) = PowerCut::new(&temporary.path().join("disk")) else { return };
        fs::write(power_cut.root().join("file"), [1; 10_000]).unwrap();
        let mut command = Command::new("dd");
        command.args(["if=/dev/zero", "of=file", "bs=10", "count=1", "oflag=dsync"]);
        command.current_dir(power_cut.root());
        power_cut.env(&mut command);
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains("O_SYNC is not modelled"), "{errors}");
    }
}
