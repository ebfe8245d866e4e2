//! What is read of the files of a peer's folder, for `testing::decoders`: each says whether the text was read, and panics
//! when what was read does not hold.

use std::path::Path;

use super::{ClusterSection, ConfigSection, Identity, ServiceJson, SoloSection, peerstore};

/// The peers that are tried at the start.
pub(crate) fn peerstores(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let read = peerstore::parse(text, Path::new("peerstore"));
    let written: String = read.addresses.iter().map(|address| format!("{address}\n")).collect();
    let again = peerstore::parse(&written, Path::new("peerstore"));
    assert_eq!((again.addresses, again.problems.len()), (read.addresses, 0), "written and read again");
    read.problems.is_empty()
}

/// Who the peer is.
pub(crate) fn identities(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(identity) = Identity::from_json(text) else { return false };
    let again = identity.to_json().and_then(|text| Identity::from_json(&text));
    assert_eq!(again.ok().map(|again| again.id()), Some(identity.id()));
    true
}

/// Identities as they are made.
pub(crate) fn identity_samples() -> Vec<Vec<u8>> {
    let keypair = libp2p_identity::Keypair::ed25519_from_bytes([7; 32]).ok();
    let text = keypair.and_then(|keypair| Identity::from_keypair(keypair).to_json().ok());
    text.into_iter().map(String::into_bytes).collect()
}

/// The configuration. What is not understood of it is kept.
pub(crate) fn service_files(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(file) = ServiceJson::parse(text) else { return false };
    if let Ok(written) = file.to_text() {
        let again = ServiceJson::parse(&written).and_then(|file| file.to_text());
        assert_eq!(again.ok(), Some(written), "written and read again");
    }
    let _ = (file.unserved(super::SERVED_SECTIONS), file.consensus());
    read_section::<ClusterSection>(&file) | read_section::<SoloSection>(&file)
}

/// Whether the file has this section; one that is read can be written and reads the same.
pub(crate) fn read_section<T: ConfigSection + PartialEq + std::fmt::Debug>(file: &ServiceJson) -> bool {
    let Ok(Some(loaded)) = file.read_if_present::<T>(&|_| None) else { return false };
    let mut written = ServiceJson::new();
    let again = written.write(&loaded.section).and_then(|()| written.read::<T>(&|_| None));
    assert_eq!(again.ok().map(|again| again.section), Some(loaded.section));
    true
}

/// A file with the sections that every peer has.
pub(crate) fn service_file_samples() -> Vec<Vec<u8>> {
    let mut file = ServiceJson::new();
    let whole = file
        .write(&ClusterSection::default())
        .and_then(|()| file.write(&SoloSection::default()))
        .and_then(|()| file.to_text());
    let texts = [whole, ServiceJson::from_source("http://127.0.0.1/x").and_then(|file| file.to_text())];
    texts.into_iter().flatten().map(String::into_bytes).collect()
}
