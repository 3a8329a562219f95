//! Seeded bugs: protocol bugs on purpose, to show that the tests would see them.
//!
//! ```text
//!   if seeded_bug!("nota-is-success") { return committed; }      one line of code, one name
//! ```
//!
//! Without the feature `enabled` the macro is `false`, and what it guards is removed by the compiler. With it, the
//! one that the environment variable [`SWITCH`] names is on.
//!
//! All of them are in one table, [`BUGS`]; a name that is not there does not compile. The program `mutants` runs the
//! layers of tests against each.

mod bugs;

pub use bugs::{BUGS, Bug, Home, is_known};

/// The environment variable that names the bug that is on.
pub const SWITCH: &str = "CONCORD_SEEDED_BUG";

/// Whether a bug is on: never, in a build without the feature `enabled`.
#[cfg(feature = "enabled")]
#[macro_export]
macro_rules! seeded_bug {
    ($name:literal) => {{
        const _: () = assert!($crate::is_known($name), "this bug is not in the table");
        $crate::is_on($name)
    }};
}

/// Whether a bug is on: never, in a build without the feature `enabled`.
#[cfg(not(feature = "enabled"))]
#[macro_export]
macro_rules! seeded_bug {
    ($name:literal) => {{
        const _: () = assert!($crate::is_known($name), "this bug is not in the table");
        false
    }};
}

/// Whether the environment has switched this bug on.
#[cfg(feature = "enabled")]
pub fn is_on(name: &str) -> bool {
    static ON: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    ON.get_or_init(|| std::env::var(SWITCH).ok()).as_deref() == Some(name)
}
