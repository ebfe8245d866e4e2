//! The file `service.json` as a whole.

use std::path::Path;

use serde::Serialize;

use super::file::{self, MODE_PRIVATE};
use super::json::Json;
use super::overlay::{self, Environment, Loaded};
use super::{ConfigSection, check};
use crate::error::{Error, Result};

/// Largest configuration that is read, in bytes.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

/// Sections that hold one part each, named `<section>.<part>`. The section `cluster` and what we do not know
/// stand for themselves.
const SECTIONS_OF_PARTS: &[&str] = &[
    "consensus",
    "api",
    "ipfs_connector",
    "state",
    "pin_tracker",
    "monitor",
    "allocator",
    "informer",
    "observations",
    "datastore",
];

/// The sections of `service.json`, in order, as they were written.
///
/// What is not read or set stays what it was, so a file of a Go peer can be loaded, changed and saved. A path is
/// dotted: `cluster`, `informer.disk`. A section counts as there unless it is `null`.
#[derive(Clone, Debug, Default)]
pub struct ServiceJson {
    sections: Vec<(String, Json)>,
}

impl ServiceJson {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// A file that only says where the configuration is.
    pub fn from_source(url: &str) -> Result<Self> {
        let mut file = Self::new();
        file.set("source", &url)?;
        Ok(file)
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    /// `InvalidInput` with line and column.
    pub fn parse(text: &str) -> Result<Self> {
        match Json::parse(text)? {
            Json::Object(sections) => Ok(Self { sections }),
            _ => Err(wrong("not a configuration: the outermost value is not an object")),
        }
    }

    /// Reads the file. One that has a [`source`](Self::source) says nothing else; whoever calls fetches that, for
    /// [`with_fetched`](Self::with_fetched).
    ///
    /// # Errors
    /// `NotFound` `open <path>: no such file or directory`; `InvalidInput` when it cannot be parsed.
    pub fn load(path: &Path) -> Result<Self> {
        let text = file::read_text(path, FILE_BYTES_MAX)?;
        Self::parse(&text).map_err(|error| error.context(path.display()))
    }

    /// The configuration that was found at this file's source. Saving it still writes the source alone.
    ///
    /// # Errors
    /// `InvalidInput` when it cannot be parsed, and with the reference's text when it has a source of its own.
    pub fn with_fetched(&self, text: &str) -> Result<Self> {
        let mut fetched = Self::parse(text)?;
        if fetched.source().is_some() {
            return Err(wrong("a sourced configuration cannot point to another source"));
        }
        if let Some(url) = self.source() {
            fetched.set("source", &url)?;
        }
        Ok(fetched)
    }

    /// Replaces the file: 2 spaces for each level, no newline at the end, readable by its owner alone. If there
    /// is a [`source`](Self::source), only that is written. Returns once the file is on disk.
    ///
    /// # Errors
    /// `Io` or `StorageFull` naming the file, which is then what it was before.
    pub fn save(&self, path: &Path) -> Result<()> {
        file::write_atomically(path, self.to_text()?.as_bytes(), MODE_PRIVATE)
    }

    /// The text that [`save`](Self::save) writes.
    pub fn to_text(&self) -> Result<String> {
        let source = self.source().map(|url| Self::from_source(&url)).transpose()?;
        let sections = &source.as_ref().unwrap_or(self).sections;
        serde_json::to_string_pretty(&Json::Object(sections.clone()))
            .map_err(|source| Error::internal(format!("the configuration cannot be written: {source}")))
    }

    /// The address that the configuration has to be fetched from, if it is not in this file.
    pub fn source(&self) -> Option<String> {
        let value = self.find("source")?.to_value().ok()?;
        value.as_str().filter(|url| !url.is_empty()).map(str::to_owned)
    }

    /// Whether there is a section of this path.
    pub fn contains(&self, path: &str) -> bool {
        self.find(path).is_some()
    }

    /// A section as a plain value.
    ///
    /// # Errors
    /// `InvalidInput` if a value in it cannot be represented.
    pub fn section(&self, path: &str) -> Result<Option<serde_json::Value>> {
        self.find(path).map(Json::to_value).transpose()
    }

    /// A typed section with the environment laid over it; its default if the file does not have it.
    ///
    /// # Errors
    /// See [`overlay::load`].
    pub fn read<T: ConfigSection>(&self, environment: Environment<'_>) -> Result<Loaded<T>> {
        overlay::load(self.section(T::PATH)?.as_ref(), environment)
    }

    /// Like [`read`](Self::read), but none if the file does not have the section: for components that run only
    /// when they are named.
    ///
    /// # Errors
    /// See [`overlay::load`].
    pub fn read_if_present<T: ConfigSection>(
        &self,
        environment: Environment<'_>,
    ) -> Result<Option<Loaded<T>>> {
        if self.contains(T::PATH) { self.read(environment).map(Some) } else { Ok(None) }
    }

    /// Puts a typed section where it belongs.
    ///
    /// # Errors
    /// `Internal` if it cannot be written as JSON.
    pub fn write<T: ConfigSection>(&mut self, section: &T) -> Result<()> {
        self.set(T::PATH, section)
    }

    /// Puts any value at a path, in the place of the one that was there or at the end.
    ///
    /// # Errors
    /// `Internal` if it cannot be written as JSON; `InvalidInput` if the path goes through a value that is no
    /// object.
    pub fn set(&mut self, path: &str, value: &impl Serialize) -> Result<()> {
        let value = Json::of(value)?;
        let mut entries = &mut self.sections;
        let mut keys = path.split('.').peekable();
        while let Some(key) = keys.next() {
            let index = match entries.iter().position(|(name, _)| name == key) {
                Some(index) => index,
                None => {
                    entries.push((key.to_owned(), Json::Object(Vec::new())));
                    entries.len() - 1
                }
            };
            let slot = &mut entries[index].1;
            if keys.peek().is_none() {
                *slot = value;
                return Ok(());
            }
            if slot.is_null() {
                *slot = Json::Object(Vec::new());
            }
            match slot {
                Json::Object(inner) => entries = inner,
                _ => return Err(wrong(format!("{path} cannot be set: {key:?} is not an object"))),
            }
        }
        Ok(())
    }

    /// Paths of all sections that are there and are not in `served`, in the file's order.
    pub fn unserved(&self, served: &[&str]) -> Vec<String> {
        let mut paths = Vec::new();
        for (name, value) in &self.sections {
            match value {
                _ if value.is_null() || name == "source" => {}
                Json::Object(parts) if SECTIONS_OF_PARTS.contains(&name.as_str()) => {
                    let parts = parts.iter().filter(|(_, part)| !part.is_null());
                    paths.extend(parts.map(|(part, _)| format!("{name}.{part}")));
                }
                _ => paths.push(name.clone()),
            }
        }
        paths.retain(|path| !served.contains(&path.as_str()));
        paths
    }

    /// The one consensus component of the file: `solo`, `crdt`, `raft` or `etcd`.
    ///
    /// # Errors
    /// `InvalidInput` with the reference's text if there is none or more than one.
    pub fn consensus(&self) -> Result<&'static str> {
        let mut present = ["solo", "crdt", "raft", "etcd"]
            .into_iter()
            .filter(|name| self.contains(&format!("consensus.{name}")));
        let found = present.next();
        check(present.next().is_none(), NO_CONSENSUS)?;
        found.ok_or_else(|| wrong(NO_CONSENSUS))
    }

    fn find(&self, path: &str) -> Option<&Json> {
        let mut keys = path.split('.');
        let first = keys.next()?;
        let mut value = self.sections.iter().find(|(name, _)| name == first).map(|(_, value)| value)?;
        for key in keys {
            value = value.get(key)?;
        }
        (!value.is_null()).then_some(value)
    }
}

const NO_CONSENSUS: &str = "could not determine the consensus component";

fn wrong(text: impl Into<String>) -> Error {
    Error::invalid_input(text).component("config")
}

#[cfg(test)]
mod tests;
