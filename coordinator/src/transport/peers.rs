//! The other coordinators on the same store. What belongs to one of them is passed on, once.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use concord_proto::names::is_this_machine;
use concord_proto::{TraceContext, root_cause};
use concord_protocol::Gtid;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tracing::field::display;

use super::convert::status;
use super::outbound::endpoint;
use crate::engine::Engine;
use crate::security::OutboundTls;

/// In the metadata of a call that a coordinator has passed on. It is not passed on again.
const PASSED_ON: &str = "concord-passed-on";
/// A connection to another coordinator takes no longer than this, or it is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often one that is silent during a call is asked for a sign of life, and how long it has to give one.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// That one cannot be reached is said once in so long.
const COMPLAINTS: Duration = Duration::from_secs(60);

/// The other coordinators, by their addresses.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    /// All of them listen as this one does: `None` without TLS.
    tls: Option<ArcSwap<OutboundTls>>,
    /// Whether tokens are passed on without TLS beyond this machine.
    allow_insecure: bool,
    channels: Mutex<HashMap<String, Channel>>,
    /// When it was last said of which address that it cannot be reached.
    complained: Mutex<HashMap<String, Instant>>,
}

impl Peers {
    /// `tls`: what is shown to them, if they speak TLS. `allow_insecure`: whether they get callers' tokens without.
    pub(crate) fn new(tls: Option<OutboundTls>, allow_insecure: bool) -> Self {
        Peers { tls: tls.map(ArcSwap::from_pointee), allow_insecure, ..Peers::default() }
    }

    /// Shows them this from now on.
    pub(crate) fn show(&self, tls: OutboundTls) {
        let Some(current) = &self.tls else { return };
        if *current.swap(Arc::new(tls)) != *current.load_full() {
            self.channels.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// Has a call answered by the coordinator that owns the transaction. `None`: that is this one, or the owner cannot be
    /// reached; what is in the store can be told here all the same.
    pub(crate) async fn pass_on<T, A, F>(
        &self,
        engine: &Engine,
        gtid: Gtid,
        request: &Request<T>,
        call: impl FnOnce(Channel, Request<T>) -> F,
    ) -> Result<Option<Response<A>>, Status>
    where
        T: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let Some(address) = engine.owner_elsewhere(gtid).await.map_err(status)? else { return Ok(None) };
        if request.metadata().contains_key(PASSED_ON) {
            return Ok(None);
        }
        self.check_token(&address, request.metadata())?;
        let channel = self.channel(&address)?;
        match call(channel, passed_on(request)).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if is_out_of_reach(&error) => {
                self.complain(gtid, TraceContext::of(request.metadata()), &address, &error, Instant::now());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Says that the owner of a transaction cannot be reached, and why. Whoever calls is told something else, and would have to
    /// guess; but there may be many of them.
    fn complain(&self, gtid: Gtid, trace: Option<TraceContext>, address: &str, error: &Status, now: Instant) {
        let trace_id = trace.map(|trace| display(trace.trace_id()));
        let reason = root_cause(error);
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        complained.retain(|_, at| now.saturating_duration_since(*at) < COMPLAINTS);
        if complained.contains_key(address) {
            tracing::debug!(%gtid, trace_id, address, reason, "the owner of a transaction cannot be reached");
            return;
        }
        complained.insert(address.to_owned(), now);
        tracing::warn!(
            %gtid, trace_id, address, reason,
            "the owner of a transaction cannot be reached; for a minute this is not said again of this address"
        );
    }

    /// Whether the caller's token may go to the coordinator at this address.
    fn check_token(&self, address: &str, metadata: &MetadataMap) -> Result<(), Status> {
        let is_safe = self.tls.is_some() || self.allow_insecure || !metadata.contains_key("authorization");
        let is_here = || format!("http://{address}").parse().is_ok_and(|url| is_this_machine(&url));
        match is_safe || is_here() {
            true => Ok(()),
            false => Err(Status::failed_precondition(format!(
                "the call is for the coordinator at {address}, and is not passed on: its token would go there without TLS. Set \
                 server.tls_certificate on all of them, or security.allow_insecure where something below encrypts"
            ))),
        }
    }

    fn channel(&self, address: &str) -> Result<Channel, Status> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let endpoint = match &self.tls {
            None => endpoint(&format!("http://{address}"), None, &OutboundTls::default()),
            Some(tls) => endpoint(&format!("https://{address}"), None, &tls.load()),
        };
        let endpoint = endpoint.map_err(|error| {
            Status::internal(format!("the address {address:?} of another coordinator: {error}"))
        })?;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .connect_lazy();
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}

/// The same request, with its deadline, marked.
fn passed_on<T: Clone>(request: &Request<T>) -> Request<T> {
    let mut passed = Request::new(request.get_ref().clone());
    *passed.metadata_mut() = request.metadata().clone();
    passed.metadata_mut().insert(PASSED_ON, MetadataValue::from_static("1"));
    passed
}

/// It does not come from a coordinator, but from the way to it.
fn is_out_of_reach(error: &Status) -> bool {
    error.source().is_some()
}

#[cfg(test)]
mod tests {
    use concord_protocol::Epoch;

    use super::*;
    use crate::logged::logged;

    #[test]
    fn who_cannot_be_reached_is_complained_of_once_a_minute() {
        let (peers, gtid, start) = (Peers::default(), Gtid::compose(1, Epoch(1), 7), Instant::now());
        let why = std::io::Error::other("connection refused");
        let error = Status::from_error(Box::new(why));
        let complaints = |address: &str, at_s: u64| {
            let at = start + Duration::from_secs(at_s);
            let log = logged(|| peers.complain(gtid, None, address, &error, at));
            let reason = format!("address=\"{address}\" reason=\"connection refused\"");
            assert!(log.is_empty() || log.contains("WARN") && log.contains(&reason), "{log}");
            log.lines().count()
        };
        for (address, at_s, count) in
            [("a:1", 0, 1), ("a:1", 1, 0), ("b:1", 1, 1), ("a:1", 59, 0), ("a:1", 60, 1)]
        {
            assert_eq!(complaints(address, at_s), count, "{address} {at_s}");
        }
    }

    #[test]
    fn a_token_is_passed_on_without_tls_on_this_machine_only() {
        let mut token = MetadataMap::new();
        token.insert("authorization", MetadataValue::from_static("Bearer x"));
        let plain = Peers::new(None, false);
        let refused = plain.check_token("10.0.0.7:7600", &token).unwrap_err();
        assert!(refused.message().contains("security.allow_insecure"), "{refused}");
        plain.check_token("127.0.0.1:7601", &token).unwrap();
        plain.check_token("10.0.0.7:7600", &MetadataMap::new()).unwrap();
        Peers::new(None, true).check_token("10.0.0.7:7600", &token).unwrap();
        Peers::new(Some(OutboundTls::default()), false).check_token("10.0.0.7:7600", &token).unwrap();
    }
}
