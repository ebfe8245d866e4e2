//! The IPFS daemon of a follower: where it is, whether it is there, and whether it can do what it will be asked for.

use std::time::Duration;

use ipfs_cluster::config::{Environment, ServiceJson};
use ipfs_cluster::ipfs_connector::{IpfsConnector as _, KuboConfig, KuboConnector};
use ipfs_cluster::{Error, ErrorKind, Result};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use crate::process::print;

/// How long a daemon is waited for, as the reference does and says.
pub const WAIT_MAX: Duration = Duration::from_secs(2 * 60);
/// Time between two attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// Attempts between two lines about waiting.
const ATTEMPTS_PER_LINE: u32 = 10;
/// How long one question may take.
pub const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);
/// The first version with `pin/ls?stream=true`, without which a list of pins does not fit into memory, and whose API
/// takes nothing but POST.
const VERSION_MIN: Version = (0, 5, 0);
/// Older ones are not tried out by anybody any more.
const VERSION_TRIED: Version = (0, 12, 0);

type Version = (u64, u64, u64);

/// How to get at the daemon: what the environment says, else the configuration, else Kubo's default.
///
/// # Errors
/// `InvalidInput` naming the key.
pub fn config(file: Option<&ServiceJson>, environment: Environment<'_>) -> Result<KuboConfig> {
    match file {
        Some(file) => file.read(environment),
        None => ServiceJson::new().read(environment),
    }
    .map(|loaded| loaded.section)
}

/// Waits until the daemon answers, two minutes at most, and says so every ten seconds.
///
/// # Errors
/// `Timeout` with the reference's text; `Unsupported` for a daemon that is too old.
pub async fn wait(config: &KuboConfig) -> Result<()> {
    let connector = KuboConnector::with_config(config.clone())?;
    let began = Instant::now();
    let mut attempts = 0;
    loop {
        if attempts % ATTEMPTS_PER_LINE == 0 {
            print(format_args!(
                "waiting for IPFS to become available on {}...\n",
                super::shown(&config.node_multiaddress.to_string())
            ));
        }
        attempts += 1;
        let asked = timeout(QUESTION_TIMEOUT, connector.id()).await;
        let error = match asked.unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "it does not answer")))
        {
            Ok(_) => return check_version(&connector).await,
            Err(error) => error,
        };
        if began.elapsed() + PAUSE >= WAIT_MAX {
            warn!("no IPFS daemon: {error}");
            return Err(Error::new(ErrorKind::Timeout, "timed out waiting for IPFS to be available"));
        }
        sleep(PAUSE).await;
    }
}

async fn check_version(connector: &KuboConnector) -> Result<()> {
    let asked = timeout(QUESTION_TIMEOUT, connector.version()).await;
    match asked.unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "it does not answer"))) {
        Ok(version) => judge(&version),
        Err(error) => {
            warn!("the IPFS daemon does not say which version it is: {error}");
            Ok(())
        }
    }
}

fn judge(text: &str) -> Result<()> {
    let text = super::shown(text);
    match parse(&text) {
        Some(version) if version < VERSION_MIN => Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the IPFS daemon is version {text}, which is too old: it must be Kubo {} or newer",
                join(VERSION_MIN)
            ),
        )),
        Some(version) if version < VERSION_TRIED => {
            warn!("the IPFS daemon is version {text}: nobody tries out Kubo before {}", join(VERSION_TRIED));
            Ok(())
        }
        Some(_) => Ok(()),
        None => {
            warn!("the IPFS daemon is of an unknown version: {text:?}");
            Ok(())
        }
    }
}

fn join((major, minor, patch): Version) -> String {
    format!("{major}.{minor}.{patch}")
}

/// `0.39.0`, and what comes before a dash or a slash behind it.
fn parse(text: &str) -> Option<Version> {
    let plain = text.split(['-', '/', '+']).next()?;
    let mut numbers = plain.trim_start_matches('v').split('.').map(str::parse::<u64>);
    let mut next = || numbers.next()?.ok();
    Some((next()?, next()?, next().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_never_comes_is_waited_for_for_two_minutes() {
        let config = KuboConfig::at("/ip4/127.0.0.1/tcp/1".parse().unwrap());
        let began = Instant::now();
        let error = wait(&config).await.unwrap_err();
        assert_eq!(error.message(), "timed out waiting for IPFS to be available");
        let waited = began.elapsed();
        assert!(waited <= WAIT_MAX && waited + 5 * PAUSE >= WAIT_MAX, "{waited:?}");
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for good in
            ["0.5.0", "0.12.0", "0.39.0", "0.40.0-rc1", "0.40.0-dev/abc", "v1.0.0", "1.0", "unknown", ""]
        {
            judge(good).unwrap();
        }
        for old in ["0.4.23", "0.4.0-rc1", "0.0.1"] {
            let error = judge(old).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.message().contains(old) && error.message().contains("0.5.0"), "{error}");
        }
    }
}
