//! Crash points: named places in the coordinator and in the participant SDK at which a test has a process killed.
//!
//! ```text
//!   crash_point!("xa/prepare/after");                     one line of code, one name
//!   crash_point!("coordinator/send", verb);               a name for each verb: "coordinator/send/Commit" …
//! ```
//!
//! Without the feature `enabled` the macro expands to nothing, and its arguments are not even compiled. With it, each
//! point counts how often it is reached, and the one that is armed sends SIGKILL: to its own process, or to another
//! one, so that a coordinator can die while a participant is at a certain place.
//!
//! All names are in one table, [`POINTS`]. A literal name that is not there does not compile; a composed one is
//! noticed by the test, which also demands that every name of the table is reached.
//!
//! Why not the crate `fail`: it has no action that kills (its panics end a task, not a process), knows its points by
//! strings that nothing checks, does not say which points a run has reached, and brings a second `rand` along. What is
//! left to it would be the registry, which here is a few lines.

#[cfg(feature = "enabled")]
mod armed;
mod points;

#[cfg(feature = "enabled")]
pub use armed::{BadOrder, Order, arm, reached, take_reached};
pub use points::{MARIADB_ONLY, POINTS, is_known};

/// A place at which a test may have a process killed. See the [crate](self).
#[cfg(feature = "enabled")]
#[macro_export]
macro_rules! crash_point {
    ($name:literal) => {{
        const _: () = assert!($crate::is_known($name), "this point is not in the table");
        $crate::reached($name);
    }};
    ($name:literal, each $parts:expr) => {
        for part in $parts {
            $crate::reached(&format!("{}/{part}", $name));
        }
    };
    ($name:literal, $part:expr) => {
        $crate::reached(&format!("{}/{}", $name, $part))
    };
}

/// A place at which a test may have a process killed. In this build: nothing.
#[cfg(not(feature = "enabled"))]
#[macro_export]
macro_rules! crash_point {
    ($($anything:tt)*) => {};
}
