//! The Kubo that the tests run against: `ipfs` on PATH when it is recent enough, else the pinned one, built once.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::cargo::{root, run};

/// Tells the tests where Kubo is. Who sets it before has chosen one.
pub(crate) const PATH_VARIABLE: &str = "IPFS_CLUSTER_TEST_KUBO";

/// The oldest Kubo that the tests are written for; also what `tools/kubo/go.mod` pins.
const VERSION_MIN: Version = Version { major: 0, minor: 39 };

/// The Go module that pins Kubo, below the workspace root.
const MODULE: &str = "tools/kubo";
const PACKAGE: &str = "github.com/ipfs/kubo/cmd/ipfs";

/// Built tools, below the workspace root and not in git.
pub(crate) const CACHE: &str = ".tools";

/// Where Go's own installer puts it, which is not always on the PATH of a CI job.
const GO_INSTALLED: &str = "/usr/local/go/bin";

const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const ANSWER_POLL: Duration = Duration::from_millis(10);
const ANSWER_BYTES_MAX: u64 = 4_096;

/// The path of a Kubo that answers. Builds the pinned one when there is no other, which takes minutes the first time;
/// two callers at once build it once.
pub(crate) fn ensure() -> Result<PathBuf> {
    if let Some(chosen) = env::var_os(PATH_VARIABLE) {
        let chosen = PathBuf::from(chosen);
        let version = version_of(&chosen).with_context(|| {
            format!("{PATH_VARIABLE} names {}, which is no working Kubo", chosen.display())
        })?;
        eprintln!("kubo: {PATH_VARIABLE} names {}, version {version}", chosen.display());
        return Ok(chosen);
    }
    if let Some(found) = find_on(&env::var_os("PATH").unwrap_or_default()) {
        return Ok(found);
    }
    pinned(&root()?)
}

/// The first `ipfs` in the folders of a PATH that is recent enough; the others are passed over with a line each.
fn find_on(path: &OsStr) -> Option<PathBuf> {
    for folder in env::split_paths(path).filter(|folder| folder.is_absolute()) {
        let candidate = folder.join(format!("ipfs{}", env::consts::EXE_SUFFIX));
        if !candidate.is_file() {
            continue;
        }
        let shown = candidate.display();
        match version_of(&candidate) {
            Ok(version) if version >= VERSION_MIN => {
                eprintln!("kubo: found {shown}, version {version}");
                return Some(candidate);
            }
            Ok(version) => {
                eprintln!("kubo: passing over {shown}: version {version} is older than {VERSION_MIN}")
            }
            Err(error) => eprintln!("kubo: passing over {shown}: {error:#}"),
        }
    }
    None
}

/// The pinned Kubo from the cache, built if it is not there.
fn pinned(root: &Path) -> Result<PathBuf> {
    let module = root.join(MODULE);
    let built = root.join(CACHE).join(format!("kubo-{}", cache_key(&module)?)).join("ipfs");
    if is_usable(&built) {
        return Ok(built);
    }
    let folder = built.parent().context("the cache has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let lock_path = folder.join("lock");
    let lock = File::create(&lock_path).with_context(|| format!("{} cannot be made", lock_path.display()))?;
    // Whoever comes second waits for the first and finds its work done. The system lets go of the lock of a process
    // that dies.
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) => {
            eprintln!("kubo: waiting for the build that another `cargo xtask` has begun");
            lock.lock()
        }
        Err(TryLockError::Error(error)) => Err(error),
        Ok(()) => Ok(()),
    }
    .with_context(|| format!("{} cannot be locked", lock_path.display()))?;
    if !is_usable(&built) {
        let go = find_go(&env::var_os("PATH").unwrap_or_default()).with_context(|| {
            format!(
                "there is no `ipfs` {VERSION_MIN} or newer on PATH, and no Go to build the pinned one with; install Go \
                 1.26 or newer (https://go.dev/doc/install), or Kubo {VERSION_MIN} or newer so that `ipfs` is on PATH \
                 (https://docs.ipfs.tech/install/command-line/)"
            )
        })?;
        eprintln!(
            "kubo: no `ipfs` {VERSION_MIN} or newer on PATH; building the pinned one, once (a few minutes)"
        );
        build(&go, &module, &built)?;
    }
    Ok(built)
}

/// Only a finished build that answers gets its name: a build that was interrupted leaves nothing to be mistaken for one.
fn build(go: &Path, module: &Path, built: &Path) -> Result<()> {
    let partial = built.with_extension("partial");
    let mut command = Command::new(go);
    command.current_dir(module).args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-o"]);
    command.arg(&partial).arg(PACKAGE);
    // As Kubo's own releases are built, so no C compiler is needed; and the module stands alone, whatever Go workspace
    // this checkout may lie in.
    command.env("CGO_ENABLED", "0").env("GOWORK", "off");
    run(&mut command).context(
        "the pinned Kubo cannot be built; this needs Go 1.26 or newer and a Go module proxy that answers, or else put \
         a Kubo of your own on PATH as `ipfs`",
    )?;
    let version = version_of(&partial).context("the pinned Kubo was built but does not answer")?;
    if version < VERSION_MIN {
        bail!("{MODULE}/go.mod pins Kubo {version}, and the tests need {VERSION_MIN} or newer");
    }
    fs::rename(&partial, built).with_context(|| format!("{} cannot be renamed", partial.display()))?;
    eprintln!("kubo: built version {version}");
    Ok(())
}

fn is_usable(built: &Path) -> bool {
    built.is_file() && version_of(built).is_ok_and(|version| version >= VERSION_MIN)
}

/// Go on a PATH, or where its installer puts it.
pub(crate) fn find_go(path: &OsStr) -> Option<PathBuf> {
    let folders = env::split_paths(path).filter(|folder| folder.is_absolute());
    let mut candidates = folders
        .chain([PathBuf::from(GO_INSTALLED)])
        .map(|folder| folder.join(format!("go{}", env::consts::EXE_SUFFIX)));
    candidates.find(|go| go.is_file())
}

/// Changes when the pin changes, and differs between platforms that share a checkout.
fn cache_key(module: &Path) -> Result<String> {
    let mut pins = Vec::new();
    for name in ["go.mod", "go.sum"] {
        let path = module.join(name);
        pins.extend(fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?);
    }
    Ok(format!("{}-{}-{:016x}", env::consts::OS, env::consts::ARCH, fnv1a(&pins)))
}

/// FNV-1a. Nobody attacks the name of a cache folder, and this one stays the same in every release of Rust.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: u32,
    minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Asks a program for its version; an error if it is none of Kubo or takes too long.
fn version_of(ipfs: &Path) -> Result<Version> {
    let mut child = Command::new(ipfs)
        .arg("version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("it cannot be started")?;
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let status = loop {
        if let Some(status) = child.try_wait().context("it cannot be waited for")? {
            break status;
        }
        if Instant::now() >= deadline {
            // Both fail only if it has ended by itself meanwhile.
            let _ = child.kill();
            let _ = child.wait();
            bail!("it did not answer `ipfs version` within {} seconds", ANSWER_TIMEOUT.as_secs());
        }
        thread::sleep(ANSWER_POLL);
    };
    if !status.success() {
        bail!("`ipfs version` failed ({status})");
    }
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).context("its answer cannot be read")?;
    }
    let answer = String::from_utf8_lossy(&answer);
    parse_version(&answer).with_context(|| format!("it answered {:?} to `ipfs version`", answer.trim_end()))
}

/// Reads `ipfs version 0.39.0`, also with a suffix such as `-rc1`.
fn parse_version(answer: &str) -> Option<Version> {
    let version = answer.lines().next()?.strip_prefix("ipfs version ")?;
    let mut numbers = version.trim().split('.');
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.parse().ok()?;
    Some(Version { major, minor })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_what_kubo_answers_and_from_nothing_else() {
        let version = |major, minor| Some(Version { major, minor });
        assert_eq!(parse_version("ipfs version 0.39.0\n"), version(0, 39));
        assert_eq!(parse_version("ipfs version 0.40.0-rc1"), version(0, 40));
        assert_eq!(parse_version("ipfs version 1.2.0\nmore\n"), version(1, 2));
        for other in
            ["", "0.39.0", "ipfs version", "ipfs version x.1", "ipfs version 1", "git version 2.39.5"]
        {
            assert_eq!(parse_version(other), None, "{other:?}");
        }
        assert!(version(0, 9) < version(0, 39) && version(1, 0) > version(0, 39));
    }

    /// All that starts programs is in this one test: a file that one thread still writes cannot be started by another.
    #[cfg(unix)]
    #[test]
    fn the_first_recent_ipfs_on_path_is_taken_and_the_others_are_passed_over() {
        use std::os::unix::fs::PermissionsExt as _;

        let scripts = [
            ("older", 0o755, "#!/bin/sh\necho ipfs version 0.38.2\n"),
            ("broken", 0o755, "#!/bin/sh\nexit 3\n"),
            ("other", 0o755, "#!/bin/sh\necho hello\n"),
            ("locked", 0o644, "#!/bin/sh\necho ipfs version 0.39.0\n"),
            ("recent", 0o755, "#!/bin/sh\necho ipfs version 0.39.0\n"),
            ("newer", 0o755, "#!/bin/sh\necho ipfs version 0.41.1\n"),
        ];
        let folder = tempfile::tempdir().unwrap();
        for (name, mode, script) in scripts {
            let ipfs = folder.path().join(name).join("ipfs");
            fs::create_dir(ipfs.parent().unwrap()).unwrap();
            fs::write(&ipfs, script).unwrap();
            fs::set_permissions(&ipfs, fs::Permissions::from_mode(mode)).unwrap();
        }
        let find = |names: &[&str]| {
            let path = env::join_paths(names.iter().map(|name| folder.path().join(name))).unwrap();
            find_on(&path)
        };
        assert_eq!(find(&[]), None);
        assert_eq!(find(&["absent", "older", "broken", "other", "locked"]), None);
        assert_eq!(
            find(&["absent", "older", "broken", "other", "locked", "recent", "newer"]),
            Some(folder.path().join("recent").join("ipfs"))
        );
    }

    #[test]
    fn a_changed_pin_has_another_place_in_the_cache() {
        let module = tempfile::tempdir().unwrap();
        fs::write(module.path().join("go.mod"), "one").unwrap();
        fs::write(module.path().join("go.sum"), "sum").unwrap();
        let before = cache_key(module.path()).unwrap();
        assert_eq!(before, cache_key(module.path()).unwrap());
        fs::write(module.path().join("go.sum"), "other").unwrap();
        assert_ne!(before, cache_key(module.path()).unwrap());
        fs::remove_file(module.path().join("go.sum")).unwrap();
        assert!(cache_key(module.path()).unwrap_err().to_string().contains("go.sum"));
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn go_is_looked_for_on_path_first() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("go"), "").unwrap();
        assert_eq!(find_go(folder.path().as_os_str()), Some(folder.path().join("go")));
    }
}
