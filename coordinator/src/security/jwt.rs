//! JSON web tokens (RFC 7519), genuine by the keys of a JWKS file (RFC 7517).

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, get_current_timestamp};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::tokens::{Hash, check_name};
use super::{FileError, Identity, Role, Roles};
use crate::config::{AllowList, Security};

/// The key that names the file.
const KEY: &str = "security.jwks";
/// Tokens that are remembered as genuine, so that not every call costs the check of a signature.
const KNOWN_MAX: usize = 4096;
/// By how much the issuer's clock may differ from ours.
const LEEWAY_SECONDS: u64 = 5;

pub(super) struct Jwt {
    keys: Vec<Key>,
    /// Where in the claims the roles are.
    roles_claim: Vec<String>,
    /// Identities by the hash of their tokens, with when each expires, in seconds since 1970.
    known: Mutex<HashMap<Hash, (Arc<Identity>, u64)>>,
}

struct Key {
    id: Option<String>,
    key: DecodingKey,
    validation: Validation,
}

/// What is left out here, and must not be, the check says.
#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: String,
    /// Seconds since 1970, or a fraction more.
    #[serde(default)]
    exp: f64,
    #[serde(flatten)]
    others: HashMap<String, Value>,
}

impl Jwt {
    pub(super) fn load(path: &Path, security: &Security) -> Result<Self, FileError> {
        let wrong = |why: String| FileError::new(KEY, path, why);
        let text =
            std::fs::read_to_string(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
        let set: JwkSet =
            serde_json::from_str(&text).map_err(|error| wrong(format!("is no JWKS file: {error}")))?;
        // There may be others beside them.
        let for_signatures =
            set.keys.iter().filter(|jwk| jwk.common.public_key_use != Some(PublicKeyUse::Encryption));
        let keys = for_signatures.map(|jwk| key(jwk, security)).collect::<Result<Vec<_>, _>>();
        let keys = keys.map_err(wrong)?;
        if keys.is_empty() {
            return Err(wrong("has no key for signatures".to_owned()));
        }
        let roles_claim = security.jwt_roles_claim.split('.').map(str::to_owned).collect();
        Ok(Jwt { keys, roles_claim, known: Mutex::default() })
    }

    /// Whose token it is. `hash` is the token's.
    pub(super) fn identify(&self, token: &[u8], hash: Hash) -> Result<Arc<Identity>, String> {
        let now = get_current_timestamp();
        if let Some((identity, expires)) = self.known().get(&hash)
            && now < *expires
        {
            return Ok(Arc::clone(identity));
        }
        let claims = self.claims(token)?;
        let expires = claims.exp as u64;
        let identity = Arc::new(self.identity(claims)?);
        let mut known = self.known();
        if known.len() >= KNOWN_MAX {
            known.retain(|_, (_, expires)| now < *expires);
        }
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(hash, (Arc::clone(&identity), expires));
        Ok(identity)
    }

    fn claims(&self, token: &[u8]) -> Result<Claims, String> {
        let header = decode_header(token).map_err(|error| explain(error.kind()))?;
        let mut why = "no key of the JWKS file has its key id".to_owned();
        let may_be = |key: &&Key| header.kid.is_none() || key.id.is_none() || header.kid == key.id;
        for key in self.keys.iter().filter(may_be) {
            match decode(token, &key.key, &key.validation) {
                Ok(token) => return Ok(token.claims),
                Err(error) => why = explain(error.kind()),
            }
        }
        Err(why)
    }

    fn identity(&self, claims: Claims) -> Result<Identity, String> {
        let Claims { sub, exp: _, others } = claims;
        check_name(&sub).map_err(|error| format!("sub: {error}"))?;
        let (first, deeper) = self.roles_claim.split_first().ok_or("there is no claim for roles")?;
        let listed = deeper.iter().try_fold(others.get(first), |at, name| at.map(|value| value.get(name)));
        let listed: Vec<&str> = match listed.flatten() {
            Some(Value::Array(roles)) => roles.iter().filter_map(Value::as_str).collect(),
            // As `scope` does it.
            Some(Value::String(roles)) => roles.split(' ').collect(),
            _ => Vec::new(),
        };
        // There may be roles for other services beside ours.
        let roles: Roles = listed.into_iter().filter_map(Role::of_name).collect();
        // The participants that its owner may speak for, and have called.
        let participants: Option<Vec<String>> = claim(&others, "concord_participants")?;
        let participants = participants.map(|patterns| AllowList::parse(&patterns)).transpose();
        let participants = participants.map_err(|error| format!("concord_participants: {error}"))?;
        let identity = Identity { name: sub, roles, participants, tenant: claim(&others, "concord_tenant")? };
        identity.check_tenant().map_err(|error| format!("concord_tenant: {error}"))?;
        Ok(identity)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Hash, (Arc<Identity>, u64)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A claim that limits. One that is there and says nothing, `null` for one, does not mean that there is no limit.
fn claim<T: DeserializeOwned>(claims: &HashMap<String, Value>, name: &str) -> Result<Option<T>, String> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    match T::deserialize(value) {
        Ok(claim) => Ok(Some(claim)),
        Err(_) => Err(format!("{name}: is of another type than it should be")),
    }
}

/// A key, with what is taken as signed by it.
fn key(jwk: &Jwk, security: &Security) -> Result<Key, String> {
    let id = jwk.common.key_id.clone();
    let name = id.as_deref().unwrap_or("without an id");
    // Who can check such a signature can make one: a file of them is a file of secrets.
    if matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_)) {
        return Err(format!("the key {name} is a shared secret; only public keys are taken"));
    }
    let key = DecodingKey::from_jwk(jwk).map_err(|error| format!("the key {name}: {error}"))?;
    let mut validation = Validation::new_for_family(key.family());
    if let Some(algorithm) = jwk.common.key_algorithm {
        let one = Algorithm::try_from(algorithm);
        validation.algorithms =
            vec![one.map_err(|_| format!("the key {name} is for {algorithm}, which is unknown"))?];
    }
    validation.validate_nbf = true;
    validation.leeway = LEEWAY_SECONDS;
    let mut required = vec!["exp", "sub", "aud"];
    validation.set_audience(&[&security.jwt_audience]);
    if !security.jwt_issuer.is_empty() {
        validation.set_issuer(&[&security.jwt_issuer]);
        required.push("iss");
    }
    validation.set_required_spec_claims(&required);
    Ok(Key { id, key, validation })
}

fn explain(kind: &ErrorKind) -> String {
    match kind {
        ErrorKind::ExpiredSignature => "it has expired".to_owned(),
        ErrorKind::ImmatureSignature => "it is not valid yet".to_owned(),
        ErrorKind::InvalidAudience => "it is for somebody else (security.jwt_audience)".to_owned(),
        ErrorKind::InvalidIssuer => "somebody else has issued it (security.jwt_issuer)".to_owned(),
        ErrorKind::InvalidSignature => "its signature is not by a key of the JWKS file".to_owned(),
        ErrorKind::MissingRequiredClaim(claim) => format!("it has no claim {claim}"),
        ErrorKind::InvalidAlgorithm => "it is signed by another algorithm than the key's".to_owned(),
        ErrorKind::Json(_) => "a claim of it is of another type than it should be".to_owned(),
        // Others tell what stands in it.
        _ => "it is neither in the file of tokens nor a JSON web token".to_owned(),
    }
}

#[cfg(test)]
mod tests;
