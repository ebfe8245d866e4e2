//! How the tests of sections load them.

use std::fmt::Debug;

use serde_json::Value;

use super::overlay::load;
use super::{ConfigSection, Loaded};
use crate::error::Result;

/// An environment without variables.
pub(crate) fn none(_: &str) -> Option<String> {
    None
}

/// Loads a section from a JSON value, `null` for a file that does not have it, and variables.
pub(crate) fn with<T: ConfigSection>(file: Value, variables: &[(&str, &str)]) -> Result<Loaded<T>> {
    let lookup = |name: &str| {
        variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned())
    };
    load(Some(&file).filter(|file| !file.is_null()), &lookup)
}

/// The section that a file's value gives.
pub(crate) fn section<T: ConfigSection>(file: Value) -> T {
    with(file, &[]).unwrap().section
}

/// What a file's value is refused with.
pub(crate) fn refusal<T: ConfigSection + Debug>(file: Value) -> String {
    text_of(with::<T>(file, &[]))
}

/// What it was refused with.
pub(crate) fn text_of<T: ConfigSection + Debug>(result: Result<Loaded<T>>) -> String {
    result.unwrap_err().to_string()
}

/// The default of a section with one change.
pub(crate) fn changed<T: ConfigSection>(pointer: &str, value: Value) -> Value {
    let mut section = serde_json::to_value(T::default()).unwrap();
    *section.pointer_mut(pointer).unwrap() = value;
    section
}

/// The default is valid and reads back as it was written, and so does a file without the section.
pub(crate) fn assert_default_reads_back<T: ConfigSection + PartialEq + Debug>() {
    let loaded: Loaded<T> = with(serde_json::to_value(T::default()).unwrap(), &[]).unwrap();
    assert_eq!(loaded.section, T::default());
    assert!(loaded.unknown_keys.is_empty());
    assert_eq!(section::<T>(Value::Null), T::default());
    assert!(super::SERVED_SECTIONS.contains(&T::PATH), "{} is not served", T::PATH);
}
