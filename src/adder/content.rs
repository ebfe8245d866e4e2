//! Content from this machine: files and folders, or bytes that are there already.

mod files;
mod memory;

pub use files::Files;
pub use memory::InMemory;
