//! `users`: who may use the REST API.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};

use ipfs_cluster::api::rest::{RestApiSection, hash_password};
use ipfs_cluster::config::{ConfigSection as _, ServiceJson};
use ipfs_cluster::{Error, Result as ClusterResult};
use ipfs_cluster_bins::process::print;
use ipfs_cluster_bins::service::folder::Folder;
use ipfs_cluster_bins::service::{Doing as _, Failure, prompt, source};
use serde_json::Value;

use crate::terminal;

/// Where the users are, in the section.
const KEY: &str = "basic_auth_credentials";
/// Most users that are kept.
const USERS_MAX: usize = 10_000;

pub(crate) fn add(folder: &Folder, name: &str) -> Result<(), Failure> {
    const DOING: &str = "adding a user";
    check_name(name).doing(DOING)?;
    let _lock = folder.lock().doing("obtaining execution lock")?;
    let (mut file, mut users) = load(folder)?;
    let password = read_password()?;
    // Longer than a moment: it is what makes guessing slow.
    let hash = hash_password(&password).doing(DOING)?;
    let known = users.insert(name.to_owned(), hash).is_some();
    if users.len() > USERS_MAX {
        return Err(Failure::new(
            DOING,
            Error::invalid_input(format!("there are {USERS_MAX} users already")),
        ));
    }
    save(folder, &mut file, &users).doing(DOING)?;
    match known {
        true => eprintln!("password of user {name} changed; it counts from the next start of the daemon"),
        false => eprintln!("user {name} added; it counts from the next start of the daemon"),
    }
    Ok(())
}

pub(crate) fn remove(folder: &Folder, name: &str) -> Result<(), Failure> {
    const DOING: &str = "removing a user";
    let _lock = folder.lock().doing("obtaining execution lock")?;
    let (mut file, mut users) = load(folder)?;
    if users.remove(name).is_none() {
        return Err(Failure::new(DOING, Error::not_found(format!("there is no user {name:?}"))));
    }
    save(folder, &mut file, &users).doing(DOING)?;
    eprintln!("user {name} removed; it counts from the next start of the daemon");
    if users.is_empty() {
        eprintln!("there are no users left: the REST API asks nobody who they are");
    }
    Ok(())
}

pub(crate) fn list(folder: &Folder) -> Result<(), Failure> {
    let (_, users) = load(folder)?;
    let names: String = users.keys().map(|name| format!("{name}\n")).collect();
    print(&names);
    Ok(())
}

/// What a header can carry: the name ends at the first colon.
fn check_name(name: &str) -> ClusterResult<()> {
    let is_fine = !name.is_empty()
        && name.len() <= 256
        && !name.contains([':', ','])
        && !name.chars().any(char::is_control);
    if is_fine {
        return Ok(());
    }
    Err(Error::invalid_input("a user's name has 1 to 256 bytes, and no colon, comma or control character"))
}

fn load(folder: &Folder) -> Result<(ServiceJson, BTreeMap<String, String>), Failure> {
    const DOING: &str = "loading configurations";
    let file = ServiceJson::load(&folder.service_json()).doing(DOING)?;
    if let Some(url) = file.source() {
        let place = reqwest::Url::parse(&url)
            .map_or_else(|_| "its source".to_owned(), |url| source::without_credentials(&url));
        let text = format!("the users are in the configuration at {place}: change them there");
        return Err(Failure::new(DOING, Error::invalid_input(text)));
    }
    let section = file.section(RestApiSection::PATH).doing(DOING)?;
    let Some(section) = section else {
        let text = format!("there is no section {} in the configuration", RestApiSection::PATH);
        return Err(Failure::new(DOING, Error::not_found(text)));
    };
    // The values are nobody's business here, and stay out of errors.
    let users = match section.get(KEY) {
        None | Some(Value::Null) => BTreeMap::new(),
        Some(users) => serde_json::from_value(users.clone()).map_err(|_| {
            let text = format!("{}.{KEY} is not an object of texts", RestApiSection::PATH);
            Failure::new(DOING, Error::invalid_input(text))
        })?,
    };
    Ok((file, users))
}

/// Changes nothing else in the file. Without users there is no authentication, as the reference has it.
fn save(folder: &Folder, file: &mut ServiceJson, users: &BTreeMap<String, String>) -> ClusterResult<()> {
    let path = format!("{}.{KEY}", RestApiSection::PATH);
    match users.is_empty() {
        true => file.set(&path, &Value::Null)?,
        false => file.set(&path, users)?,
    }
    file.save(&folder.service_json())
}

/// From the terminal, twice and unseen; or the first line of standard input. Never from the command line, which others
/// can see.
fn read_password() -> Result<String, Failure> {
    if !io::stdin().is_terminal() {
        return prompt::line(&mut io::stdin().lock()).map_err(terminal);
    }
    let ask = |question| prompt::ask_unseen(question).map_err(terminal);
    let password = ask("Password: ")?;
    if ask("Password again: ")? != password {
        return Err(Failure::new("reading the password", Error::invalid_input("the two are not the same")));
    }
    Ok(password)
}
