//! The end of a coordinator that is told to stop.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::engine::Engine;

/// When this coordinator is to stop: ordered by a signal or by an operator, and again by whoever comes later.
#[derive(Debug)]
pub(crate) struct Ending {
    /// Live transactions have so long to end, where the order says nothing else.
    grace: Duration,
    /// Until when they have time. `None`: nobody has ordered anything.
    until: watch::Sender<Option<Instant>>,
}

impl Ending {
    pub(crate) fn new(grace: Duration) -> Self {
        Ending { grace, until: watch::Sender::new(None) }
    }

    /// Orders it, or changes the order.
    pub(crate) fn order(&self, grace: Option<Duration>) {
        self.until.send_replace(Some(Instant::now() + grace.unwrap_or(self.grace)));
    }

    /// Resolves once it has been ordered.
    pub(crate) async fn ordered(&self) {
        // The sender lives as long as `self`.
        let _ = self.until.subscribe().wait_for(Option::is_some).await;
    }

    /// Resolves when it is time to stop: no transaction is live any more, or their time is over.
    pub(crate) async fn over(&self, engine: &Engine) {
        self.ordered().await;
        tokio::select! {
            () = engine.drained() => {}
            () = self.due() => {}
        }
    }

    async fn due(&self) {
        let mut orders = self.until.subscribe();
        loop {
            let until = *orders.borrow_and_update();
            tokio::select! {
                _ = orders.changed() => {}
                () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now)) => return,
            }
        }
    }
}
