//! What must be refused at the door, with a precise status and a stable reason, and nothing begun.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod bad_input {
    mod branches;
    mod limits;
    mod meta;
    mod states;
    mod support;
}
