//! Passwords that are kept as hashes, so that whoever reads the file does not have them.

use std::fmt;

use argon2::password_hash::phc;
use argon2::{Argon2, Params, PasswordHasher as _, PasswordVerifier as _};

use super::jwt::random;
use crate::error::{Error, Result};

/// How a hash begins that can be checked.
const PREFIX: &str = "$argon2id$";
/// How others begin that nobody has as a password by chance.
const RELATED: &str = "$argon2";
/// Longest password, in bytes. It has to travel in a header.
const PASSWORD_BYTES_MAX: usize = 1024;
const SALT_BYTES: usize = 16;

/// Most memory that a check may take, in KiB.
const MEMORY_KIB_MAX: u32 = 256 * 1024;
/// Most rounds of a check.
const ROUNDS_MAX: u32 = 32;
/// Most lanes of a check.
const LANES_MAX: u32 = 16;

/// Hashes a password for `basic_auth_credentials`: argon2id with a random salt, 19 MiB and two rounds, as a PHC string
/// (`$argon2id$v=19$m=19456,t=2,p=1$…`).
///
/// It takes tens of milliseconds of processor time, as does every check of the result. Not for async threads.
///
/// # Errors
/// `InvalidInput` for an empty password and one of more than 1024 bytes.
pub fn hash_password(password: &str) -> Result<String> {
    if password.is_empty() {
        return Err(wrong("the password is empty".to_owned()));
    }
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(wrong(format!("the password is longer than {PASSWORD_BYTES_MAX} bytes")));
    }
    let hash = Argon2::default()
        .hash_password_with_salt(password.as_bytes(), &random()[..SALT_BYTES])
        .map_err(|source| Error::internal(format!("hashing a password failed: {source}")))?;
    Ok(hash.to_string())
}

/// Whether a credential of the configuration is a hash and not the password itself.
pub fn is_password_hash(credential: &str) -> bool {
    credential.starts_with(RELATED)
}

/// A hash that passwords can be checked against.
#[derive(Clone)]
pub(super) struct PasswordHash(phc::PasswordHash);

impl PasswordHash {
    /// Reads a hash, and makes sure that a check of it stays affordable. The error does not repeat it.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let unreadable =
            || wrong(format!("it is not a hash of the form {PREFIX}v=19$m=…,t=…,p=…$<salt>$<hash>"));
        if !text.starts_with(PREFIX) {
            return Err(unreadable());
        }
        let hash = phc::PasswordHash::new(text).map_err(|_| unreadable())?;
        let params = Params::try_from(&hash).map_err(|_| unreadable())?;
        if hash.salt.is_none() || hash.hash.is_none() || hash.version.is_some_and(|version| version != 19) {
            return Err(unreadable());
        }
        if params.m_cost() > MEMORY_KIB_MAX || params.t_cost() > ROUNDS_MAX || params.p_cost() > LANES_MAX {
            return Err(wrong(format!(
                "its check would cost too much: at most m={MEMORY_KIB_MAX}, t={ROUNDS_MAX}, p={LANES_MAX}"
            )));
        }
        Ok(Self(hash))
    }

    /// One with the same cost that no password has.
    pub(super) fn that_nothing_matches(&self) -> Self {
        let mut hash = self.0.clone();
        hash.salt = phc::Salt::new(&random()[..SALT_BYTES]).ok().or(hash.salt);
        hash.hash = phc::Output::new(&random()).ok().or(hash.hash);
        Self(hash)
    }

    /// Whether this is the password. Takes as long for every password.
    pub(super) fn is_of(&self, password: &[u8]) -> bool {
        Argon2::default().verify_password(password, &self.0).is_ok()
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash")
    }
}

fn wrong(text: String) -> Error {
    Error::invalid_input(text).component("restapi")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hashed_password_is_recognized_and_no_other() {
        let text = hash_password("correct horse").unwrap();
        assert!(text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$") && is_password_hash(&text), "{text}");
        assert_ne!(text, hash_password("correct horse").unwrap(), "salts differ");
        let hash = PasswordHash::parse(&text).unwrap();
        assert!(hash.is_of(b"correct horse") && !hash.is_of(b"correct hors") && !hash.is_of(b""));
        assert!(!hash.that_nothing_matches().is_of(b"correct horse"));
        assert!(!format!("{hash:?}").contains('$'));
    }

    #[test]
    fn what_others_made_is_understood_and_what_cannot_be_checked_is_refused() {
        // `password`, by the argon2 command of the reference implementation.
        let other = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert!(PasswordHash::parse(other).unwrap().is_of(b"password"));
        for text in [
            "",
            "hunter2",
            "$argon2id$",
            "$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$argon2id$v=16$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ",
            "$argon2id$v=19$m=4000000,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$argon2id$v=19$m=65536,t=2000,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        ] {
            let error = PasswordHash::parse(text).unwrap_err();
            assert!(text.is_empty() || !error.message().contains(text) || text == PREFIX, "{error}");
        }
        hash_password("").unwrap_err();
        hash_password(&"x".repeat(PASSWORD_BYTES_MAX + 1)).unwrap_err();
    }
}
