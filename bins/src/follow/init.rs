//! `init`: a new follower.

use ipfs_cluster::config::{Environment, Identity, ServiceJson, create_folder};
use ipfs_cluster::{Error, ErrorKind};

use super::folder::FollowerFolder;
use super::source::Source;
use super::{PROGRAM, Trouble};
use crate::process::print;

/// Writes a new identity, unless there is one, and where the configuration is. The latter last, so that a follower
/// either is initialized or can be.
///
/// # Errors
/// With the reference's texts: it is initialized already, the source is none, files cannot be written.
pub fn init(
    follower: &FollowerFolder,
    argument: &str,
    gateway: &str,
    environment: Environment<'_>,
) -> Result<(), Trouble> {
    let (name, path) = (follower.name(), follower.path());
    if follower.is_initialized() {
        return Err(Trouble::new(format!(
            "Configuration for this cluster already exists.\nPlease delete {} if you wish to re-initialize.",
            path.display()
        )));
    }
    let source = Source::from_argument(argument, gateway)?;
    print(source.explanation(argument, gateway));
    remove_remains(follower)?;
    create_folder(path)?;
    let _lock = follower.folder().lock().map_err(|error| follower.busy(&error))?;
    let (identity_json, service_json) = (follower.folder().identity_json(), follower.folder().service_json());
    let saving = |error: &Error, path: &std::path::Path| {
        Trouble::of(error, format!("error saving {}", path.display()))
    };
    match Identity::load(&identity_json) {
        Err(missing) if missing.kind() == ErrorKind::NotFound => {
            let identity = Identity::generate().with_environment(environment).map_err(|error| {
                Trouble::of(&error, "error applying environment variables to the identity")
            })?;
            identity.save(&identity_json).map_err(|error| saving(&error, &identity_json))?;
            print(format_args!("Identity written to {}.\n", identity_json.display()));
        }
        Err(error) => return Err(error.into()),
        Ok(_) => print(format_args!("Identity found in {}.\n", identity_json.display())),
    }
    ServiceJson::from_source(source.url())
        .and_then(|file| file.save(&service_json))
        .map_err(|error| saving(&error, &service_json))?;
    print(format_args!(
        "Configuration written to {}.\nCluster \"{name}\" follower peer initialized.\n\nYou can now use \"{PROGRAM} \
         {name} run\" to start a follower peer for this cluster.\n(Remember to start your IPFS daemon before)\n",
        service_json.display()
    ));
    Ok(())
}

/// Removes what an interrupted `leave` left of an earlier follower of the name.
///
/// # Errors
/// `Io`.
pub fn remove_remains(follower: &FollowerFolder) -> Result<(), Error> {
    let remains = follower.remains();
    match std::fs::remove_dir_all(&remains) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", remains.display()), error))
        }
        _ => Ok(()),
    }
}
