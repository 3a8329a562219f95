//! How well a link works.

use std::time::Duration;

/// What becomes of what is sent in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Direction {
    /// Nothing arrives for now; what was sent arrives when the link is mended, as TCP has it.
    pub blocked: bool,
    /// How much later it arrives, at least.
    pub delay: Duration,
    /// And at random up to so much more.
    pub jitter: Duration,
    /// The chance, less than 1, that a packet is lost, and arrives when it is sent again.
    pub loss: f64,
    /// The chance that the connection breaks with it.
    pub reset: f64,
}

impl Direction {
    fn worse(self, other: Direction) -> Direction {
        Direction {
            blocked: self.blocked || other.blocked,
            delay: self.delay.max(other.delay),
            jitter: self.jitter.max(other.jitter),
            loss: self.loss.max(other.loss),
            reset: self.reset.max(other.reset),
        }
    }
}

/// One end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Who opens connections.
    Caller,
    /// Who accepts them.
    Callee,
}

/// How well a link works, both ways.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Condition {
    /// From the caller to the callee.
    pub there: Direction,
    /// From the callee to the caller.
    pub back: Direction,
}

impl Condition {
    /// The same in both directions.
    pub fn both(direction: Direction) -> Condition {
        Condition { there: direction, back: direction }
    }

    /// Nothing arrives in either direction.
    pub fn cut() -> Condition {
        Condition::both(Direction { blocked: true, ..Direction::default() })
    }

    /// Nothing arrives at one end; the other goes on hearing.
    pub fn deaf(end: End) -> Condition {
        let blocked = Direction { blocked: true, ..Direction::default() };
        match end {
            End::Callee => Condition { there: blocked, ..Condition::default() },
            End::Caller => Condition { back: blocked, ..Condition::default() },
        }
    }

    /// What becomes of what is sent to one end.
    pub(super) fn towards(&self, end: End) -> Direction {
        match end {
            End::Callee => self.there,
            End::Caller => self.back,
        }
    }

    /// Both conditions at once.
    pub fn and(self, other: Condition) -> Condition {
        Condition { there: self.there.worse(other.there), back: self.back.worse(other.back) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_conditions_at_once_are_as_bad_as_the_worse_of_them_in_everything() {
        let slow = Direction { delay: Duration::from_millis(50), loss: 0.1, ..Direction::default() };
        let both = Condition::both(slow).and(Condition::deaf(End::Caller));
        assert_eq!(both.there, slow);
        assert_eq!(both.back, Direction { blocked: true, ..slow });
    }
}
