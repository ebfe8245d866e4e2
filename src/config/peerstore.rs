//! The `peerstore` file: one address for each line, most important first.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use multiaddr::Protocol;
use tokio::time::Instant;
use tracing::warn;

use super::file::{self, MODE_SHARED};
use crate::error::{ErrorKind, Result};
use crate::types::{Multiaddr, PeerId, parse_multiaddr};

/// Largest file that is read: more than 10,000 addresses.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// How often [`keep`] saves what is known of peers that the file has already.
pub const SAVE_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// How often [`keep`] looks whether there is a peer that the file lacks, which is saved at once.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);
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

/// Keeps the file up to date, so that a peer that is killed finds the others again. It looks every [`LOOK_INTERVAL`] at
/// what is known, and replaces the file when there is a peer that it lacks, or every [`SAVE_INTERVAL`] when the list is
/// another one than the file had, or was saved last. A list without addresses is not saved: whoever knows nobody for a
/// while has use for those it knew. What cannot be saved is logged and tried again. Ends when `stop` does, and not before what is being written then is on disk: whoever saves after
/// that is the last. Cancel-safe in that the file is always whole; one that is dropped may still replace it once.
pub async fn keep(path: &Path, known: impl Fn() -> Vec<Multiaddr>, stop: impl Future<Output = ()>) {
    tokio::pin!(stop);
    // One that cannot be read was complained of at the start, and is replaced.
    let mut saved = load(path).map(|peerstore| peerstore.addresses).unwrap_or_default();
    let mut due = Instant::now() + SAVE_INTERVAL;
    let mut is_failing = false;
    loop {
        tokio::select! {
            biased;
            () = &mut stop => return,
            () = tokio::time::sleep(if is_failing { SAVE_INTERVAL } else { LOOK_INTERVAL }) => {}
        }
        let now = known();
        if now.is_empty() || now == saved || Instant::now() < due && peers(&now).is_subset(&peers(&saved)) {
            continue;
        }
        due = Instant::now() + SAVE_INTERVAL;
        let (path_to_save, addresses) = (path.to_owned(), now.clone());
        let saving = tokio::task::spawn_blocking(move || save(&path_to_save, &addresses));
        let failure = match saving.await {
            Ok(Ok(())) => {
                saved = now;
                None
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        is_failing = failure.is_some();
        if let Some(error) = failure {
            warn!(%error, "could not save the peerstore; trying again later");
        }
    }
}

/// Whom these addresses name.
fn peers(addresses: &[Multiaddr]) -> BTreeSet<PeerId> {
    let parts = addresses.iter().flat_map(Multiaddr::iter);
    parts.filter_map(|part| if let Protocol::P2p(peer) = part { Some(peer) } else { None }).collect()
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

    #[tokio::test(start_paused = true)]
    async fn the_file_follows_what_is_known_and_is_left_alone_while_that_stays_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peerstore");
        let list =
            |texts: &[&str]| -> Vec<Multiaddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        save(&path, &list(&[FIRST])).unwrap();
        let known = std::sync::Mutex::new(list(&[FIRST]));
        let kept = keep(&path, || known.lock().unwrap().clone(), std::future::pending());
        let test = async {
            let text = || std::fs::read_to_string(&path).unwrap();
            let pass = || tokio::time::sleep(SAVE_INTERVAL + Duration::from_secs(1));
            // It has what is known already: whoever changes it now is not overwritten.
            std::fs::write(&path, "# by hand\n").unwrap();
            pass().await;
            assert_eq!(text(), "# by hand\n");
            // Somebody new may be all that this peer has when it comes back.
            *known.lock().unwrap() = list(&[SECOND, FIRST]);
            tokio::time::sleep(LOOK_INTERVAL * 2).await;
            assert_eq!(text(), format!("{SECOND}\n{FIRST}\n"));
            *known.lock().unwrap() = list(&[FIRST, SECOND]);
            tokio::time::sleep(LOOK_INTERVAL * 2).await;
            assert_eq!(text(), format!("{SECOND}\n{FIRST}\n"));
            pass().await;
            assert_eq!(text(), format!("{FIRST}\n{SECOND}\n"));
            known.lock().unwrap().clear();
            pass().await;
            assert_eq!(text(), format!("{FIRST}\n{SECOND}\n"));
            // A folder that is gone for a while is no reason to give up.
            let aside = folder.path().with_extension("aside");
            std::fs::rename(folder.path(), &aside).unwrap();
            *known.lock().unwrap() = list(&[SECOND]);
            pass().await;
            std::fs::rename(&aside, folder.path()).unwrap();
            pass().await;
            assert_eq!(text(), format!("{SECOND}\n"));
        };
        tokio::select! {
            biased;
            () = kept => panic!("nobody stopped it"),
            () = test => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_it_is_told_to_and_not_while_it_writes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peerstore");
        let stop = tokio_util::sync::CancellationToken::new();
        let begun = tokio::time::Instant::now();
        // Told just before it writes, so that it is still at it when it hears of it.
        let known = || {
            stop.cancel();
            vec![SECOND.parse().unwrap()]
        };
        keep(&path, known, stop.cancelled()).await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{SECOND}\n"));
        assert_eq!(begun.elapsed(), LOOK_INTERVAL);

        save(&path, &[FIRST.parse().unwrap()]).unwrap();
        keep(&path, || panic!("nothing more is to be saved"), stop.cancelled()).await;
        assert_eq!(begun.elapsed(), LOOK_INTERVAL);
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
