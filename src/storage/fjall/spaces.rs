//! Which keyspace is which space.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use ::fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{FjallConfig, engine_error};
use crate::error::{Error, Result};
use crate::storage::Space;
use crate::storage::folder::{Folder, sync_folder};

/// The keyspace that knows the others. Theirs have a dot in the name, this has none.
const REGISTRY: &str = "registry";
/// Registry key of the number that the next keyspace gets, eight bytes big-endian. Other keys are names of spaces,
/// their values names of keyspaces.
const NEXT_NUMBER: &[u8] = b"#next";
/// How many sequence numbers are skipped on opening, see [`Registry`]: far more than the engine's housekeeping uses
/// during a change of its list of keyspaces.
const SKIPPED_NUMBERS: u64 = 1_000;
/// The registry is a few entries: it needs no large memtable, in bytes.
const REGISTRY_MEMTABLE_BYTES: u64 = 1 << 20;

/// The spaces that are there.
#[derive(Clone, Default)]
pub(super) struct Spaces(Vec<Entry>);

#[derive(Clone)]
struct Entry {
    /// Of the space without its generation.
    name: Box<str>,
    generation: u32,
    keyspace: Keyspace,
}

impl Entry {
    fn is(&self, space: Space) -> bool {
        self.generation == space.generation && *self.name == *space.name
    }
}

// There are about a dozen spaces: looking at each is as fast as anything.
impl Spaces {
    pub(super) fn get(&self, space: Space) -> Option<&Keyspace> {
        self.0.iter().find(|entry| entry.is(space)).map(|entry| &entry.keyspace)
    }

    pub(super) fn insert(&mut self, space: Space, keyspace: Keyspace) {
        self.remove(space);
        self.0.push(Entry { name: space.name.into(), generation: space.generation, keyspace });
    }

    /// Every space: its name without the generation, and where it is.
    pub(super) fn each(&self) -> impl Iterator<Item = (&str, &Keyspace)> {
        self.0.iter().map(|entry| (&*entry.name, &entry.keyspace))
    }

    pub(super) fn remove(&mut self, space: Space) {
        self.0.retain(|entry| !entry.is(space));
    }
}

/// Writes down which keyspace is which space.
///
/// The engine keeps a list of its keyspaces outside the journal, in tables of their own, whose entries are numbered
/// from the same sequence as all writes. After a crash it goes on counting from the last write that it finds in the
/// journal and in ordinary keyspaces. Where an entry of that list is newer than those, a later change of the list is
/// taken for an older one: a keyspace removed then comes back (fjall 3.1.13). So each change of the list follows a
/// synced write of ours, with no other write in between, and opening skips more numbers than the engine could have
/// used up meanwhile.
pub(super) struct Registry {
    keyspace: Keyspace,
    next_number: u64,
    /// Held shared by writers, and alone by whoever changes the engine's list.
    quiet: Arc<RwLock<()>>,
}

impl Registry {
    /// Reads what is written down, and removes keyspaces that nothing is known of.
    pub(super) fn open(
        database: &Database,
        folder: &Folder,
        config: &FjallConfig,
        quiet: Arc<RwLock<()>>,
    ) -> Result<(Self, Spaces)> {
        let failed = |error| engine_error(folder, "cannot open", error);
        let keyspace = make_keyspace(database, folder, REGISTRY, REGISTRY_MEMTABLE_BYTES, failed)?;
        let mut registry = Self { keyspace, next_number: 0, quiet };
        let mut spaces = Spaces::default();
        let mut known = HashSet::from([REGISTRY.to_owned()]);
        for entry in registry.keyspace.iter() {
            let (key, value) = entry.into_inner().map_err(failed)?;
            if *key == *NEXT_NUMBER {
                let number = <[u8; 8]>::try_from(&*value)
                    .map_err(|_| folder.damaged("its registry of spaces is not readable"))?;
                registry.next_number = u64::from_be_bytes(number);
                continue;
            }
            let (Ok(space), Ok(name)) = (std::str::from_utf8(&key), std::str::from_utf8(&value)) else {
                return Err(folder.damaged("its registry of spaces is not readable"));
            };
            if !database.keyspace_exists(name) {
                return Err(folder.damaged(format!("the files of {space} are gone")));
            }
            let keyspace = database.keyspace(name, || options(config.memtable_bytes)).map_err(failed)?;
            let (space_name, generation) = parse_space(space)
                .ok_or_else(|| folder.damaged(format!("it has a space with the name {space:?}")))?;
            spaces.0.push(Entry { name: space_name.into(), generation, keyspace });
            known.insert(name.to_owned());
        }
        for _ in 0..SKIPPED_NUMBERS {
            registry.note(database, None).map_err(failed)?;
        }
        for name in database.list_keyspace_names() {
            if !known.contains(&*name) {
                let left_over = database.keyspace(&name, KeyspaceCreateOptions::default).map_err(failed)?;
                registry.discard(database, left_over).map_err(failed)?;
            }
        }
        Ok((registry, spaces))
    }

    /// Writes the next number down.
    fn note(&self, database: &Database, durability: Option<PersistMode>) -> ::fjall::Result<()> {
        let mut batch = database.batch().durability(durability);
        batch.insert(&self.keyspace, NEXT_NUMBER, self.next_number.to_be_bytes());
        batch.commit()
    }

    /// Where this is written down.
    pub(super) fn keyspace(&self) -> &Keyspace {
        &self.keyspace
    }

    fn quiet(&self) -> RwLockWriteGuard<'_, ()> {
        self.quiet.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a keyspace for a space, which is not that space's until [`Registry::assign`].
    pub(super) fn make(
        &mut self,
        database: &Database,
        folder: &Folder,
        space: Space,
        config: &FjallConfig,
        failed: impl Fn(::fjall::Error) -> Error,
    ) -> Result<Keyspace> {
        let name = format!("{space}.{}", self.next_number);
        self.next_number += 1;
        let _quiet = self.quiet();
        self.note(database, Some(PersistMode::SyncData)).map_err(&failed)?;
        make_keyspace(database, folder, &name, config.memtable_bytes, failed)
    }

    /// Gives back the room of a keyspace that is no space's.
    pub(super) fn discard(&self, database: &Database, keyspace: Keyspace) -> ::fjall::Result<()> {
        let _quiet = self.quiet();
        self.note(database, Some(PersistMode::SyncData))?;
        database.delete_keyspace(keyspace)
    }

    /// Says that a space is in this keyspace. On disk when it returns.
    pub(super) fn assign(
        &self,
        database: &Database,
        space: Space,
        keyspace: &Keyspace,
    ) -> ::fjall::Result<()> {
        let mut batch = database.batch().durability(Some(PersistMode::SyncData));
        batch.insert(&self.keyspace, space.to_string(), keyspace.name().as_bytes());
        batch.commit()
    }

    /// Says that a space is nowhere. On disk when it returns.
    pub(super) fn forget(&self, database: &Database, space: Space) -> ::fjall::Result<()> {
        let mut batch = database.batch().durability(Some(PersistMode::SyncData));
        batch.remove(&self.keyspace, space.to_string());
        batch.commit()
    }
}

fn parse_space(text: &str) -> Option<(&str, u32)> {
    match text.split_once('_') {
        Some((name, generation)) => Some((name, generation.parse().ok()?)),
        None => Some((text, 0)),
    }
}

fn make_keyspace(
    database: &Database,
    folder: &Folder,
    name: &str,
    memtable_bytes: u64,
    failed: impl Fn(::fjall::Error) -> Error,
) -> Result<Keyspace> {
    let existed = database.keyspace_exists(name);
    let keyspace = database.keyspace(name, || options(memtable_bytes)).map_err(failed)?;
    // The engine syncs the folder that it makes, but not the folder in which it makes it: without this a power cut
    // would take all that was written to the keyspace, however well synced.
    if let (false, Some(parent)) = (existed, keyspace.path().parent()) {
        sync_folder(parent).map_err(|source| folder.error("cannot make a space", source))?;
    }
    Ok(keyspace)
}

fn options(memtable_bytes: u64) -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(memtable_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_space_is_read_back() {
        for space in
            [Space::new("pins"), Space::new("pins").generation(3), Space::new("a-b1").generation(u32::MAX)]
        {
            assert_eq!(parse_space(&space.to_string()), Some((space.name, space.generation)));
        }
        assert_eq!(parse_space("pins_x"), None);
    }
}
