//! What Concord is measured against: the same work without it.

pub(crate) mod append_log;
pub(crate) mod bare_local;
pub(crate) mod bare_orders;
pub(crate) mod bare_xa;
pub(crate) mod echo;
