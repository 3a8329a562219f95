use std::path::PathBuf;

use jsonwebtoken::{EncodingKey, Header, encode};
use rcgen::KeyPair;
use serde_json::json;
use tempfile::TempDir;

use super::super::tokens::hash;
use super::*;
use crate::engine::TenantLimits;

/// An issuer of tokens, with a key.
struct Issuer {
    id: &'static str,
    key: EncodingKey,
    jwk: Value,
}

impl Issuer {
    fn new(id: &'static str) -> Self {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let key = EncodingKey::from_ec_der(&pair.serialize_der());
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap()).unwrap();
        jwk["kid"] = json!(id);
        Issuer { id, key, jwk }
    }

    fn token(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.to_owned()), ..Header::new(Algorithm::ES256) };
        encode(&header, claims, &self.key).unwrap()
    }
}

fn security(directory: &TempDir, keys: &[Value]) -> (PathBuf, Security) {
    let path = directory.path().join("jwks.json");
    std::fs::write(&path, json!({ "keys": keys }).to_string()).unwrap();
    let security = Security {
        jwks: Some(path.clone()),
        jwt_audience: "concord".into(),
        jwt_issuer: "https://id.example".into(),
        jwt_roles_claim: "realm_access.roles".into(),
        ..Security::default()
    };
    (path, security)
}

fn claims() -> Value {
    json!({
        "iss": "https://id.example",
        "aud": ["concord", "billing"],
        "sub": "ann",
        "exp": get_current_timestamp() + 600,
        "realm_access": { "roles": ["operator", "of-another-service", "viewer"] },
    })
}

fn identify(jwt: &Jwt, token: &str) -> Result<Arc<Identity>, String> {
    jwt.identify(token.as_bytes(), hash(token.as_bytes()))
}

#[test]
fn a_token_is_genuine_by_its_key_and_for_us_and_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let (ours, next, other) = (Issuer::new("ours"), Issuer::new("next"), Issuer::new("ours"));
    let encryption = json!({ "kty": "RSA", "use": "enc", "alg": "RSA-OAEP", "n": "AQAB", "e": "AQAB" });
    let (path, security) = security(&directory, &[encryption, next.jwk.clone(), ours.jwk.clone()]);
    let jwt = Jwt::load(&path, &security, &None).unwrap();
    for issuer in [&ours, &next] {
        let ann = identify(&jwt, &issuer.token(&claims())).unwrap();
        assert_eq!((ann.name.as_str(), ann.roles.to_string()), ("ann", "operator, viewer".to_owned()));
    }
    // By another key of the same name, and by none.
    let why = identify(&jwt, &other.token(&claims())).unwrap_err();
    assert_eq!(why, "its signature is not by a key of the JWKS file");
    let none = "eyJhbGciOiJub25lIn0.e30.";
    assert!(identify(&jwt, none).is_err());
    // The public key as if it were a secret.
    let secret = EncodingKey::from_secret(ours.jwk["x"].as_str().unwrap().as_bytes());
    let forged = Header { kid: Some("ours".into()), ..Header::new(Algorithm::HS256) };
    assert!(identify(&jwt, &encode(&forged, &claims(), &secret).unwrap()).is_err());

    let now = get_current_timestamp();
    for (name, value, told) in [
        ("exp", json!(now - 60), "it has expired"),
        ("exp", Value::Null, "it has no claim exp"),
        ("nbf", json!(now + 60), "it is not valid yet"),
        ("aud", json!("billing"), "it is for somebody else (security.jwt_audience)"),
        ("aud", Value::Null, "it has no claim aud"),
        ("iss", json!("https://evil.example"), "somebody else has issued it (security.jwt_issuer)"),
        ("iss", Value::Null, "it has no claim iss"),
        ("sub", Value::Null, "it has no claim sub"),
    ] {
        let mut claims = claims();
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.into(), value),
        };
        assert_eq!(identify(&jwt, &ours.token(&claims)).unwrap_err(), told, "{name}");
    }
}

#[test]
fn what_is_known_to_be_genuine_still_expires() {
    let directory = tempfile::tempdir().unwrap();
    let ours = Issuer::new("ours");
    let (path, security) = security(&directory, std::slice::from_ref(&ours.jwk));
    let jwt = Jwt::load(&path, &security, &None).unwrap();
    let token = ours.token(&claims());
    let ann = identify(&jwt, &token).unwrap();
    assert!(Arc::ptr_eq(&ann, &identify(&jwt, &token).unwrap()), "its signature is checked once");
    let hash = hash(token.as_bytes());
    jwt.known().get_mut(&hash).unwrap().1 = get_current_timestamp();
    assert!(!Arc::ptr_eq(&ann, &identify(&jwt, &token).unwrap()));
    // However many there are, the memory that they take is bounded.
    for number in 0..KNOWN_MAX {
        jwt.known().insert(tokens_hash(number), (Arc::clone(&ann), u64::MAX));
    }
    identify(
        &jwt,
        &ours.token(&json!({ "sub": "bob", "aud": "concord", "iss": "https://id.example",
        "exp": get_current_timestamp() + 60 })),
    )
    .unwrap();
    assert!(jwt.known().len() <= KNOWN_MAX);
}

fn tokens_hash(number: usize) -> Hash {
    hash(&number.to_le_bytes())
}

#[test]
fn roles_and_participants_are_claims() {
    let directory = tempfile::tempdir().unwrap();
    let ours = Issuer::new("ours");
    let (path, mut security) = security(&directory, std::slice::from_ref(&ours.jwk));
    security.jwt_roles_claim = "scope".into();
    let jwt = Jwt::load(&path, &security, &None).unwrap();
    let mut claims = claims();
    assert!(identify(&jwt, &ours.token(&claims)).unwrap().roles.is_empty());
    claims["scope"] = json!("openid participant");
    claims["concord_participants"] = json!(["attached://stock"]);
    let stock = identify(&jwt, &ours.token(&claims)).unwrap();
    assert_eq!(stock.roles.to_string(), "participant");
    assert!(stock.may_name("attached://stock") && !stock.may_name("attached://payment"));
    claims["sub"] = json!("");
    assert!(identify(&jwt, &ours.token(&claims)).unwrap_err().starts_with("sub: "));
    claims["sub"] = json!("stock");
    claims["concord_tenant"] = json!("shop");
    assert_eq!(identify(&jwt, &ours.token(&claims)).unwrap().tenant(), Some("shop"));
    claims["concord_tenant"] = json!("a/b");
    assert!(identify(&jwt, &ours.token(&claims)).unwrap_err().starts_with("concord_tenant: "));
    claims["concord_tenant"] = Value::Null;
    assert!(identify(&jwt, &ours.token(&claims)).unwrap_err().starts_with("concord_tenant: "));
    claims.as_object_mut().unwrap().remove("concord_tenant");
    claims["concord_participants"] = Value::Null;
    assert!(identify(&jwt, &ours.token(&claims)).unwrap_err().starts_with("concord_participants: "));
    claims["concord_participants"] = json!(["no address"]);
    assert!(identify(&jwt, &ours.token(&claims)).unwrap_err().starts_with("concord_participants: "));
}

#[test]
fn a_file_of_keys_that_is_of_no_use_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let secret = json!({ "kty": "oct", "k": "c2VjcmV0", "kid": "shared" });
    let encryption = json!({ "kty": "RSA", "use": "enc", "alg": "RSA-OAEP", "n": "AQAB", "e": "AQAB" });
    let mut private = Issuer::new("private").jwk;
    private["d"] = json!("AQAB");
    let rsa = |bits: usize| {
        let mut modulus = vec![0; 3];
        modulus.push(1 << ((bits - 1) % 8));
        modulus.resize(3 + bits.div_ceil(8), 1);
        json!({ "kty": "RSA", "kid": "short", "alg": "RS256", "n": URL_SAFE_NO_PAD.encode(modulus), "e": "AQAB" })
    };
    for (keys, told) in [
        (vec![encryption.clone()], "has no key for signatures"),
        (vec![secret], "the key shared is a shared secret; only public keys are taken"),
        (vec![Issuer::new("public").jwk, private], "the key private is a private one"),
        (vec![rsa(1024)], "the key short: has 1024 bits"),
        (vec![rsa(2047)], "the key short: has 2047 bits"),
    ] {
        let (path, security) = security(&directory, &keys);
        let why = Jwt::load(&path, &security, &None).err().unwrap().to_string();
        assert!(why.contains(told) && why.starts_with("security.jwks = "), "{why}");
    }
    let (path, security) = security(&directory, &[rsa(2048)]);
    Jwt::load(&path, &security, &None).unwrap();
    std::fs::write(&path, "[").unwrap();
    assert!(Jwt::load(&path, &security, &None).err().unwrap().to_string().contains("is no JWKS file"));
    let gone = directory.path().join("gone");
    assert!(Jwt::load(&gone, &security, &None).err().unwrap().to_string().contains("cannot be read"));
}

#[test]
fn by_an_empty_list_of_keys_no_token_is_genuine() {
    let directory = tempfile::tempdir().unwrap();
    let (path, security) = security(&directory, &[]);
    let nobody = Jwt::load(&path, &security, &None).unwrap();
    assert!(identify(&nobody, &Issuer::new("ours").token(&claims())).is_err());
}

#[test]
fn a_token_is_of_a_tenant_that_there_is_and_of_one_if_it_must() {
    let directory = tempfile::tempdir().unwrap();
    let ours = Issuer::new("ours");
    let (path, mut security) = security(&directory, std::slice::from_ref(&ours.jwk));
    let shop = Some(Arc::new(HashMap::from([("shop".to_owned(), TenantLimits::default())])));
    let jwt = Jwt::load(&path, &security, &shop).unwrap();
    let mut claims = claims();
    assert_eq!(identify(&jwt, &ours.token(&claims)).unwrap().tenant(), None);
    security.jwt_require_tenant = true;
    let jwt = Jwt::load(&path, &security, &shop).unwrap();
    let why = identify(&jwt, &ours.token(&claims)).unwrap_err();
    assert_eq!(why, "it has no claim concord_tenant (security.jwt_require_tenant)");
    claims["concord_tenant"] = json!("shop");
    assert_eq!(identify(&jwt, &ours.token(&claims)).unwrap().tenant(), Some("shop"));
    claims["concord_tenant"] = json!("bank");
    let why = identify(&jwt, &ours.token(&claims)).unwrap_err();
    assert_eq!(why, "concord_tenant: the tenant \"bank\" is not in the file of tenants (security.tenants)");
}
