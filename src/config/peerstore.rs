//! The `peerstore` file: one address for each line, most important first.

use std::path::Path;

use super::file::{self, MODE_SHARED};
use crate::error::{ErrorKind, Result};
use crate::types::{Multiaddr, parse_multiaddr};

/// Largest file that is read: more than 10,000 addresses.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Most lines that are complained of; of the rest the number is said.
const PROBLEMS_MAX: usize = 100;

/// What a peerstore file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peerstore {
    /// Addresses, in the file's order, which is the order in which they are tried.
    pub addresses: Vec<Multiaddr>,
    /// Lines that start like an address and are none, with the reason; for the log. Not more than a few.
    pub problems: Vec<String>,
}

/// Reads the file. A missing one is empty; lines that do not start with `/` are comments.
///
/// # Errors
/// `Io` or `InvalidInput` if there is a file that cannot be read as text.
pub fn load(path: &Path) -> Result<Peerstore> {
    let text = match file::read_text(path, FILE_BYTES_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Peerstore::default()),
        Err(error) => return Err(error),
    };
    Ok(parse(&text, path))
}

/// What a file of this text holds.
pub(super) fn parse(text: &str, path: &Path) -> Peerstore {
    let mut peerstore = Peerstore::default();
    let mut more = 0;
    for (index, line) in text.lines().enumerate().filter(|(_, line)| line.starts_with('/')) {
        match parse_multiaddr(line.trim_end()) {
            Ok(address) => peerstore.addresses.push(address),
            Err(_) if peerstore.problems.len() == PROBLEMS_MAX => more += 1,
            Err(error) => {
                peerstore.problems.push(format!("{} line {}: {error}", path.display(), index + 1));
            }
        }
    }
    if more > 0 {
        peerstore.problems.push(format!("{}: {more} more lines are no addresses", path.display()));
    }
    peerstore
}

/// Replaces the file. Returns once it is on disk.
///
/// # Errors
/// `Io` or `StorageFull` naming the file, which is then what it was before.
pub fn save(path: &Path, addresses: &[Multiaddr]) -> Result<()> {
    let text: String = addresses.iter().map(|address| format!("{address}\n")).collect();
    file::write_atomically(path, text.as_bytes(), MODE_SHARED)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str =
        "/ip4/192.168.0.129/tcp/9196/p2p/12D3KooWRN8KRjpyg9rsW2w7StbBRGper65psTZm68cjud9KAkaW";
    const SECOND: &str =
        "/dns4/peer.example/tcp/9096/p2p/12D3KooWPwrYNj7VficHw5qYidepMGA85756kYgMdNmRM9A1ZHjN";

    #[test]
    fn what_is_saved_is_read_back_in_its_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peerstore");
        let addresses: Vec<Multiaddr> = [SECOND, FIRST].iter().map(|text| text.parse().unwrap()).collect();
        save(&path, &addresses).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{SECOND}\n{FIRST}\n"));
        assert_eq!(load(&path).unwrap().addresses, addresses);
        save(&path, &[]).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    }

    #[test]
    fn other_lines_are_skipped_and_wrong_addresses_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peerstore");
        assert_eq!(load(&path).unwrap(), Peerstore::default());
        std::fs::write(&path, format!("# mine\r\n{FIRST}\r\n\n/nonsense/1\n{SECOND}")).unwrap();
        let peerstore = load(&path).unwrap();
        let texts: Vec<String> = peerstore.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(texts, [FIRST, SECOND]);
        assert_eq!(peerstore.problems.len(), 1);
        assert!(peerstore.problems[0].contains("line 4: failed to parse multiaddr \"/nonsense/1\""));
    }
}
