//! Counting, and killing.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, getpid, kill_process};

/// Whom to kill where. As text: `NAME[:NTH[:LINGER_MS[:PID]]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The point.
    pub name: String,
    /// At which passage, from now on; from 1.
    pub nth: u32,
    /// How long the thread that has come there stands still first. Whatever must not happen before it goes on has so
    /// much time to happen all the same.
    pub linger: Duration,
    /// Another process than the one that has come there.
    pub victim: Option<u32>,
}

impl Order {
    /// Kill this process, at once, when it first comes there.
    pub fn at(name: impl Into<String>) -> Self {
        Order { name: name.into(), nth: 1, linger: Duration::ZERO, victim: None }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.name, self.nth, self.linger.as_millis())?;
        self.victim.map_or(Ok(()), |pid| write!(f, ":{pid}"))
    }
}

/// A text that is no order.
#[derive(Debug)]
pub struct BadOrder(String);

impl fmt::Display for BadOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not NAME[:NTH[:LINGER_MS[:PID]]] with a name of the table", self.0)
    }
}

impl std::error::Error for BadOrder {}

impl FromStr for Order {
    type Err = BadOrder;

    fn from_str(text: &str) -> Result<Self, BadOrder> {
        let bad = || BadOrder(text.to_owned());
        let mut parts = text.split(':');
        let name = parts.next().filter(|name| crate::is_known(name)).ok_or_else(bad)?;
        let mut number = || parts.next().map(|part| part.parse::<u32>().map_err(|_| bad())).transpose();
        let (nth, linger_ms, victim) = (number()?, number()?, number()?);
        if nth == Some(0) || parts.next().is_some() {
            return Err(bad());
        }
        let linger = Duration::from_millis(linger_ms.unwrap_or(0).into());
        Ok(Order { name: name.to_owned(), nth: nth.unwrap_or(1), linger, victim })
    }
}

#[derive(Debug)]
struct State {
    armed: Option<Order>,
    reached: BTreeMap<String, u32>,
}

static STATE: Mutex<State> = Mutex::new(State { armed: None, reached: BTreeMap::new() });

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Arms a point, once, instead of whatever is armed; `None` disarms.
pub fn arm(order: Option<Order>) {
    state().armed = order;
}

/// How often each point was reached since this was last asked.
pub fn take_reached() -> BTreeMap<String, u32> {
    std::mem::take(&mut state().reached)
}

/// A point of this name is reached.
pub fn reached(name: &str) {
    let Some(order) = due(name) else { return };
    std::thread::sleep(order.linger);
    match order.victim.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
        // Its test may have ended it by now.
        Some(pid) => drop(kill_process(pid, Signal::KILL)),
        None => {
            let _ = kill_process(getpid(), Signal::KILL);
            // Not reached: nothing survives that.
            std::process::abort();
        }
    }
}

/// The order that is armed, if it is to be carried out now.
fn due(name: &str) -> Option<Order> {
    let mut state = state();
    *state.reached.entry(name.to_owned()).or_default() += 1;
    let armed = state.armed.as_mut().filter(|order| order.name == name)?;
    armed.nth -= 1;
    if armed.nth > 0 { None } else { state.armed.take() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::POINTS;

    #[test]
    fn orders_are_read_as_they_are_written() {
        let linger = Duration::from_millis(50);
        let all = [
            Order::at(POINTS[0]),
            Order { nth: 2, linger, ..Order::at(POINTS[1]) },
            Order { victim: Some(7), ..Order::at(POINTS[2]) },
        ];
        for order in all {
            assert_eq!(order.to_string().parse::<Order>().unwrap(), order);
        }
        assert_eq!(POINTS[0].parse::<Order>().unwrap(), Order::at(POINTS[0]));
        for bad in ["", "no/such/point", &format!("{}:0", POINTS[0]), &format!("{}:1:2:3:4", POINTS[0])] {
            assert!(bad.parse::<Order>().is_err(), "{bad}");
        }
    }

    #[test]
    fn is_due_at_its_nth_passage_and_once() {
        arm(Some(Order { nth: 2, ..Order::at("some/point") }));
        assert_eq!(due("another/point"), None);
        assert_eq!(due("some/point"), None);
        assert!(due("some/point").is_some());
        assert_eq!(due("some/point"), None);
        let counts = take_reached();
        assert_eq!((counts["some/point"], counts["another/point"]), (3, 1));
        assert!(take_reached().is_empty());
    }
}
