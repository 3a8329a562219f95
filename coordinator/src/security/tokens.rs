//! Bearer tokens in a file: not they themselves, but their hashes.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::certificates::Concern;
use super::{FileError, Identity, Role, Tenants, Tokens};
use crate::config::AllowList;

/// The key that names the file.
const KEY: &str = "security.tokens";
/// Random bytes of a new token: nobody guesses them, and so a plain hash hides them.
const TOKEN_BYTES: usize = 32;
/// What a token begins with, so that people and scanners for leaked secrets know what they see.
const PREFIX: &str = "concord_";
/// Longest name of a caller, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// The hash of a token.
pub(super) type Hash = [u8; 32];

pub(super) fn hash(token: &[u8]) -> Hash {
    Sha256::digest(token).into()
}

/// The file, as it is written.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    token: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    sha256: String,
    roles: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    participants: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
}

/// Reads a file of tokens, which are of `tenants` if they are of any.
pub(super) fn load(path: &Path, tenants: &Tenants) -> Result<Tokens, FileError> {
    let wrong = |why: String| FileError::new(KEY, path, why);
    let text = std::fs::read_to_string(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    parse(&text, tenants).map_err(wrong)
}

fn parse(text: &str, tenants: &Tenants) -> Result<Tokens, String> {
    let file: File = toml::from_str(text).map_err(|error| explain(text, &error))?;
    let mut tokens = HashMap::new();
    for entry in file.token {
        let name = entry.name.clone();
        let (hash, identity) = read(entry, tenants).map_err(|why| format!("the token {name:?}: {why}"))?;
        if let Some(other) = tokens.insert(hash, Arc::new(identity)) {
            return Err(format!("{name:?} and {:?} have the same token", other.name));
        }
    }
    Ok(tokens)
}

/// Of a file without a token: it is taken, for it is how all of them are made worth nothing at once; but it may be a mistake.
pub(super) fn concern(path: &Path, tokens: &Tokens) -> Option<Concern> {
    tokens.is_empty().then(|| Concern {
        key: KEY,
        path: path.display().to_string(),
        what: "there is no token in it, so that nobody gets in by one".to_owned(),
        mend: "`concord token new NAME --role ROLE` makes one, with an entry for the file",
    })
}

/// Whose tokens were added, removed or changed, by their names. Empty: nobody's. There may be several of one name, while one takes
/// the place of another.
pub(crate) fn changes(before: &Tokens, now: &Tokens) -> String {
    fn by_name(tokens: &Tokens) -> BTreeMap<&str, BTreeMap<&Hash, &Arc<Identity>>> {
        let mut by_name = BTreeMap::<_, BTreeMap<_, _>>::new();
        for (hash, identity) in tokens {
            by_name.entry(identity.name.as_str()).or_default().insert(hash, identity);
        }
        by_name
    }
    let (before, now) = (by_name(before), by_name(now));
    let added = now.keys().filter(|name| !before.contains_key(**name)).collect::<Vec<_>>();
    let is_another = |(name, tokens): &(&&str, _)| before.get(**name).is_some_and(|before| before != *tokens);
    let changed = now.iter().filter(is_another).map(|(name, _)| name).collect();
    let removed = before.keys().filter(|name| !now.contains_key(**name)).collect();
    let parts = [("added", added), ("changed", changed), ("removed", removed)];
    let parts = parts.into_iter().filter(|(_, names)| !names.is_empty());
    let told = parts.map(|(what, names)| {
        let names: Vec<_> = names.into_iter().map(|name| format!("{name:?}")).collect();
        format!("{what}: {}", names.join(", "))
    });
    told.collect::<Vec<_>>().join("; ")
}

/// Where a file cannot be understood, and why. Of its text nothing is repeated: somebody may have written a token into it.
pub(super) fn explain(text: &str, error: &toml::de::Error) -> String {
    let line = |at: usize| text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
    match error.span() {
        Some(span) => format!("line {}: {}", line(span.start), error.message()),
        None => error.message().to_owned(),
    }
}

fn read(entry: Entry, tenants: &Tenants) -> Result<(Hash, Identity), String> {
    let Entry { name, sha256, roles, participants, tenant } = entry;
    check_name(&name)?;
    let mut hash = Hash::default();
    hex::decode_to_slice(&sha256, &mut hash)
        .map_err(|_| "sha256 must be 64 hexadecimal digits: `concord token new` prints them")?;
    let role = |name: &String| Role::of_name(name).ok_or_else(|| no_role(name));
    let roles = roles.iter().map(role).collect::<Result<super::Roles, _>>()?;
    if roles.is_empty() {
        return Err("it has no role".to_owned());
    }
    let participants = participants.map(|patterns| AllowList::parse(&patterns));
    let participants = participants.transpose().map_err(|error| format!("participants: {error}"))?;
    let identity = Identity { name, roles, participants, tenant };
    identity.check_tenant(tenants)?;
    Ok((hash, identity))
}

pub(super) fn check_name(name: &str) -> Result<(), String> {
    match name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        true => Err(format!("a name has from 1 to {NAME_BYTES_MAX} bytes, and no control characters")),
        false => Ok(()),
    }
}

fn no_role(name: &str) -> String {
    let known: Vec<_> = Role::ALL.into_iter().map(Role::name).collect();
    format!("{name:?} is no role; roles are {}", known.join(", "))
}

/// A token that nobody has yet.
pub struct NewToken {
    /// The token itself, for whoever is to call. It is kept nowhere else.
    pub token: String,
    /// Its entry in the file of tokens.
    pub entry: String,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TokenError(String);

/// The roles whose owners have to do with participants: who only looks on or gives orders names none.
const NAMING: [Role; 2] = [Role::Initiator, Role::Participant];

/// Makes a token. `participants`: those that its owner may speak for, and have called; none given, any that the coordinator may
/// call; of account to initiators and participants only. `tenant`: whose transactions are all that its owner has to do with; none given, all are.
///
/// # Errors
/// The entry would not be taken, or would promise what its roles do not heed.
pub fn new_token(
    name: &str,
    roles: &[Role],
    participants: Option<Vec<String>>,
    tenant: Option<String>,
) -> Result<NewToken, TokenError> {
    if participants.is_some() && !roles.iter().any(|role| NAMING.contains(role)) {
        let for_whom = NAMING.map(Role::name).join(" and ");
        let why =
            format!("participants are for the roles {for_whom}; a token of another role is not bound to any");
        return Err(TokenError(why));
    }
    let token = format!("{PREFIX}{}", hex::encode(rand::random::<[u8; TOKEN_BYTES]>()));
    let roles = roles.iter().map(|role| role.name().to_owned()).collect();
    let sha256 = hex::encode(hash(token.as_bytes()));
    let entry = Entry { name: name.to_owned(), sha256, roles, participants, tenant };
    let entry =
        toml::to_string(&File { token: vec![entry] }).map_err(|error| TokenError(error.to_string()))?;
    parse(&entry, &None).map_err(TokenError)?;
    Ok(NewToken { token, entry })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::TenantLimits;

    #[test]
    fn a_new_token_is_known_by_its_entry() {
        let orders = new_token("orders", &[Role::Initiator], None, Some("shop".into())).unwrap();
        let stock =
            new_token("stock", &[Role::Participant], Some(vec!["attached://stock".into()]), None).unwrap();
        let known = parse(&format!("{}\n{}", orders.entry, stock.entry), &None).unwrap();
        assert!(!format!("{}{}", orders.entry, stock.entry).contains(&orders.token));
        let orders = &known[&hash(orders.token.as_bytes())];
        assert_eq!((orders.name.as_str(), orders.roles.to_string()), ("orders", "initiator".to_owned()));
        assert_eq!(orders.tenant(), Some("shop"));
        assert!(orders.may_name("attached://anything"));
        let stock = &known[&hash(stock.token.as_bytes())];
        assert!(stock.may_name("attached://stock") && !stock.may_name("attached://payment"));
    }

    #[test]
    fn what_has_changed_is_told_by_names() {
        let entry = |name: &str, hash: &str, role: &str| {
            let hash = hash.repeat(32);
            format!("[[token]]\nname = {name:?}\nsha256 = \"{hash}\"\nroles = [{role:?}]\n")
        };
        let file = |entries: &[String]| parse(&entries.concat(), &None).unwrap();
        let same = entry("same", "01", "viewer");
        let (ann, bob) = (entry("ann", "02", "viewer"), entry("bob", "03", "viewer"));
        let before = file(&[same.clone(), ann.clone(), bob.clone(), entry("eve", "04", "viewer")]);
        let (other_token, other_role) = (entry("ann", "05", "viewer"), entry("bob", "03", "operator"));
        let now = file(&[other_role, other_token, entry("joe", "06", "viewer"), same.clone()]);
        let told = "added: \"joe\"; changed: \"ann\", \"bob\"; removed: \"eve\"";
        assert_eq!(changes(&before, &now), told);
        assert_eq!(changes(&before, &before.clone()), "");
        // A second token, before the first one goes.
        let both = file(&[same.clone(), ann.clone(), entry("ann", "05", "viewer")]);
        assert_eq!(changes(&file(&[same, ann]), &both), "changed: \"ann\"");
    }

    #[test]
    fn participants_are_for_those_who_have_to_do_with_them() {
        let stock = || Some(vec!["attached://stock".to_owned()]);
        for role in [Role::Viewer, Role::Operator] {
            let why = new_token("ann", &[role], stock(), None).err().unwrap().to_string();
            assert!(why.contains("for the roles initiator and participant"), "{why}");
            new_token("ann", &[role], None, None).unwrap();
            new_token("ann", &[role, Role::Initiator], stock(), None).unwrap();
        }
    }

    #[test]
    fn a_token_is_of_a_tenant_that_there_is() {
        let entry = new_token("orders", &[Role::Initiator], None, Some("shop".into())).unwrap().entry;
        let tenants =
            |name: &str| Some(Arc::new(HashMap::from([(name.to_owned(), TenantLimits::default())])));
        assert_eq!(parse(&entry, &tenants("shop")).unwrap().len(), 1);
        let why = parse(&entry, &tenants("bank")).unwrap_err();
        assert_eq!(
            why,
            "the token \"orders\": the tenant \"shop\" is not in the file of tenants (security.tenants)"
        );
    }

    #[test]
    fn a_file_that_is_not_understood_is_refused_and_not_repeated() {
        let hash = "ab".repeat(32);
        let entry = |name: &str, sha256: &str, roles: &str| {
            format!("[[token]]\nname = {name:?}\nsha256 = {sha256:?}\nroles = {roles}\n")
        };
        let fine = entry("a", &hash, "[\"viewer\"]");
        assert_eq!(parse(&fine, &None).unwrap().len(), 1);
        assert_eq!(parse("", &None).unwrap().len(), 0);
        for (text, told) in [
            (entry("", &hash, "[\"viewer\"]"), "a name has from 1 to 128 bytes"),
            (entry("a", "s3cret", "[\"viewer\"]"), "64 hexadecimal digits"),
            (entry("a", &"+1".repeat(32), "[\"viewer\"]"), "64 hexadecimal digits"),
            (entry("a", &hash, "[]"), "it has no role"),
            (entry("a", &hash, "[\"admin\"]"), "roles are initiator, participant, operator, viewer"),
            (format!("{fine}{}", entry("b", &hash, "[\"viewer\"]")), "\"b\" and \"a\" have the same token"),
            (format!("{fine}token = \"s3cret\"\n"), "line 5: unknown field"),
            (format!("{fine}participants = [\"ftp://a\"]\n"), "participants: "),
            (format!("{fine}tenant = \"a/b\"\n"), "the tenant \"a/b\": must be"),
            (
                format!("{}tenant = \"a\"\n", entry("a", &hash, "[\"participant\"]")),
                "a tenant's participant needs `participants`",
            ),
            ("[[token]\ns3cret".to_owned(), "line 1: "),
        ] {
            let why = parse(&text, &None).unwrap_err();
            assert!(why.contains(told) && !why.contains("s3cret"), "{why}");
        }
        assert!(
            load(Path::new("/nowhere/tokens"), &None).unwrap_err().to_string().contains("security.tokens")
        );
    }
}
