//! What callers may do.

use std::fmt;

/// What somebody is to the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Begins transactions, and ends them.
    Initiator,
    /// Takes part: attaches, joins, votes, asks for outcomes.
    Participant,
    /// Sees everything, and gives orders about what is stuck.
    Operator,
    /// Sees everything.
    Viewer,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 4] = [Role::Initiator, Role::Participant, Role::Operator, Role::Viewer];

    /// As it stands in files and claims.
    pub fn name(self) -> &'static str {
        match self {
            Role::Initiator => "initiator",
            Role::Participant => "participant",
            Role::Operator => "operator",
            Role::Viewer => "viewer",
        }
    }

    /// The role of this name.
    pub fn of_name(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// Some of the roles.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    /// Whether one of `roles` is among them.
    pub fn any_of(self, roles: &[Role]) -> bool {
        roles.iter().any(|role| self.0 & (1 << *role as u8) != 0)
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self == Roles::default()
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Roles(roles.into_iter().fold(0, |bits, role| bits | 1 << role as u8))
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> =
            Role::ALL.into_iter().filter(|role| self.any_of(&[*role])).map(Role::name).collect();
        f.write_str(&names.join(", "))
    }
}

/// Who may call a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Anybody.
    Open,
    /// Who has one of these roles.
    To(&'static [Role]),
}

/// Who may call the gRPC method, or get the page, of this path. What is not known is for nobody.
pub(crate) fn access(path: &str) -> Access {
    use Role::{Initiator, Operator, Participant, Viewer};
    const ALL: &[Role] = &Role::ALL;
    let roles = match path {
        "/concord.v1.Coordinator/Begin"
        | "/concord.v1.Coordinator/Execute"
        | "/concord.v1.Coordinator/Commit" => &[Initiator][..],
        // Of what its initiator has forgotten.
        "/concord.v1.Coordinator/Rollback" => &[Initiator, Operator],
        // An initiator may have a database of its own, and take part with it.
        "/concord.v1.Coordinator/RegisterBranch" | "/concord.v1.Coordinator/ReportVote" => {
            &[Participant, Initiator]
        }
        // About a transaction whose name one knows.
        "/concord.v1.Coordinator/Get"
        | "/concord.v1.Coordinator/Watch"
        | "/concord.v1.Coordinator/Inquire" => ALL,
        "/concord.v1.Attachment/Attach" => &[Participant],
        "/concord.v1.Coordinator/List"
        | "/concord.v1.Operator/ListInDoubt"
        | "/concord.v1.Operator/ListResources"
        | "/concord.v1.Operator/ListParticipants"
        | "/concord.v1.Operator/GetStatus"
        | "/metrics" => &[Viewer, Operator],
        "/concord.v1.Operator/Retry"
        | "/concord.v1.Operator/Park"
        | "/concord.v1.Operator/Resolve"
        | "/concord.v1.Operator/Drain" => &[Operator],
        // What they tell is no secret: whether it runs, and what the API looks like.
        path if path.starts_with("/grpc.health.v1.Health/")
            || path.starts_with("/grpc.reflection.v1.ServerReflection/") =>
        {
            return Access::Open;
        }
        _ => &[],
    };
    Access::To(roles)
}

/// Whether what is at this path shows, or ends, more than one tenant's transactions.
pub(super) fn is_about_all(path: &str) -> bool {
    matches!(
        path,
        "/concord.v1.Operator/ListInDoubt"
            | "/concord.v1.Operator/ListResources"
            | "/concord.v1.Operator/ListParticipants"
            | "/concord.v1.Operator/GetStatus"
            | "/concord.v1.Operator/Drain"
            | "/metrics"
    )
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;

    #[test]
    fn every_method_of_the_api_is_for_somebody() {
        let pool = DescriptorPool::decode(concord_proto::FILE_DESCRIPTOR_SET).unwrap();
        let services: Vec<_> = pool.services().filter(|service| service.name() != "Participant").collect();
        assert_eq!(services.len(), 3);
        for method in services.iter().flat_map(|service| service.methods()) {
            let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
            match access(&path) {
                Access::To(roles) => assert!(!roles.is_empty(), "{path}"),
                Access::Open => panic!("{path} is for anybody"),
            }
        }
        assert_eq!(access("/concord.v1.Operator/Unheard"), Access::To(&[]));
    }

    #[test]
    fn roles_have_names() {
        let two: Roles = [Role::Viewer, Role::Initiator].into_iter().collect();
        assert_eq!(two.to_string(), "initiator, viewer");
        assert!(two.any_of(&[Role::Operator, Role::Viewer]) && !two.any_of(&[Role::Operator]));
        for role in Role::ALL {
            assert_eq!(Role::of_name(role.name()), Some(role));
        }
        assert_eq!(Role::of_name("admin"), None);
    }
}
