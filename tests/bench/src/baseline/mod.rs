//! What Concord is measured against: the same work without it.

pub(crate) mod append_log;
pub(crate) mod echo;
