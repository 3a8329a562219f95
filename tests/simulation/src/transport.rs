//! What is between a caller and an engine: which coordinator is called, and what is passed on to another (as
//! `coordinator/src/transport/peers.rs` and `coordinator.rs`).

use std::sync::Arc;
use std::time::Duration;

use concord_coordinator::engine::{Engine, EngineError};
use concord_protocol::Gtid;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::figures::Fault;
use crate::network::{self, Delivered, Lost, Message, Place};
use crate::store::shared::coordinator_number;
use crate::world::World;

/// A coordinator that is silent for so long is out of reach, for another.
const PEER_SILENT: Duration = Duration::from_secs(4);

/// Who answers a call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Route {
    /// Whoever is asked.
    Anyone,
    /// Whoever has this transaction.
    Owner(Gtid),
    /// Whoever has the transaction that was begun with the same key.
    Key,
}

/// A call of one of the engine's functions, which can be made again.
type Question<T> =
    Arc<dyn Fn(Arc<Engine>) -> BoxFuture<'static, Result<T, EngineError>> + Send + Sync + 'static>;

/// A call, as it is answered.
struct Call<T> {
    message: Message,
    route: Route,
    limit: Duration,
    question: Question<T>,
}

impl<T> Clone for Call<T> {
    fn clone(&self) -> Self {
        Call { question: Arc::clone(&self.question), ..*self }
    }
}

/// Calls a coordinator, which is `message.to`.
///
/// # Errors
/// [`Lost`].
pub(crate) async fn ask<T, F, Fut>(
    world: &Arc<World>,
    message: Message,
    route: Route,
    limit: Duration,
    question: F,
) -> Result<Result<T, EngineError>, Lost>
where
    T: Send + 'static,
    F: Fn(Arc<Engine>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, EngineError>> + Send + 'static,
{
    let question: Question<T> = Arc::new(move |engine| question(engine).boxed());
    deliver(world, Call { message, route, limit, question }, false).await
}

/// `passed_on`: by another coordinator. It is not passed on again.
fn deliver<T: Send + 'static>(
    world: &Arc<World>,
    call: Call<T>,
    passed_on: bool,
) -> BoxFuture<'static, Result<Result<T, EngineError>, Lost>> {
    let world = Arc::clone(world);
    async move {
        let (message, limit, there) = (call.message, call.limit, Arc::clone(&world));
        network::call(&world, message, limit, move || receive(Arc::clone(&there), call.clone(), passed_on))
            .await
    }
    .boxed()
}

async fn receive<T: Send + 'static>(
    world: Arc<World>,
    call: Call<T>,
    passed_on: bool,
) -> Delivered<Result<T, EngineError>> {
    let Place::Coordinator(number) = call.message.to else { return Delivered::Nobody };
    match world.coordinator(number).door() {
        Some((life, engine)) => life.within(answer(&world, &call, number, engine, passed_on)).await.into(),
        None => Delivered::Nobody,
    }
}

async fn answer<T: Send + 'static>(
    world: &Arc<World>,
    call: &Call<T>,
    number: u8,
    engine: Arc<Engine>,
    passed_on: bool,
) -> Result<T, EngineError> {
    match call.route {
        Route::Anyone => (call.question)(engine).await,
        Route::Owner(gtid) => match pass_on(world, call, number, &engine, gtid, passed_on).await? {
            Some(answer) => answer,
            None => (call.question)(engine).await,
        },
        Route::Key => match (call.question)(Arc::clone(&engine)).await {
            Err(error @ EngineError::Elsewhere(gtid)) => {
                pass_on(world, call, number, &engine, gtid, passed_on).await?.unwrap_or(Err(error))
            }
            answer => answer,
        },
    }
}

/// Has a call answered by the coordinator that owns the transaction. None: that is this one, or the owner cannot be
/// reached.
async fn pass_on<T: Send + 'static>(
    world: &Arc<World>,
    call: &Call<T>,
    from: u8,
    engine: &Engine,
    gtid: Gtid,
    passed_on: bool,
) -> Result<Option<Result<T, EngineError>>, EngineError> {
    let Some(address) = engine.owner_elsewhere(gtid).await? else { return Ok(None) };
    let Some(to) = coordinator_number(&address).filter(|_| !passed_on) else { return Ok(None) };
    world.figures.count(Fault::PassedOn);
    let message = Message {
        from: Place::Coordinator(from),
        to: Place::Coordinator(to),
        what: 10_000 + call.message.what,
        ..call.message
    };
    let call = Call { message, limit: call.limit.min(PEER_SILENT), ..call.clone() };
    Ok(deliver(world, call, true).await.ok())
}
