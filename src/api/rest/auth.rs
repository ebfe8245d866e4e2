//! Who may call: users, and how a request proves to come from one.
//!
//! No time that an answer takes tells whether a user exists or how much of a secret was right. Plain passwords are
//! compared as keyed hashes of equal length. A hashed one costs tens of milliseconds of processor time to check, so
//! checks run outside the async threads, a few at a time, one for all who wait for the same, and logins that
//! were right are remembered for a while; where a user has no hash, a check against one that nothing matches takes as
//! long.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use subtle::{Choice, ConstantTimeEq as _};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::jwt::{Unverified, hmac_sha256, random};
use super::passwords::{PasswordHash, is_password_hash};
use super::tokens::{Presented, Signing, Tokens, check_as_reference, issue_as_reference};
use crate::config::Hidden;
use crate::error::{Error, Result};
use crate::types::Timestamp;

/// Most bytes of an `Authorization` header that is looked at.
const AUTHORIZATION_BYTES_MAX: usize = 4096;
/// Checks of hashed passwords that run at the same time. Each takes a processor, and 19 MiB.
const CHECKS_AT_ONCE: usize = 2;
/// Different logins that are checked or wait for it. Further ones are told to come again.
const CHECKS_MAX: usize = 64;
/// How long a login that was right is remembered after it was last used.
const REMEMBERED_FOR: Duration = Duration::from_secs(10 * 60);
/// A remembered login is noted as used again only after so long, so that most requests only read.
const REMEMBERED_STEP: Duration = Duration::from_secs(10);
/// Most logins that are remembered.
const REMEMBERED_MAX: usize = 1_024;

/// The reference takes what base64 has behind the last whole byte for whatever it is.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// How much the API trusts those who wrote its configuration to know what they ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// As the reference: everything is done as it is written.
    #[default]
    #[serde(rename = "")]
    Compatible,
    /// Who is not on this machine has to authenticate; passwords are hashed; tokens expire; no page of another origin
    /// may call unless that origin is listed.
    Strict,
}

/// Users and their tokens. `Debug` shows no password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authentication {
    /// By user: a password, or what [`hash_password`](super::hash_password) made of it.
    pub users: Hidden<BTreeMap<String, String>>,
    /// Where the key of expiring tokens is kept, and what was revoked. It is made when it is missing. None keeps them
    /// in memory, so that they end with the API.
    pub token_file: Option<PathBuf>,
    /// How long expiring tokens count.
    pub token_lifetime: Duration,
}

impl Authentication {
    /// How long expiring tokens count unless told otherwise.
    pub const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

    /// Users with their passwords or hashes.
    pub fn new(users: impl IntoIterator<Item = (String, String)>) -> Self {
        Self {
            users: Hidden(users.into_iter().collect()),
            token_file: None,
            token_lifetime: Self::TOKEN_LIFETIME,
        }
    }

    /// Whether any password stands there as it is.
    pub(super) fn has_plain_passwords(&self) -> bool {
        self.users.0.values().any(|credential| !is_password_hash(credential))
    }

    /// Whether there is anybody whose tokens expire.
    fn has_expiring_tokens(&self, security: Security) -> bool {
        security == Security::Strict || self.users.0.values().any(|credential| is_password_hash(credential))
    }

    /// Checks what cannot work.
    ///
    /// # Errors
    /// `InvalidInput`, naming the user and never what he has for a password.
    pub(super) fn validate(&self, security: Security) -> Result<()> {
        let refuse = |text: String| Err(Error::invalid_input(text).component("restapi"));
        if self.users.0.is_empty() {
            return refuse("restapi.basic_auth_creds should be null or have at least one entry".to_owned());
        }
        if self.token_lifetime.is_zero() {
            return refuse("restapi.token_lifetime must be more than 0".to_owned());
        }
        for (user, credential) in &self.users.0 {
            let key = format!("restapi.basic_auth_credentials: user {user:?}");
            if is_password_hash(credential) {
                PasswordHash::parse(credential)
                    .map_err(|error| error.context(format!("{key}: the password's hash cannot be used")))?;
            } else if security == Security::Strict {
                return refuse(format!(
                    "{key} has a plain password, which \"security\": \"strict\" does not allow; run \
                     `ipfs-cluster-service users add {user}` to store a hash of it"
                ));
            }
            if security == Security::Strict && (user.is_empty() || user.contains(':')) {
                return refuse(format!("{key} can never log in: a name is not empty and has no colon"));
            }
        }
        Ok(())
    }
}

/// A keyed hash of a login.
type Tag = [u8; 32];

#[derive(Clone, Debug)]
struct User {
    name: Arc<str>,
    /// None for a plain password.
    hash: Option<PasswordHash>,
    signing: Signing,
}

/// Everybody who may call, ready to be asked.
pub(super) struct Users {
    by_name: BTreeMap<String, User>,
    /// The key of the tags, of this process alone.
    key: [u8; 32],
    /// Logins with plain passwords.
    plain: Vec<(Tag, Arc<str>)>,
    /// What a login is checked against that has no hash, as long as anybody has one.
    decoy: Option<PasswordHash>,
    tokens: Option<Tokens>,
    checks: Mutex<Checks>,
    permits: Arc<Semaphore>,
}

#[derive(Default)]
struct Checks {
    /// Logins that were right, and when they were last used.
    right: BTreeMap<Tag, Instant>,
    /// Logins that are checked now.
    running: BTreeMap<Tag, Shared<BoxFuture<'static, bool>>>,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users")
            .field("names", &self.by_name.keys())
            .field("tokens", &self.tokens)
            .finish_non_exhaustive()
    }
}

/// Who sends a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) user: Arc<str>,
    /// The token that says so; none for a password.
    pub(super) token: Option<Presented>,
}

/// What a request says about who sends it.
#[derive(Debug)]
pub(super) enum Claim {
    /// Nothing that can be read.
    None,
    /// More than one thing.
    Several,
    /// Something wrong, as a password.
    BadPassword,
    /// Something wrong, as a token.
    BadToken,
    /// Something right.
    Right(Identity),
    /// Something that takes long to check.
    Unchecked(Login),
}

/// A login whose password is hashed, or that nobody has.
pub(super) struct Login {
    /// None when there is no such user, or none with a hash.
    user: Option<(Arc<str>, PasswordHash)>,
    password: Hidden<Vec<u8>>,
    tag: Tag,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .finish_non_exhaustive()
    }
}

/// How the check of a login ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Checked {
    Right(Identity),
    Wrong,
    /// Too many others are being checked.
    Busy,
}

impl Users {
    /// Loads the key of the tokens, or makes one.
    ///
    /// # Errors
    /// As [`Authentication::validate`], and those of the token file.
    pub(super) fn open(config: &Authentication, security: Security) -> Result<Self> {
        config.validate(security)?;
        let tokens = if config.has_expiring_tokens(security) {
            Some(Tokens::open(config.token_file.as_deref(), config.token_lifetime)?)
        } else {
            None
        };
        let key = random();
        let (mut by_name, mut plain, mut decoy) = (BTreeMap::new(), Vec::new(), None);
        for (name, credential) in &config.users.0 {
            let shared: Arc<str> = name.as_str().into();
            let hash = is_password_hash(credential).then(|| PasswordHash::parse(credential)).transpose()?;
            if let Some(hash) = &hash {
                decoy.get_or_insert_with(|| hash.that_nothing_matches());
            } else if !name.is_empty() && !credential.is_empty() {
                plain.push((tag(&key, name.as_bytes(), credential.as_bytes()), Arc::clone(&shared)));
            }
            let signing = match (&tokens, &hash) {
                (Some(tokens), Some(_)) => tokens.signing_key(name, credential),
                _ => Signing::Password(credential.clone()),
            };
            by_name.insert(name.clone(), User { name: shared, hash, signing });
        }
        Ok(Self {
            by_name,
            key,
            plain,
            decoy,
            tokens,
            checks: Mutex::default(),
            permits: Arc::new(Semaphore::new(CHECKS_AT_ONCE)),
        })
    }

    /// Reads who a request says it comes from, and checks what can be checked at once.
    pub(super) fn claim(&self, headers: &HeaderMap, now: Timestamp) -> Claim {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Claim::None };
        if values.next().is_some() {
            return Claim::Several;
        }
        let too_long = value.len() > AUTHORIZATION_BYTES_MAX;
        if let Some(credentials) = after_scheme(value, b"basic ") {
            if too_long {
                return Claim::BadPassword;
            }
            let Ok(credentials) = BASE64.decode(credentials) else { return Claim::None };
            let Some(colon) = credentials.iter().position(|byte| *byte == b':') else { return Claim::None };
            self.login(&credentials[..colon], &credentials[colon + 1..])
        } else if let Some(token) = after_scheme(value, b"bearer ") {
            match self.bearer(token, now).filter(|_| !too_long) {
                Some(identity) => Claim::Right(identity),
                None => Claim::BadToken,
            }
        } else {
            Claim::None
        }
    }

    fn login(&self, user: &[u8], password: &[u8]) -> Claim {
        let tag = tag(&self.key, user, password);
        let mut name = None;
        let mut right = Choice::from(0);
        for (other, user) in &self.plain {
            // Nothing is left out once it is found.
            let same = tag.ct_eq(other);
            right |= same;
            if same.into() {
                name = Some(user);
            }
        }
        if let (true, Some(name)) = (right.into(), name) {
            return Claim::Right(Identity { user: Arc::clone(name), token: None });
        }
        if self.decoy.is_none() || user.is_empty() || password.is_empty() {
            return Claim::BadPassword;
        }
        let user = std::str::from_utf8(user).ok().and_then(|name| self.by_name.get(name));
        let user = user.and_then(|user| Some((Arc::clone(&user.name), user.hash.clone()?)));
        if let Some((name, _)) = &user
            && self.is_remembered(&tag)
        {
            return Claim::Right(Identity { user: Arc::clone(name), token: None });
        }
        Claim::Unchecked(Login { user, password: Hidden(password.to_vec()), tag })
    }

    fn bearer(&self, token: &[u8], now: Timestamp) -> Option<Identity> {
        let token = Unverified::parse(token)?;
        let Some(user) = token.claims.iss.as_deref().and_then(|name| self.by_name.get(name)) else {
            // For the time that it takes.
            let _ = token.is_signed_with(&self.key);
            return None;
        };
        let presented = match (&user.signing, &self.tokens) {
            (Signing::Password(password), _) => check_as_reference(password, &token, now),
            (Signing::Key(key), Some(tokens)) => tokens.check(&user.name, key, &token, now),
            (Signing::Key(_), None) => None,
        }?;
        Some(Identity { user: Arc::clone(&user.name), token: Some(presented) })
    }

    /// Checks a login. Cancel-safe: a check that was begun goes on, and its result is remembered.
    pub(super) async fn check(self: &Arc<Self>, login: Login) -> Checked {
        let Login { user, password, tag } = login;
        let (name, hash) = match (user, &self.decoy) {
            (Some((name, hash)), _) => (Some(name), hash),
            (None, Some(decoy)) => (None, decoy.clone()),
            (None, None) => return Checked::Wrong,
        };
        let running = {
            let mut checks = self.checks();
            match checks.running.get(&tag) {
                Some(running) => running.clone(),
                None if checks.running.len() >= CHECKS_MAX => return Checked::Busy,
                None => {
                    let task = tokio::spawn(check(Arc::clone(self), tag, hash, password));
                    let running = task.map(|outcome| outcome.unwrap_or(false)).boxed().shared();
                    checks.running.insert(tag, running.clone());
                    running
                }
            }
        };
        match (running.await, name) {
            (true, Some(user)) => Checked::Right(Identity { user, token: None }),
            _ => Checked::Wrong,
        }
    }

    fn checks(&self) -> MutexGuard<'_, Checks> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tag is worth nothing to those who do not know its key, so neither is the time that finding it takes.
    fn is_remembered(&self, tag: &Tag) -> bool {
        let mut checks = self.checks();
        let Some(used) = checks.right.get_mut(tag) else { return false };
        let idle = used.elapsed();
        if idle >= REMEMBERED_FOR {
            checks.right.remove(tag);
            return false;
        }
        if idle >= REMEMBERED_STEP {
            *used = Instant::now();
        }
        true
    }

    fn remember(&self, checks: &mut Checks, tag: Tag) {
        checks.right.retain(|_, used| used.elapsed() < REMEMBERED_FOR);
        if checks.right.len() >= REMEMBERED_MAX
            && let Some(oldest) = checks.right.iter().min_by_key(|(_, used)| **used).map(|(tag, _)| *tag)
        {
            checks.right.remove(&oldest);
        }
        checks.right.insert(tag, Instant::now());
    }

    /// A token for somebody; none for a user who is no more.
    pub(super) fn issue(&self, identity: &Identity, now: Timestamp) -> Option<String> {
        let user = self.by_name.get(&*identity.user)?;
        match (&user.signing, &self.tokens) {
            (Signing::Password(password), _) => Some(issue_as_reference(&user.name, password)),
            (Signing::Key(key), Some(tokens)) => {
                Some(tokens.issue(&user.name, key, identity.token.as_ref(), now))
            }
            (Signing::Key(_), None) => None,
        }
    }

    /// What revokes tokens of a user; none when they are of the kind that cannot be.
    pub(super) fn revocable(&self, identity: &Identity) -> Option<&Tokens> {
        match self.by_name.get(&*identity.user)?.signing {
            Signing::Password(_) => None,
            Signing::Key(_) => self.tokens.as_ref(),
        }
    }
}

/// Waits for its turn, checks, and remembers.
async fn check(users: Arc<Users>, tag: Tag, hash: PasswordHash, password: Hidden<Vec<u8>>) -> bool {
    let permit = Arc::clone(&users.permits).acquire_owned().await;
    let checking = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        hash.is_of(&password.0)
    });
    let right = checking.await.unwrap_or(false);
    let mut checks = users.checks();
    checks.running.remove(&tag);
    if right {
        users.remember(&mut checks, tag);
    }
    right
}

fn tag(key: &[u8; 32], user: &[u8], password: &[u8]) -> Tag {
    hmac_sha256(key, &[user, password])
}

/// What stands behind a scheme, which is given in lower case with its space.
fn after_scheme<'a>(value: &'a HeaderValue, scheme: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = value.as_bytes().split_at_checked(scheme.len())?;
    start.eq_ignore_ascii_case(scheme).then_some(rest)
}
