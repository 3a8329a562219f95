//! A participant attaches to the coordinators that there are, as they come and go.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::time::Duration;

use concord_participant::attach;
use concord_proto::v1::attachment_server::{Attachment, AttachmentServer};
use concord_proto::v1::participant_server::Participant;
use concord_proto::v1::*;
use concord_proto::{Coordinators, Place};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

/// The longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Keeps the streams that are opened to it.
struct Coordinator(mpsc::UnboundedSender<mpsc::Sender<Result<AttachResponse, Status>>>);

#[tonic::async_trait]
impl Attachment for Coordinator {
    type AttachStream = ReceiverStream<Result<AttachResponse, Status>>;

    async fn attach(
        &self,
        _: Request<Streaming<AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (calls, stream) = mpsc::channel(1);
        let _ = self.0.send(calls);
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// A coordinator, and the streams that are opened to it.
async fn coordinator() -> (Place, mpsc::UnboundedReceiver<mpsc::Sender<Result<AttachResponse, Status>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (opened, streams) = mpsc::unbounded_channel();
    let server = Server::builder().add_service(AttachmentServer::new(Coordinator(opened)));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let channel = Endpoint::from_shared(url.clone()).unwrap().connect_lazy();
    (Place { url, channel }, streams)
}

/// Is never called here.
#[derive(Clone)]
struct Idle;

macro_rules! never_called {
    ($($call:ident $request:ident $response:ident),* $(,)?) => {
        #[tonic::async_trait]
        impl Participant for Idle {
            $(async fn $call(&self, _: Request<$request>) -> Result<Response<$response>, Status> {
                Err(Status::unimplemented("nobody calls"))
            })*
        }
    };
}
never_called! {
    work WorkRequest WorkResponse,
    prepare PrepareRequest PrepareResponse,
    commit CommitBranchRequest CommitBranchResponse,
    rollback RollbackBranchRequest RollbackBranchResponse,
    r#try TryRequest TryResponse,
    confirm ConfirmRequest ConfirmResponse,
    cancel CancelRequest CancelResponse,
}

#[tokio::test]
async fn to_those_that_come_and_no_more_to_those_that_have_gone() {
    let (first, mut to_first) = coordinator().await;
    let (second, mut to_second) = coordinator().await;
    let (places, seen) = watch::channel(Arc::from([first]));
    let (stop, stopped) = oneshot::channel::<()>();
    let attached = attach(Idle, Coordinators::following(seen), "attached://one".into(), async {
        let _ = stopped.await;
    });
    let test = async {
        let stream = to_first.recv().await.unwrap();
        // A stream that breaks is opened again.
        drop(stream);
        let stream = to_first.recv().await.unwrap();
        places.send_replace(Arc::from([second]));
        let mut to_the_second = to_second.recv().await.unwrap();
        // Its coordinator may have to call us until it has stopped.
        assert!(!stream.is_closed());
        drop(stream);
        // Time enough for the first to be attached to again as well.
        for _ in 0..5 {
            drop(to_the_second);
            to_the_second = to_second.recv().await.unwrap();
        }
        assert!(to_first.try_recv().is_err(), "who is gone is left alone");
        stop.send(()).unwrap();
        drop(to_the_second);
    };
    tokio::time::timeout(PATIENCE, async { tokio::join!(attached, test) }).await.expect("it ends");
}
