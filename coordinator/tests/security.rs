//! Who is let in by a real `concord serve`, and how it and those that it calls know each other.

#![allow(clippy::unwrap_used, reason = "tests")]

mod security {
    pub(crate) mod authority;
    mod connections;
    mod files;
    mod messages;
    pub(crate) mod program;
    mod reload;
    mod tls;
    mod tokens;
}
