//! One decoder of `ipfs_cluster::testing::decoders`, chosen by `IPFS_CLUSTER_DECODER`.

#![no_main]

use std::sync::OnceLock;

use ipfs_cluster::testing::decoders::{self, Decoder};
use libfuzzer_sys::fuzz_target;

const VARIABLE: &str = "IPFS_CLUSTER_DECODER";

static CHOSEN: OnceLock<Decoder> = OnceLock::new();

fn choose() -> Decoder {
    let name = std::env::var(VARIABLE).unwrap_or_default();
    decoders::find(&name).unwrap_or_else(|| {
        let names: Vec<_> = decoders::all().iter().map(|decoder| decoder.name).collect();
        eprintln!("{VARIABLE}={name:?} is no decoder; it is one of {}", names.join(", "));
        std::process::exit(2);
    })
}

fuzz_target!(|bytes: &[u8]| {
    let decoder = CHOSEN.get_or_init(choose);
    (decoder.decode)(bytes);
});
