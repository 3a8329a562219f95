//! From what a caller shows to who it is.

use std::collections::HashMap;
use std::sync::Arc;

use super::jwt::Jwt;
use super::roles::is_about_all;
use super::tokens::{Hash, hash};
use super::{Role, Roles, Tenants, check_tenant};
use crate::config::AllowList;

/// Longest token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// Who somebody is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// For the record.
    pub(crate) name: String,
    pub(super) roles: Roles,
    /// The participants that it may speak for, and have called; `None`: any.
    pub(super) participants: Option<AllowList>,
    /// Whose transactions it begins, and the only ones that it sees; `None`: all.
    pub(super) tenant: Option<String>,
}

impl Identity {
    /// Whether it may attach under this address, join under it, and have it called.
    pub(crate) fn may_name(&self, address: &str) -> bool {
        self.participants.as_ref().is_none_or(|participants| participants.permits(address))
    }

    /// Whether it may begin transactions, and has therefore a say in them that needs no record.
    pub(crate) fn may_initiate(&self) -> bool {
        self.roles.any_of(&[Role::Initiator])
    }

    /// Whether it can be one tenant's, of those that there are.
    pub(super) fn check_tenant(&self, tenants: &Tenants) -> Result<(), String> {
        let Some(tenant) = &self.tenant else { return Ok(()) };
        check_tenant(tenant)?;
        if tenants.as_ref().is_some_and(|tenants| !tenants.contains_key(tenant)) {
            return Err(format!("the tenant {tenant:?} is not in the file of tenants (security.tenants)"));
        }
        match self.roles.any_of(&[Role::Participant]) && self.participants.is_none() {
            true => Err("a tenant's participant needs `participants`: who attaches is sent all calls to that address, \
                         whichever tenant's"
                .to_owned()),
            false => Ok(()),
        }
    }

    /// The tenant that it belongs to.
    pub(crate) fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// Whether it may call what is for `roles` only.
    ///
    /// # Errors
    /// [`Refusal::Role`].
    pub(crate) fn check(&self, roles: &[Role], path: &str) -> Result<(), Refusal> {
        if let Some(tenant) = self.tenant.as_ref().filter(|_| is_about_all(path)) {
            return Err(Refusal::Role(format!("{path} is about all tenants; the token is of {tenant:?}")));
        }
        if self.roles.any_of(roles) {
            return Ok(());
        }
        let needed: Vec<_> = roles.iter().map(|role| role.name()).collect();
        let needed = match needed.as_slice() {
            [] => "is for nobody".to_owned(),
            names => format!("needs the role {}", names.join(" or ")),
        };
        let has = match self.roles.is_empty() {
            true => "no role".to_owned(),
            false => format!("the roles: {}", self.roles),
        };
        Err(Refusal::Role(format!("{path} {needed}; the token is {:?}'s, with {has}", self.name)))
    }
}

/// Why somebody is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// It has shown nothing.
    #[error("no token: send the header `authorization: Bearer TOKEN`")]
    NoToken,
    /// It has shown something of no worth.
    #[error("not a token of this coordinator: {0}")]
    BadToken(String),
    /// It is somebody else's call.
    #[error("{0}")]
    Role(String),
}

/// Whose tokens are in the file of tokens.
pub(crate) type Tokens = HashMap<Hash, Arc<Identity>>;

/// Those who may call.
pub(crate) struct Callers {
    pub(crate) tokens: Option<Arc<Tokens>>,
    pub(crate) jwt: Option<Arc<Jwt>>,
}

impl Callers {
    /// `None`: callers are not asked who they are.
    pub(crate) fn new(tokens: Option<Arc<Tokens>>, jwt: Option<Arc<Jwt>>) -> Option<Self> {
        (tokens.is_some() || jwt.is_some()).then_some(Callers { tokens, jwt })
    }

    /// Who shows this header `authorization`.
    ///
    /// # Errors
    /// Nobody that may call.
    pub(crate) fn identify(&self, authorization: Option<&[u8]>) -> Result<Arc<Identity>, Refusal> {
        let bad = |why: &str| Refusal::BadToken(why.to_owned());
        let shown = authorization.ok_or(Refusal::NoToken)?;
        let (scheme, token) = shown.split_at_checked(7).ok_or_else(|| bad("the header is too short"))?;
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return Err(bad("the header does not begin with Bearer"));
        }
        if token.len() > TOKEN_BYTES_MAX {
            return Err(bad("it is too long"));
        }
        // Compared are hashes: how long that takes tells nothing of the token.
        let hash = hash(token);
        match (self.tokens.as_ref().and_then(|tokens| tokens.get(&hash)), &self.jwt) {
            (Some(identity), _) => Ok(Arc::clone(identity)),
            (None, Some(jwt)) => jwt.identify(token, hash).map_err(Refusal::BadToken),
            (None, None) => Err(bad("it is not in the file of tokens")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Access, access, new_token, tokens};
    use super::*;

    #[test]
    fn callers_are_known_by_their_tokens_and_may_do_what_their_roles_say() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tokens.toml");
        let ann = new_token("ann", &[Role::Operator], None, None).unwrap();
        let eve = new_token("eve", &[Role::Viewer], None, None).unwrap();
        std::fs::write(&file, ann.entry).unwrap();
        let callers = Callers::new(Some(Arc::new(tokens::load(&file, &None).unwrap())), None).unwrap();
        let identify = |header: &str| callers.identify(Some(header.as_bytes()));
        for scheme in ["Bearer", "bearer", "BEARER"] {
            assert_eq!(identify(&format!("{scheme} {}", ann.token)).unwrap().name, "ann");
        }
        assert_eq!(callers.identify(None), Err(Refusal::NoToken));
        for wrong in [
            format!("Bearer {}", eve.token),
            format!("Bearer {} ", ann.token),
            format!("Bearer {}", &ann.token[1..]),
            format!("Basic {}", ann.token),
            ann.token.clone(),
            "Bearer ".to_owned(),
            "Bea".to_owned(),
            format!("Bearer {}", "x".repeat(TOKEN_BYTES_MAX + 1)),
        ] {
            assert!(matches!(identify(&wrong), Err(Refusal::BadToken(_))), "{wrong}");
        }
        let ann = identify(&format!("Bearer {}", ann.token)).unwrap();
        for (path, allowed) in [
            ("/concord.v1.Operator/Resolve", true),
            ("/concord.v1.Operator/GetStatus", true),
            ("/concord.v1.Coordinator/Get", true),
            ("/concord.v1.Coordinator/Execute", false),
            ("/concord.v1.Attachment/Attach", false),
            ("/concord.v1.Operator/Unheard", false),
        ] {
            let Access::To(roles) = access(path) else { panic!("{path}") };
            assert_eq!(ann.check(roles, path).is_ok(), allowed, "{path}");
        }
        let refusal = ann.check(&[Role::Initiator], "Execute").unwrap_err().to_string();
        assert_eq!(
            refusal,
            "Execute needs the role initiator; the token is \"ann\"'s, with the roles: operator"
        );
        // As a JSON web token may be.
        let nobody = Identity { roles: Roles::default(), ..Identity::clone(&ann) };
        let refusal = nobody.check(&[Role::Initiator], "Execute").unwrap_err().to_string();
        assert_eq!(refusal, "Execute needs the role initiator; the token is \"ann\"'s, with no role");
    }

    #[test]
    fn nobody_is_asked_where_nothing_is_configured() {
        assert!(Callers::new(None, None).is_none());
    }
}
