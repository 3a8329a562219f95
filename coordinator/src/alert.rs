//! Tells somebody when transactions wait for an operator, or take too long: by POST, to one address.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use concord_protocol::Gtid;
use serde::Serialize;

use crate::config::Alert;
use crate::engine::{Engine, Snapshot};
use crate::metrics::Label as _;
use crate::store::UnixMillis;
use crate::transport::{GrpcParticipants, post_json};

/// How often to look.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long the other side may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Transactions that are kept in mind.
const OVERDUE_MAX: usize = 1_000;
/// Transactions in one message.
const TOLD_MAX: usize = 20;

/// What is posted.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Message {
    /// All of it in a sentence: what chats show.
    text: String,
    cluster_id: String,
    epoch: u32,
    /// How many there are that this address has not been told of before.
    count: usize,
    /// The oldest of them.
    transactions: Vec<Overdue>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Overdue {
    gtid: String,
    name: String,
    state: &'static str,
    parked: bool,
    age_ms: u64,
    reason: String,
}

impl Overdue {
    fn new(snapshot: &Snapshot) -> Self {
        let failing = snapshot.branches.iter().find(|branch| !branch.last_error.is_empty());
        let reason = match failing {
            Some(branch) if snapshot.reason.is_empty() => {
                format!("branch {} at {}: {}", branch.id, branch.spec.participant, branch.last_error)
            }
            _ => snapshot.reason.clone(),
        };
        Overdue {
            gtid: snapshot.gtid.to_string(),
            name: snapshot.header.name.clone(),
            state: snapshot.state.value(),
            parked: snapshot.parked,
            age_ms: UnixMillis::now().0.saturating_sub(snapshot.header.begun_at.0),
            reason,
        }
    }
}

/// Watches for ever. Each transaction is told once when it is old, and once when it is parked; what could not be told is told
/// later.
pub(crate) async fn watch(engine: Arc<Engine>, config: Alert, participants: Arc<GrpcParticipants>) {
    let Some(url) = config.url else { return };
    let age = Duration::from_millis(config.older_than_ms);
    // Whether it was parked when it was told.
    let mut told = HashMap::new();
    // Why it could not be told, the last time.
    let mut in_vain = String::new();
    loop {
        tokio::time::sleep(INTERVAL.min(age)).await;
        let overdue = engine.overdue(age, OVERDUE_MAX);
        let new: Vec<_> = overdue.iter().filter(|one| told.get(&one.gtid) != Some(&one.parked)).collect();
        if !new.is_empty() {
            match tell(&participants, url.secret(), &engine, &new).await {
                Ok(()) => in_vain.clear(),
                Err(error) => {
                    // Once, not at every attempt while nobody is there.
                    if error != in_vain {
                        tracing::warn!(%url, error, "an alert could not be told");
                        in_vain = error;
                    }
                    continue;
                }
            }
        }
        // What has ended is forgotten.
        told = overdue.iter().map(|one| (one.gtid, one.parked)).collect::<HashMap<Gtid, bool>>();
    }
}

async fn tell(
    participants: &GrpcParticipants,
    url: &str,
    engine: &Engine,
    new: &[&Snapshot],
) -> Result<(), String> {
    // The way that participants are called: it trusts the same authorities.
    let client = participants.http_client()?;
    let parked = new.iter().filter(|one| one.parked).count();
    let need = match new.len() {
        1 => "1 transaction needs".to_owned(),
        count => format!("{count} transactions need"),
    };
    let look = match parked {
        0 => "tx list --state active,preparing,committing,rolling-back",
        _ => "tx list --parked",
    };
    let text = format!(
        "Concord: {need} somebody; waiting for an operator: {parked}, taking too long: {} (concord {look})",
        new.len() - parked,
    );
    let message = Message {
        text,
        cluster_id: engine.cluster_id().to_string(),
        epoch: engine.epoch().0,
        count: new.len(),
        transactions: new.iter().take(TOLD_MAX).map(|one| Overdue::new(one)).collect(),
    };
    let body = serde_json::to_vec(&message).map_err(|error| error.to_string())?;
    match tokio::time::timeout(PATIENCE, post_json(&client, url, body)).await {
        Ok(posted) => posted,
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}
