//! JSON web tokens, of the kinds that the API gives out: signed with a key that both sides of the check know (HMAC).
//!
//! Pure, and by hand, because of everything that such a token may be only this little is wanted: no other algorithm can
//! be asked for by whoever writes the token, and the time comes from the caller.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use crate::types::Timestamp;

/// Most bytes of a token that is looked at; ours have less than 400.
pub(super) const TOKEN_BYTES_MAX: usize = 4096;

/// `{"alg":"HS256","typ":"JWT"}`, as every token of ours begins, and of the reference's.
const HEADER: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";

/// How a token is signed. `none` and signatures with key pairs are not among it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Hs256,
    Hs384,
    Hs512,
}

impl Algorithm {
    fn named(name: &str) -> Option<Self> {
        match name {
            "HS256" => Some(Self::Hs256),
            "HS384" => Some(Self::Hs384),
            "HS512" => Some(Self::Hs512),
            _ => None,
        }
    }
}

/// What a token says. In this order it is written, and what is not there is not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Claims {
    /// Whom it is for: the name of a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) iss: Option<String>,
    /// When it was made, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) iat: Option<Seconds>,
    /// From when on it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) nbf: Option<Seconds>,
    /// From when on it counts no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) exp: Option<Seconds>,
    /// Its own name, by which it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) jti: Option<String>,
    /// How often all tokens of the user had been revoked when it was made.
    #[serde(default, rename = "gen", skip_serializing_if = "Option::is_none")]
    pub(super) generation: Option<u64>,
}

/// A time in a token: any JSON number, of which whole seconds count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seconds(pub(super) i64);

impl Serialize for Seconds {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(self.0)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The cast saturates, and JSON has no numbers that are none.
        f64::deserialize(deserializer).map(|seconds| Self(seconds.floor() as i64))
    }
}

impl Claims {
    /// Whether it counts at this time, as far as it speaks of time at all.
    pub(super) fn are_valid_at(&self, now: Timestamp) -> bool {
        let now = Seconds(now.unix_seconds());
        self.exp.is_none_or(|end| now < end)
            && self.nbf.is_none_or(|start| start <= now)
            && self.iat.is_none_or(|made| made <= now)
    }
}

/// A token that can be read, and whose signature was not looked at: nothing in it may be believed.
#[derive(Debug)]
pub(super) struct Unverified<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) claims: Claims,
    signed: &'a [u8],
    signature: Vec<u8>,
}

impl<'a> Unverified<'a> {
    /// Reads a token; none for what is no token, and for one that is signed in another way.
    pub(super) fn parse(token: &'a [u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Header {
            alg: String,
        }
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let mut parts = token.split(|byte| *byte == b'.');
        let (header, claims, signature) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let signed = &token[..header.len() + 1 + claims.len()];
        let header: Header = serde_json::from_slice(&BASE64.decode(header).ok()?).ok()?;
        Some(Self {
            algorithm: Algorithm::named(&header.alg)?,
            claims: serde_json::from_slice(&BASE64.decode(claims).ok()?).ok()?,
            signed,
            signature: BASE64.decode(signature).ok()?,
        })
    }

    /// Whether it was signed with this key. Takes the same time for every signature of the right length.
    pub(super) fn is_signed_with(&self, key: &[u8]) -> bool {
        macro_rules! verify {
            ($hash:ty) => {
                // A key may have any length.
                Hmac::<$hash>::new_from_slice(key).is_ok_and(|mut mac| {
                    mac.update(self.signed);
                    mac.verify_slice(&self.signature).is_ok()
                })
            };
        }
        match self.algorithm {
            Algorithm::Hs256 => verify!(Sha256),
            Algorithm::Hs384 => verify!(Sha384),
            Algorithm::Hs512 => verify!(Sha512),
        }
    }
}

/// Writes a token, signed with HS256.
pub(super) fn sign(claims: &Claims, key: &[u8]) -> String {
    // Texts and numbers can always be written.
    let claims = serde_json::to_vec(claims).unwrap_or_default();
    let mut token = format!("{HEADER}.{}", BASE64.encode(claims));
    let signature = hmac_sha256(key, &[token.as_bytes()]);
    token.push('.');
    BASE64.encode_string(signature, &mut token);
    token
}

/// 32 bytes of the system's randomness.
pub(super) fn random() -> [u8; 32] {
    // That is what the seed of a signing key is.
    let seed = libp2p_identity::ed25519::SecretKey::generate();
    let mut bytes = [0; 32];
    bytes.copy_from_slice(seed.as_ref());
    bytes
}

/// HMAC-SHA256 over some parts, each with its length, so that no two lists of parts look alike; a single part stands
/// alone.
pub(super) fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // What HMAC makes of a key, so that there is no length that could be wrong.
    let mut block = [0; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let mut mac = Hmac::<Sha256>::new(&block.into());
    for part in parts {
        if parts.len() > 1 {
            mac.update(&(part.len() as u64).to_be_bytes());
        }
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The reference's, for `testuser` with the password `testpass`.
    const RECORDED: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJ0ZXN0dXNlciJ9.tXRs6ozKKJ6ntzR0iHHeR62wrG5TR8OBrbvRQZ-zwtQ";
    const NOW: i64 = 1_000_000;

    fn encoded(header: &str, claims: &str) -> String {
        format!("{}.{}", BASE64.encode(header), BASE64.encode(claims))
    }

    fn claims(json: &str) -> Option<Claims> {
        let token = encoded(r#"{"alg":"HS256"}"#, json) + ".AA";
        Unverified::parse(token.as_bytes()).map(|token| token.claims)
    }

    #[test]
    fn a_token_is_written_as_the_reference_writes_it() {
        let claims = Claims { iss: Some("testuser".to_owned()), ..Claims::default() };
        assert_eq!(sign(&claims, b"testpass"), RECORDED);
        let read = Unverified::parse(RECORDED.as_bytes()).unwrap();
        assert_eq!((read.algorithm, &read.claims), (Algorithm::Hs256, &claims));
        assert!(read.is_signed_with(b"testpass") && !read.is_signed_with(b"testpasS"));
    }

    #[test]
    fn only_shared_keys_sign_and_what_is_no_token_is_none() {
        for name in ["none", "None", "NONE", "RS256", "ES256", "PS256", "EdDSA", "HS1", "hs256", ""] {
            let token = encoded(&format!(r#"{{"alg":"{name}"}}"#), r#"{"iss":"u"}"#);
            for signature in [".", ".AA", ""] {
                assert!(Unverified::parse((token.clone() + signature).as_bytes()).is_none(), "{name}");
            }
        }
        let good = encoded(r#"{"alg":"HS256"}"#, r#"{"iss":"u"}"#);
        let long = good.clone() + "." + &"A".repeat(TOKEN_BYTES_MAX);
        for token in [
            "",
            ".",
            "..",
            "...",
            "abc",
            &good,
            &(good.clone() + ".AA.AA"),
            &(good.clone() + ".!!"),
            &(good.clone() + ".AA=="),
            &long,
            &(encoded("[]", "{}") + ".AA"),
            &(encoded("{}", "{}") + ".AA"),
            &(encoded(r#"{"alg":1}"#, "{}") + ".AA"),
            &(encoded(r#"{"alg":["HS256"]}"#, "{}") + ".AA"),
            &(encoded(r#"{"alg":"HS256","alg":"HS512"}"#, "{}") + ".AA"),
        ] {
            assert!(Unverified::parse(token.as_bytes()).is_none(), "{token}");
        }
        assert!(!Unverified::parse((good + ".").as_bytes()).unwrap().is_signed_with(b""));
    }

    #[test]
    fn claims_of_a_wrong_kind_are_none_and_times_are_honoured() {
        for json in ["1", "null", r#"{"iss":1}"#, r#"{"exp":"soon"}"#, r#"{"iss":"a","iss":"b"}"#, "{} {}"] {
            assert!(claims(json).is_none(), "{json}");
        }
        let now = Timestamp::from_unix_seconds(NOW);
        for (json, valid) in [
            ("{}", true),
            (r#"{"exp":null,"other":[1]}"#, true),
            (r#"{"exp":1000001}"#, true),
            (r#"{"exp":1000000}"#, false),
            (r#"{"exp":1000000.9}"#, false),
            (r#"{"exp":1e300}"#, true),
            (r#"{"exp":-1e300}"#, false),
            (r#"{"nbf":1000000,"iat":1000000}"#, true),
            (r#"{"nbf":1000001}"#, false),
            (r#"{"iat":1000001}"#, false),
        ] {
            assert_eq!(claims(json).unwrap().are_valid_at(now), valid, "{json}");
        }
    }

    proptest! {
        #[test]
        fn a_token_that_was_changed_anywhere_is_not_signed(at in 0..RECORDED.len(), by in 1u8..) {
            let mut token = RECORDED.as_bytes().to_vec();
            token[at] ^= by;
            let read = Unverified::parse(&token);
            prop_assert!(read.is_none_or(|token| !token.is_signed_with(b"testpass")));
        }

        #[test]
        fn any_bytes_can_be_looked_at(token: Vec<u8>, header: String, json: String) {
            let _ = Unverified::parse(&token);
            let token = encoded(&header, &json) + ".AA";
            prop_assert!(Unverified::parse(token.as_bytes()).is_none_or(|token| !token.is_signed_with(b"x")));
        }

        #[test]
        fn what_was_signed_reads_back(iss: String, exp in 0..1_i64 << 50, generation in 0..1_u64 << 53) {
            let exp = Some(Seconds(exp));
            let claims = Claims { iss: Some(iss), exp, generation: Some(generation), ..Claims::default() };
            let token = sign(&claims, b"key");
            let read = Unverified::parse(token.as_bytes());
            prop_assert!(token.len() > TOKEN_BYTES_MAX || read.is_some_and(|read| read.is_signed_with(b"key")
                && read.claims == claims));
        }
    }
}
