//! The pinset as lines of JSON: export and import in the reference's format.
//!
//! One pin a line, in the form that [`Pin`](crate::types::Pin) has in the REST API. An import takes any JSON objects
//! one after the other, however they are laid out.

mod export;
mod import;

pub use export::{export_lines, write_pin_json};
pub use import::{DOCUMENT_BYTES_MAX, ImportOptions, import_lines, parse_lines};
