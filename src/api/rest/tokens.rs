//! The tokens that the API gives to its users, and takes from them.
//!
//! There are two kinds. Users whose password stands in the configuration as it is have those of the reference: signed
//! with that password, always the same, good for ever. All others, and everybody under `"security": "strict"`, have
//! **expiring** ones: signed with a key of this peer that is derived from a random one in a file of its own
//! and from the hash of the user's password. They have a name and an end, and can be revoked; a new password ends them
//! too. A token that was got with a token ends no later than that one.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::jwt::{self, Algorithm, Claims, Seconds, Unverified, hmac_sha256, random};
use crate::config::{MODE_PRIVATE, read_text, write_atomically};
use crate::error::{Error, ErrorKind, Result};
use crate::types::Timestamp;

/// Name of the file in the configuration folder that holds the key of expiring tokens and what was revoked.
pub const TOKEN_FILE: &str = "api-tokens.json";

/// Most bytes of that file.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Most revoked tokens of one user that are kept apart. One more revokes all that he has.
const REVOKED_PER_USER_MAX: usize = 1_000;
/// Bytes of a token's name.
const ID_BYTES: usize = 16;

/// How the tokens of one user are signed.
#[derive(Clone)]
pub(super) enum Signing {
    /// With the password itself, as in the reference.
    Password(String),
    /// With a key derived from this peer's.
    Key([u8; 32]),
}

impl fmt::Debug for Signing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password",
            Self::Key(_) => "Key",
        })
    }
}

/// A token that is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Presented {
    /// Its name; none has a token of the reference.
    pub(super) id: Option<String>,
    expires: Option<Seconds>,
}

/// What the file holds.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    key: String,
    #[serde(default)]
    users: BTreeMap<String, Revoked>,
}

/// What was revoked of one user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoked {
    /// How often all were.
    #[serde(default)]
    generation: u64,
    /// Single ones since then: their names, and when they end by themselves.
    #[serde(default)]
    tokens: BTreeMap<String, Seconds>,
}

/// The key of expiring tokens, and which of them count no more.
pub(super) struct Tokens {
    key: [u8; 32],
    lifetime: Duration,
    /// None keeps everything in memory.
    path: Option<PathBuf>,
    revoked: Mutex<BTreeMap<String, Revoked>>,
    /// One writes at a time, the newest state last.
    writing: Arc<tokio::sync::Mutex<()>>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("lifetime", &self.lifetime)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Tokens {
    /// Loads the file, or makes a new one, readable by its owner alone. Without a path the key is forgotten with us.
    ///
    /// # Errors
    /// `Io` and `InvalidInput`, naming the file. They repeat nothing of it.
    pub(super) fn open(path: Option<&Path>, lifetime: Duration) -> Result<Self> {
        let (key, revoked) = match path.map(|path| (path, read_text(path, FILE_BYTES_MAX))) {
            None => (random(), BTreeMap::new()),
            Some((path, Ok(text))) => parse(path, &text)?,
            Some((path, Err(error))) if error.kind() == ErrorKind::NotFound => {
                let key = random();
                save(path, &key, &BTreeMap::new())?;
                (key, BTreeMap::new())
            }
            Some((_, Err(error))) => return Err(error),
        };
        Ok(Self {
            key,
            lifetime,
            path: path.map(Path::to_owned),
            revoked: Mutex::new(revoked),
            writing: Arc::default(),
        })
    }

    fn revoked(&self) -> MutexGuard<'_, BTreeMap<String, Revoked>> {
        self.revoked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key for a user's tokens, as long as the credential stays the same.
    pub(super) fn signing_key(&self, user: &str, credential: &str) -> Signing {
        Signing::Key(hmac_sha256(&self.key, &[user.as_bytes(), credential.as_bytes()]))
    }

    /// A new expiring token; `with` is the token that it is asked for with, if it is one.
    pub(super) fn issue(
        &self,
        user: &str,
        key: &[u8; 32],
        with: Option<&Presented>,
        now: Timestamp,
    ) -> String {
        let end = Seconds((now + self.lifetime).unix_seconds());
        let end = with.and_then(|token| token.expires).map_or(end, |other| end.min(other));
        let generation = self.revoked().get(user).map_or(0, |revoked| revoked.generation);
        let claims = Claims {
            iss: Some(user.to_owned()),
            iat: Some(Seconds(now.unix_seconds())),
            nbf: None,
            exp: Some(end),
            jti: Some(hex::encode(&random()[..ID_BYTES])),
            generation: Some(generation),
        };
        jwt::sign(&claims, key)
    }

    /// Checks an expiring token of a user.
    pub(super) fn check(
        &self,
        user: &str,
        key: &[u8; 32],
        token: &Unverified<'_>,
        now: Timestamp,
    ) -> Option<Presented> {
        // One algorithm, ours: whoever writes a token does not choose.
        if token.algorithm != Algorithm::Hs256 || !token.is_signed_with(key) {
            return None;
        }
        let claims = &token.claims;
        let (Some(id), Some(expires), Some(generation)) = (&claims.jti, claims.exp, claims.generation) else {
            return None;
        };
        let revoked = self.revoked();
        let is_revoked = match revoked.get(user) {
            Some(revoked) => generation != revoked.generation || revoked.tokens.contains_key(id),
            // Of a file that is no more.
            None => generation != 0,
        };
        (!is_revoked && claims.are_valid_at(now))
            .then(|| Presented { id: Some(id.clone()), expires: Some(expires) })
    }

    /// Revokes one token, or all of a user. It counts no more from now on; when this returns that is on disk. Not
    /// cancel-safe in the sense that a dropped call has revoked it all the same.
    ///
    /// # Errors
    /// `Io` when it could not be written down: then it counts again after a restart.
    pub(super) async fn revoke(&self, user: &str, what: Revoke<'_>, now: Timestamp) -> Result<()> {
        {
            let mut all = self.revoked();
            let revoked = all.entry(user.to_owned()).or_default();
            let now = Seconds(now.unix_seconds());
            revoked.tokens.retain(|_, expires| now < *expires);
            match what {
                Revoke::One(Presented { id: Some(id), expires: Some(expires) })
                    if revoked.tokens.len() < REVOKED_PER_USER_MAX =>
                {
                    revoked.tokens.insert(id.clone(), *expires);
                }
                Revoke::One(_) | Revoke::All => {
                    revoked.generation += 1;
                    revoked.tokens.clear();
                }
            }
        }
        let Some(path) = self.path.clone() else { return Ok(()) };
        let writing = Arc::clone(&self.writing).lock_owned().await;
        let (key, state) = (self.key, self.revoked().clone());
        let written = tokio::task::spawn_blocking(move || {
            let _writing = writing;
            save(&path, &key, &state)
        });
        written.await.unwrap_or_else(|source| {
            Err(Error::internal("saving what was revoked did not finish").with_source(source))
        })
    }
}

/// What is revoked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Revoke<'a> {
    One(&'a Presented),
    All,
}

/// A token of the reference: no end, no name.
pub(super) fn issue_as_reference(user: &str, password: &str) -> String {
    jwt::sign(&Claims { iss: Some(user.to_owned()), ..Claims::default() }, password.as_bytes())
}

/// Checks a token of the reference, by any of its algorithms.
pub(super) fn check_as_reference(
    password: &str,
    token: &Unverified<'_>,
    now: Timestamp,
) -> Option<Presented> {
    // An empty password would be a key that everybody has.
    (token.is_signed_with(password.as_bytes()) && !password.is_empty() && token.claims.are_valid_at(now))
        .then(|| Presented { id: None, expires: token.claims.exp })
}

fn parse(path: &Path, text: &str) -> Result<([u8; 32], BTreeMap<String, Revoked>)> {
    let wrong = || {
        Error::invalid_input(format!(
            "{} is not the token file that the REST API wrote; put it back, or remove it, which ends every token",
            path.display()
        ))
        .component("restapi")
    };
    let file: File = serde_json::from_str(text).map_err(|_| wrong())?;
    let key = BASE64.decode(&file.key).ok().and_then(|key| key.try_into().ok()).ok_or_else(wrong)?;
    Ok((key, file.users))
}

fn save(path: &Path, key: &[u8; 32], users: &BTreeMap<String, Revoked>) -> Result<()> {
    let file = File { key: BASE64.encode(key), users: users.clone() };
    let mut text = serde_json::to_vec_pretty(&file)
        .map_err(|source| Error::internal("the token file cannot be written").with_source(source))?;
    text.push(b'\n');
    write_atomically(path, &text, MODE_PRIVATE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn now() -> Timestamp {
        Timestamp::from_unix_seconds(1_800_000_000)
    }

    fn key(tokens: &Tokens) -> [u8; 32] {
        let Signing::Key(key) = tokens.signing_key("ann", "$argon2id$…") else { panic!("a key") };
        key
    }

    fn check(tokens: &Tokens, token: &str, now: Timestamp) -> Option<Presented> {
        tokens.check("ann", &key(tokens), &Unverified::parse(token.as_bytes())?, now)
    }

    #[tokio::test]
    async fn a_token_counts_until_it_expires_or_is_revoked() {
        let tokens = Tokens::open(None, HOUR).unwrap();
        let issue = || tokens.issue("ann", &key(&tokens), None, now());
        let (one, two, three) = (issue(), issue(), issue());
        assert_ne!(one, two);
        assert!(check(&tokens, &one, now()).is_some());
        assert!(check(&tokens, &one, now() + HOUR - Duration::from_secs(1)).is_some());
        assert!(check(&tokens, &one, now() + HOUR).is_none());

        let presented = check(&tokens, &one, now()).unwrap();
        tokens.revoke("ann", Revoke::One(&presented), now()).await.unwrap();
        assert!(check(&tokens, &one, now()).is_none() && check(&tokens, &two, now()).is_some());
        tokens.revoke("bob", Revoke::All, now()).await.unwrap();
        assert!(check(&tokens, &two, now()).is_some());
        tokens.revoke("ann", Revoke::All, now()).await.unwrap();
        assert!(check(&tokens, &two, now()).is_none() && check(&tokens, &three, now()).is_none());
        assert!(check(&tokens, &issue(), now()).is_some(), "a new one in the same second is good");
    }

    #[test]
    fn a_token_got_with_a_token_ends_with_it() {
        let tokens = Tokens::open(None, HOUR).unwrap();
        let first = tokens.issue("ann", &key(&tokens), None, now());
        let later = now() + HOUR / 2;
        let presented = check(&tokens, &first, later).unwrap();
        let second = tokens.issue("ann", &key(&tokens), Some(&presented), later);
        assert!(check(&tokens, &second, later).is_some() && check(&tokens, &second, now() + HOUR).is_none());
    }

    #[test]
    fn a_token_of_another_kind_is_refused() {
        let tokens = Tokens::open(None, HOUR).unwrap();
        let claims = |json: &str| serde_json::from_str::<Claims>(json).unwrap();
        for json in [
            r#"{"iss":"ann"}"#,
            r#"{"iss":"ann","exp":1800000100,"gen":0}"#,
            r#"{"iss":"ann","jti":"x","gen":0}"#,
            r#"{"iss":"ann","jti":"x","exp":1800000100}"#,
            r#"{"iss":"ann","jti":"x","exp":1800000100,"gen":1}"#,
        ] {
            assert!(check(&tokens, &jwt::sign(&claims(json), &key(&tokens)), now()).is_none(), "{json}");
        }
        let good = claims(r#"{"iss":"ann","jti":"x","exp":1800000100,"gen":0}"#);
        assert!(check(&tokens, &jwt::sign(&good, &key(&tokens)), now()).is_some());
        assert!(check(&tokens, &jwt::sign(&good, b"testpass"), now()).is_none());
        // A new password is a new key.
        let Signing::Key(other) = tokens.signing_key("ann", "$argon2id$other") else { panic!("a key") };
        assert!(check(&tokens, &jwt::sign(&good, &other), now()).is_none());
    }

    #[tokio::test]
    async fn key_and_revocations_survive_a_restart_in_a_private_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(TOKEN_FILE);
        let first = Tokens::open(Some(&path), HOUR).unwrap();
        let (kept, revoked) =
            (first.issue("ann", &key(&first), None, now()), first.issue("ann", &key(&first), None, now()));
        let presented = check(&first, &revoked, now()).unwrap();
        first.revoke("ann", Revoke::One(&presented), now()).await.unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let second = Tokens::open(Some(&path), HOUR).unwrap();
        assert!(check(&second, &kept, now()).is_some() && check(&second, &revoked, now()).is_none());
        assert!(!format!("{second:?}").contains(&BASE64.encode(second.key)));

        // What expired is forgotten.
        second.revoke("ann", Revoke::One(&presented), now() + HOUR).await.unwrap();
        assert_eq!(second.revoked()["ann"].tokens.len(), 1);

        for text in ["", "{}", r#"{"key":"AAAA"}"#, r#"{"key":1}"#, "\u{0}"] {
            std::fs::write(&path, text).unwrap();
            let error = Tokens::open(Some(&path), HOUR).unwrap_err();
            assert!(error.message().contains(TOKEN_FILE), "{error}");
        }
        Tokens::open(Some(&folder.path().join("no/such/folder")), HOUR).unwrap_err();
    }

    #[tokio::test]
    async fn too_many_revoked_tokens_revoke_them_all() {
        let tokens = Tokens::open(None, HOUR).unwrap();
        let token = tokens.issue("ann", &key(&tokens), None, now());
        for number in 0..=REVOKED_PER_USER_MAX {
            let expires = Some(Seconds((now() + HOUR).unix_seconds()));
            let presented = Presented { id: Some(number.to_string()), expires };
            assert!(check(&tokens, &token, now()).is_some(), "{number}");
            tokens.revoke("ann", Revoke::One(&presented), now()).await.unwrap();
        }
        assert!(check(&tokens, &token, now()).is_none());
        assert!(tokens.revoked()["ann"].tokens.is_empty());
    }
}
