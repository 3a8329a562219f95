//! One death.

use std::fmt;
use std::time::Duration;

/// A process of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    Coordinator,
    One,
    Two,
}

impl Role {
    pub(super) const ALL: [Role; 3] = [Role::Coordinator, Role::One, Role::Two];
}

/// Who dies, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) moment: Moment,
    pub(super) victim: Role,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Moment {
    /// A process comes to a point for the nth time, and stands still there for a while.
    Point { name: String, at: Role, nth: u32, linger: Duration },
    /// The initiator has been answered.
    Answered,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let victim = self.victim;
        match &self.moment {
            Moment::Point { name, at, nth, linger } => {
                write!(f, "{victim:?} dies at {name}")?;
                if *nth > 1 {
                    write!(f, " (no. {nth})")?;
                }
                if !linger.is_zero() {
                    write!(f, " after {linger:?}")?;
                }
                if *at != victim { write!(f, " of {at:?}") } else { Ok(()) }
            }
            Moment::Answered => write!(f, "{victim:?} dies when the initiator is answered"),
        }
    }
}
