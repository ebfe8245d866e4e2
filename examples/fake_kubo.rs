//! A program that plays an IPFS daemon: Kubo's RPC API over a memory that takes millions of pins.
//!
//! ```text
//! fake_kubo --listen 127.0.0.1:5001 --pin-delay-ms 100
//! ```
//!
//! It prints its address, and serves until it is killed.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use ipfs_cluster::ipfs_connector::IpfsPin;
use ipfs_cluster::testing::fake_kubo::{FakeKubo, FakeKuboConfig, LeanIpfs};
use ipfs_cluster::types::{Pin, PinType};

const USAGE: &str = "usage: fake_kubo [--listen ADDRESS:PORT] [--pin-delay-ms N] [--fail-every N] [--pinned-from EXPORT.ndjson]
                 [--bytes-per-second N] [--drop-blocks yes|no]
  --listen        where to serve, 127.0.0.1:0 takes a free port (default)
  --pin-delay-ms  how long each pin takes
  --fail-every    every so many pins one fails
  --pinned-from   a state export whose pins are held from the start
  --bytes-per-second  how fast bodies are taken, all together
  --drop-blocks   whether imported blocks are dropped without a look at their hashes";

fn main() -> ExitCode {
    let (config, pinned_from) = match arguments(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("error: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match serve(config, pinned_from) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments(
    mut words: impl Iterator<Item = String>,
) -> Result<(FakeKuboConfig, Option<String>), Box<dyn std::error::Error>> {
    let mut config = FakeKuboConfig::default();
    let mut pinned_from = None;
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--listen" => {
                config.listen = value.parse().map_err(|error| format!("{word} {value}: {error}"))?
            }
            "--pin-delay-ms" => {
                let milliseconds = value.parse().map_err(|error| format!("{word} {value}: {error}"))?;
                config.pin_delay = Duration::from_millis(milliseconds);
            }
            "--fail-every" => {
                config.fail_every = value.parse().map_err(|error| format!("{word} {value}: {error}"))?;
            }
            "--pinned-from" => pinned_from = Some(value),
            "--bytes-per-second" => {
                config.bytes_per_second =
                    value.parse().map_err(|error| format!("{word} {value}: {error}"))?;
            }
            "--drop-blocks" => {
                config.drop_blocks = match value.as_str() {
                    "yes" => true,
                    "no" => false,
                    _ => return Err(format!("{word} {value}: neither yes nor no").into()),
                };
            }
            _ => return Err(format!("unknown argument {word}").into()),
        }
    }
    Ok((config, pinned_from))
}

fn serve(config: FakeKuboConfig, pinned_from: Option<String>) -> Result<(), Box<dyn std::error::Error>> {
    let ipfs = match pinned_from {
        Some(file) => LeanIpfs::with_pins(read_export(&file)?),
        None => LeanIpfs::default(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let kubo = FakeKubo::start(ipfs, config).await?;
        println!("{}", kubo.address());
        std::io::stdout().flush()?;
        std::future::pending().await
    })
}

/// The pins of a state export that a daemon would hold; those of type meta are pinned by nobody.
fn read_export(file: &str) -> Result<Vec<IpfsPin>, Box<dyn std::error::Error>> {
    let reader = BufReader::new(File::open(file).map_err(|error| format!("{file}: {error}"))?);
    let mut pins = Vec::new();
    for (number, line) in reader.lines().enumerate() {
        let pin: Pin =
            serde_json::from_str(&line?).map_err(|error| format!("{file}, line {}: {error}", number + 1))?;
        if pin.pin_type != PinType::Meta {
            pins.push(IpfsPin { cid: pin.cid, mode: pin.mode() });
        }
    }
    pins.sort_unstable();
    Ok(pins)
}
