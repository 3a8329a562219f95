//! JSON web tokens (RFC 7519), genuine by the keys of a JWKS file (RFC 7517).

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, get_current_timestamp};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::tokens::{Hash, check_name};
use super::{FileError, Identity, Role, Roles, Tenants};
use crate::config::{AllowList, Security};

/// The key that names the file.
const KEY: &str = "security.jwks";
/// Tokens that are remembered as genuine, so that not every call costs the check of a signature.
const KNOWN_MAX: usize = 4096;
/// By how much the issuer's clock may differ from ours.
const LEEWAY_SECONDS: u64 = 5;
/// The shortest RSA key that is taken, in bits (NIST SP 800-131A).
const RSA_BITS_MIN: usize = 2048;

pub(crate) struct Jwt {
    keys: Vec<Key>,
    /// Where in the claims the roles are.
    roles_claim: Vec<String>,
    tenant_required: bool,
    /// Those that a token may be of.
    tenants: Tenants,
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
    /// A file with an empty list of keys is one by which no token is genuine.
    pub(super) fn load(path: &Path, security: &Security, tenants: &Tenants) -> Result<Self, FileError> {
        let wrong = |why: String| FileError::new(KEY, path, why);
        let text =
            std::fs::read_to_string(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
        let no_jwks = |error: serde_json::Error| wrong(format!("is no JWKS file: {error}"));
        let document: Value = serde_json::from_str(&text).map_err(no_jwks)?;
        check_public(&document).map_err(wrong)?;
        let set = JwkSet::deserialize(document).map_err(no_jwks)?;
        // There may be others beside them.
        let for_signatures =
            set.keys.iter().filter(|jwk| jwk.common.public_key_use != Some(PublicKeyUse::Encryption));
        let keys = for_signatures.map(|jwk| key(jwk, security)).collect::<Result<Vec<_>, _>>();
        let keys = keys.map_err(wrong)?;
        if keys.is_empty() && !set.keys.is_empty() {
            return Err(wrong(
                "has no key for signatures; to take no token, let it be {\"keys\":[]}".to_owned(),
            ));
        }
        Ok(Jwt {
            keys,
            roles_claim: security.jwt_roles_claim.split('.').map(str::to_owned).collect(),
            tenant_required: security.jwt_require_tenant,
            tenants: tenants.clone(),
            known: Mutex::default(),
        })
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
        let tenant: Option<String> = claim(&others, "concord_tenant")?;
        if tenant.is_none() && self.tenant_required {
            return Err("it has no claim concord_tenant (security.jwt_require_tenant)".to_owned());
        }
        let identity = Identity { name: sub, roles, participants, tenant };
        identity.check_tenant(&self.tenants).map_err(|error| format!("concord_tenant: {error}"))?;
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

/// Whether no key of the document is a private one: by it, whoever reads the file could make tokens.
fn check_public(document: &Value) -> Result<(), String> {
    let keys = document.get("keys").and_then(Value::as_array).into_iter().flatten();
    match keys.filter(|key| key.get("d").is_some()).find_map(|key| key.as_object()) {
        None => Ok(()),
        Some(key) => {
            let id = key.get("kid").and_then(Value::as_str).unwrap_or("without an id");
            Err(format!(
                "the key {id} is a private one (it has a member \"d\"): whoever reads the file can make tokens. Put in its \
                 public part only, and no longer use the key if others may have read it"
            ))
        }
    }
}

/// Whether an RSA key is long enough that nobody finds its private part.
fn check_length(modulus: &str) -> Result<(), String> {
    let bytes = URL_SAFE_NO_PAD.decode(modulus).map_err(|error| error.to_string())?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let first = bytes.get(zeros).map_or(0, |byte| byte.leading_zeros() as usize);
    let bits = (bytes.len() - zeros) * 8 - first;
    match bits < RSA_BITS_MIN {
        true => Err(format!("has {bits} bits; RSA keys of less than {RSA_BITS_MIN} can be broken")),
        false => Ok(()),
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
    if let AlgorithmParameters::RSA(parameters) = &jwk.algorithm {
        check_length(&parameters.n).map_err(|why| format!("the key {name}: {why}"))?;
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
