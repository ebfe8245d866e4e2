//! Names of followed clusters, and where their files are.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ipfs_cluster::client::Client;
use ipfs_cluster::config::Environment;
use ipfs_cluster::{Error, ErrorKind, Result};

use super::PROGRAM;
use crate::service::config::CREDENTIALS_VARIABLE;
use crate::service::folder::{Folder, locate};

/// The base folder in the home folder, unless another is named.
const DEFAULT_BASE: &str = ".ipfs-cluster-follow";
/// The variable that moves the API of a follower.
pub const LISTEN_VARIABLE: &str = "CLUSTER_RESTAPI_HTTPLISTENMULTIADDRESS";
/// The socket of a follower's API in its folder.
const SOCKET: &str = "api-socket";
/// The configuration that was fetched last and was good.
const CACHED: &str = "service.cached.json";
/// Longest path of a socket that the system takes, in bytes.
const SOCKET_PATH_BYTES_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
/// Longest name of a file that file systems take, in bytes, less what we put around it.
const NAME_BYTES_MAX: usize = 200;
/// What is no name, because it is a command.
const COMMANDS: &[&str] = &["completion", "help", "info", "init", "leave", "list", "man", "remove", "run"];

/// What somebody calls a cluster that they follow: the name of its folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterName(String);

impl ClusterName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse =
            |why: &str| Err(Error::invalid_input(format!("{text:?} cannot be the name of a cluster: {why}")));
        match text {
            "" => refuse("it is empty"),
            "." | ".." => refuse("it is a way to another folder"),
            _ if text.contains(['/', '\\']) => refuse("it is the name of a folder, and has no slash"),
            _ if text.chars().any(char::is_control) => refuse("it has a control character"),
            _ if text.starts_with(['.', '-']) => refuse("it begins with a dot or a dash"),
            _ if text.len() > NAME_BYTES_MAX => refuse(&format!("it is longer than {NAME_BYTES_MAX} bytes")),
            _ if COMMANDS.contains(&text) => refuse("it is a command"),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The folder of all followers of a user. Its path is absolute; it need not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base(PathBuf);

impl Base {
    /// The named folder, or `~/.ipfs-cluster-follow`.
    ///
    /// # Errors
    /// As [`Folder::locate`].
    pub fn locate(named: Option<&Path>) -> Result<Self> {
        locate(named, DEFAULT_BASE).map(Self)
    }

    /// Names of the clusters that were initialized, in order.
    ///
    /// # Errors
    /// `Io` for a folder that is there and cannot be read.
    pub fn clusters(&self) -> Result<Vec<ClusterName>> {
        let failed = |source| Error::io(format!("reading {}", self.0.display()), source);
        let entries = match std::fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let name = name.to_str().and_then(|name| name.parse::<ClusterName>().ok());
            names.extend(name.filter(|name| self.follower(name.clone()).is_initialized()));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The follower of this name.
    pub fn follower(&self, name: ClusterName) -> FollowerFolder {
        FollowerFolder { folder: Folder::of(PROGRAM, self.0.join(name.as_str())), base: self.clone(), name }
    }
}

/// One follower's name and folder, which need not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowerFolder {
    name: ClusterName,
    folder: Folder,
    base: Base,
}

impl FollowerFolder {
    /// The name.
    pub fn name(&self) -> &ClusterName {
        &self.name
    }

    /// The folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Where all of the user's followers are.
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// `service.cached.json`.
    pub fn cached_json(&self) -> PathBuf {
        self.path().join(CACHED)
    }

    /// What is left of a follower of this name that was being removed when something broke in.
    pub fn remains(&self) -> PathBuf {
        self.base.0.join(format!(".{}.leaving", self.name))
    }

    /// Whether `init` was here, and came to its end.
    pub fn is_initialized(&self) -> bool {
        self.folder.service_json().is_file()
    }

    /// Whether this is a file of the follower itself, which nothing that is fetched may replace.
    pub fn is_own_file(name: &str) -> bool {
        ["service.json", "identity.json", ipfs_cluster::config::LOCK_FILE, SOCKET, CACHED].contains(&name)
    }

    /// Where the API listens unless the environment says otherwise: `/unix/…/api-socket`.
    ///
    /// # Errors
    /// `InvalidInput` for a path that no socket can have.
    pub fn socket_address(&self) -> Result<String> {
        let path = self.path().join(SOCKET);
        let refuse = |why: String| {
            Error::invalid_input(format!(
                "no socket can be at {}: {why}; name a folder with --config, or an address with {LISTEN_VARIABLE}",
                path.display()
            ))
        };
        let text = path.to_str().ok_or_else(|| refuse("the path is not UTF-8".to_owned()))?;
        if text.len() > SOCKET_PATH_BYTES_MAX {
            let bytes = text.len();
            return Err(refuse(format!("the path has {bytes} bytes, of {SOCKET_PATH_BYTES_MAX} at most")));
        }
        Ok(format!("/unix{text}"))
    }

    /// A client of the follower's API, where that is if it runs.
    ///
    /// # Errors
    /// `InvalidInput` for an address that is none.
    pub fn client(&self, environment: Environment<'_>) -> Result<Client> {
        let mut builder = Client::builder();
        match environment(LISTEN_VARIABLE).filter(|addresses| !addresses.is_empty()) {
            None => builder = builder.host(self.socket_address()?),
            Some(addresses) => {
                for address in addresses.split(',') {
                    builder = builder.host(address.trim());
                }
            }
        }
        let credentials = environment(CREDENTIALS_VARIABLE).unwrap_or_default();
        if let Some((user, password)) = credentials.split(',').next().and_then(|first| first.split_once(':'))
        {
            builder = builder.basic_auth(user.trim(), password);
        }
        builder.build().map_err(|error| match environment(LISTEN_VARIABLE) {
            Some(text) => error.context(format!("error parsing the value of {LISTEN_VARIABLE}: {text}")),
            None => error,
        })
    }

    /// An error for what a follower that runs does not let others do.
    pub fn busy(&self, error: &Error) -> Error {
        match error.kind() {
            ErrorKind::Locked => Error::new(
                ErrorKind::Locked,
                format!("the follower peer of \"{}\" is running: stop it first ({error})", self.name),
            ),
            _ => error.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_component_of_a_path_and_no_command() {
        for good in ["mycl", "my cluster", "a.b", "ünï", "Run", "x-"] {
            assert_eq!(good.parse::<ClusterName>().unwrap().as_str(), good);
        }
        let long = "x".repeat(201);
        for bad in
            ["", ".", "..", "a/b", "/", "../x", "a\\b", "a\nb", "\u{1b}[2J", ".x", "-x", "run", "help", &long]
        {
            let error = bad.parse::<ClusterName>().unwrap_err().to_string();
            assert!(error.contains("cannot be the name of a cluster: it "), "{error}");
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }

    #[test]
    fn every_command_is_no_name() {
        for word in COMMANDS {
            assert!(word.parse::<ClusterName>().is_err());
        }
    }

    #[test]
    fn clusters_are_folders_with_a_configuration_in_order() {
        let temporary = tempfile::tempdir().unwrap();
        let base = Base::locate(Some(&temporary.path().join("base"))).unwrap();
        assert_eq!(base.clusters().unwrap(), []);
        for name in ["b", "a", ".hidden", "run", "unfinished"] {
            std::fs::create_dir_all(temporary.path().join("base").join(name)).unwrap();
        }
        for name in ["b", "a", ".hidden", "run"] {
            std::fs::write(temporary.path().join("base").join(name).join("service.json"), "{}").unwrap();
        }
        let names: Vec<String> = base.clusters().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn a_socket_whose_path_is_too_long_is_an_error_with_ways_out() {
        let base = Base::locate(Some(Path::new("/x"))).unwrap();
        let socket = |name: String| base.follower(name.parse().unwrap()).socket_address();
        assert_eq!(socket("mycl".to_owned()).unwrap(), "/unix/x/mycl/api-socket");
        let error = socket("n".repeat(100)).unwrap_err().to_string();
        assert!(error.contains("--config") && error.contains(LISTEN_VARIABLE), "{error}");
    }
}
