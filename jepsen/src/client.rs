//! A client: carries out operations, one after the other, and records what it is told.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clojure_reader::edn::Edn;
use concord_proto::Coordinators;
use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::v1::{ExecuteResponse, TransactionState};
use tokio::time::Instant;
use tonic::{Code, Request, Status};

use crate::cluster::Cluster;
use crate::history::{Process, Type};
use crate::recorder::Recorder;
use crate::workload::{Generator, Plan};

/// How long one call may take.
const CALL_MAX: Duration = Duration::from_secs(8);
/// How long a client waits all the same: longer, so that the way to the coordinators learns by the call that it was too
/// long, and goes on to the next.
const ANSWER_MAX: Duration = Duration::from_secs(9);
/// For how long a client that insists asks again.
const INSIST_MAX: Duration = Duration::from_secs(20);
/// Before it does.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    cluster: Arc<Cluster>,
    recorder: Arc<Recorder>,
    generator: Generator,
    api: CoordinatorClient<Coordinators>,
    /// Its number in the history. A process whose operation's outcome is not known has crashed, as Jepsen has it; the
    /// client goes on under another number.
    process: i64,
    clients: i64,
}

/// What a client is told, at the end of all its asking.
struct Told {
    kind: Type,
    value: Edn<'static>,
    error: Option<String>,
}

impl Client {
    /// A client with connections of its own. `clients`: how many there are.
    ///
    /// # Errors
    /// When a coordinator's address cannot be read.
    pub(crate) fn new(
        cluster: &Arc<Cluster>,
        recorder: &Arc<Recorder>,
        generator: Generator,
        (number, clients): (i64, i64),
    ) -> Result<Client> {
        let coordinators = Coordinators::connect_lazy(&cluster.coordinator_urls())?;
        Ok(Client {
            cluster: Arc::clone(cluster),
            recorder: Arc::clone(recorder),
            generator,
            api: CoordinatorClient::new(coordinators),
            process: number,
            clients,
        })
    }

    /// Begins an operation every `interval`, or as soon after it as the one before has ended, until `end`.
    pub(crate) async fn run(mut self, interval: Duration, end: Instant) {
        let mut ticks = tokio::time::interval(interval.max(Duration::from_micros(1)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if Instant::now() >= end {
                return;
            }
            self.operate().await;
        }
    }

    async fn operate(&mut self) {
        let plan = self.generator.draw();
        let process = Process::Client(self.process);
        self.recorder.record(process, Type::Invoke, plan.f, plan.value.clone(), None);
        let Told { kind, value, error } = self.ask(&plan).await;
        self.recorder.record(process, kind, plan.f, value, error.map(|text| Edn::Str(text.into())));
        if kind == Type::Info {
            self.process += self.clients;
        }
    }

    async fn ask(&mut self, plan: &Plan) -> Told {
        let started = Instant::now();
        let mut first = true;
        loop {
            let mut request = Request::new(plan.request(&self.cluster));
            request.set_timeout(CALL_MAX);
            // The server's own idea of the deadline may be late, or lost.
            let answer = tokio::time::timeout(ANSWER_MAX, self.api.execute(request)).await;
            let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
            let told = match answer {
                Ok(response) => plan.told(&response.into_inner()),
                // Only a first call is refused for what it is: a repeat may be of one that is under way.
                Err(status) if first && is_refused(&status) => plan.without(Type::Fail, status.message()),
                Err(status) => plan.without(Type::Info, status.message()),
            };
            if told.kind != Type::Info || !plan.insists || started.elapsed() > INSIST_MAX {
                return told;
            }
            first = false;
            tokio::time::sleep(ASK_AGAIN_AFTER).await;
        }
    }
}

impl Plan {
    fn told(&self, response: &ExecuteResponse) -> Told {
        let Some(transaction) = &response.transaction else {
            return self.without(Type::Info, "an empty answer");
        };
        match transaction.state() {
            TransactionState::Committed | TransactionState::Committing => {
                match self.completed(&transaction.gtid, &response.replies) {
                    Ok(Some(value)) => Told { kind: Type::Ok, value, error: None },
                    Ok(None) => self.without(Type::Info, "committed; what was read is not known any more"),
                    Err(error) => self.without(Type::Info, &format!("committed, but {error:#}")),
                }
            }
            TransactionState::RolledBack | TransactionState::RollingBack => {
                self.without(Type::Fail, &transaction.reason)
            }
            _ => self.without(Type::Info, "not decided"),
        }
    }

    fn without(&self, kind: Type, error: &str) -> Told {
        Told { kind, value: self.value.clone(), error: Some(error.to_owned()) }
    }
}

/// Whether the coordinator has refused a request as such: nothing has begun.
fn is_refused(status: &Status) -> bool {
    let refusals = [Code::InvalidArgument, Code::ResourceExhausted, Code::FailedPrecondition];
    refusals.contains(&status.code()) && concord_proto::status::reason(status).is_some()
}
