//! A private unpack of the distribution's packages: apt with its own state, no root, no change to the system.

mod sources;
mod unpack;

pub(crate) use unpack::fetch;
