//! Who is let in by a real `concord serve`, and how it and those that it calls know each other.

#![allow(clippy::unwrap_used, reason = "tests")]

mod security {
    pub(crate) mod authority;
    mod cluster;
    mod connections;
    mod files;
    mod messages;
    mod participant;
    pub(crate) mod program;
    mod reload;
    mod tls;
    mod tokens;
}
