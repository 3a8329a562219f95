//! The ways to a participant that listens: one for each address behind its name.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, Instant};

use concord_proto::names::{self, LookUp, Name, Place};
use concord_proto::v1::answer::Response;
use concord_proto::v1::call::Request;
use concord_proto::{TraceContext, v1};
use concord_protocol::{BranchId, Gtid};
use rand::seq::IndexedRandom as _;
use tokio::sync::watch;
use tonic::Status;

use super::super::breaker::{Breaker, BreakerSettings};
use super::super::call::{NeverSent, never_left, tells_of_absence, weight};
use super::{Connection, within};
use crate::metrics::BreakerState;

/// Of several a branch keeps to one as long as that answers and is there, whichever others come and go.
pub(super) struct Connections {
    /// None until the names have been looked up once.
    places: watch::Receiver<Arc<[Place<Arc<Destination>>]>>,
    /// How long a call waits for that.
    patience: Duration,
}

/// One of them.
pub(super) struct Destination {
    connection: Connection,
    /// Open: it has not answered, and is passed over for a while.
    breaker: Breaker,
}

impl Destination {
    pub(super) fn new(connection: Connection, settings: BreakerSettings) -> Arc<Self> {
        // Others are there: one failure is enough.
        let settings = BreakerSettings { failures_before_open: 1, ..settings };
        Arc::new(Destination { connection, breaker: Breaker::new(settings) })
    }

    fn is_passed_over(&self) -> bool {
        self.breaker.state(Instant::now()) != BreakerState::Closed
    }

    /// Whether it is called although there may be others. Of the calls that would try it again half do, by chance: or a branch
    /// that is called less often than one may try would try it each time, and never get to another one.
    fn admits(&self) -> bool {
        match self.breaker.state(Instant::now()) {
            BreakerState::Closed => true,
            BreakerState::Open => false,
            BreakerState::HalfOpen => rand::random() && self.breaker.admits(Instant::now()),
        }
    }

    async fn call(
        &self,
        request: Request,
        trace: Option<TraceContext>,
        until: Instant,
        limit: Duration,
    ) -> Result<Response, Status> {
        let left = until.saturating_duration_since(Instant::now());
        let answer = within(left, limit, self.connection.send(request, trace)).await;
        match &answer {
            Err(status) if tells_of_absence(status) => drop(self.breaker.failed(Instant::now())),
            _ => drop(self.breaker.succeeded()),
        }
        answer
    }
}

impl Connections {
    /// To these, and to what is found behind their names instead, whenever that changes; `connect` makes the way to a URL
    /// behind a name. `patience`: how long a call waits for names to be looked up the first time.
    pub(super) fn new(
        first: Vec<(Place<Arc<Destination>>, Option<Name>)>,
        look_up: Arc<LookUp>,
        patience: Duration,
        connect: impl Fn(&str, &Name) -> Option<Arc<Destination>> + Send + Sync + 'static,
    ) -> Self {
        let places = if first.iter().any(|(_, name)| name.is_some()) {
            // Or a branch's first call might go where none of its others go.
            let (found, places) = watch::channel(Arc::from([]));
            tokio::spawn(names::follow(first, found, look_up, connect));
            places
        } else {
            watch::channel(first.into_iter().map(|(place, _)| place).collect()).1
        };
        Connections { places, patience }
    }

    /// Calls the one that a branch keeps to; when that is not there, the next one. Answers what the last of them has
    /// answered. `limit`: how long all that may take.
    pub(super) async fn call(
        &self,
        gtid: Gtid,
        branch: BranchId,
        request: Request,
        trace: Option<TraceContext>,
        limit: Duration,
    ) -> Result<Response, Status> {
        let until = Instant::now() + limit;
        let places = self.places(self.patience.min(limit)).await?;
        let mut places: Vec<_> = places.iter().collect();
        places.sort_by_cached_key(|place| Reverse(weight(&place.url, gtid, branch)));
        let mut absent = None;
        for place in &places {
            if !place.channel.admits() {
                continue;
            }
            match place.channel.call(request.clone(), trace.clone(), until, limit).await {
                Err(status) if never_left(&status) => absent = Some(status),
                answer => return answer,
            }
        }
        // When all are passed over, any of them may be the first that is back.
        let any = places.choose(&mut rand::rng());
        match (absent, any) {
            (Some(status), _) => Err(status),
            (None, Some(place)) => place.channel.call(request, trace, until, limit).await,
            (None, None) => Err(NeverSent::status("it has no address")),
        }
    }

    async fn places(&self, patience: Duration) -> Result<Arc<[Place<Arc<Destination>>]>, Status> {
        let mut places = self.places.clone();
        let looked_up = tokio::time::timeout(patience, places.wait_for(|places| !places.is_empty())).await;
        match looked_up {
            Ok(Ok(places)) => Ok(Arc::clone(&places)),
            _ => Err(NeverSent::status("its name has not been looked up in time")),
        }
    }

    /// Whether there is one that is not passed over.
    pub(super) fn is_any_left(&self) -> bool {
        self.places.borrow().iter().any(|place| !place.channel.is_passed_over())
    }

    /// For people.
    pub(super) fn describe(&self) -> Vec<v1::KnownAddress> {
        let places = self.places.borrow();
        let describe = |place: &Place<Arc<Destination>>| v1::KnownAddress {
            address: place.url.clone(),
            passed_over: place.channel.is_passed_over(),
        };
        places.iter().map(describe).collect()
    }
}
