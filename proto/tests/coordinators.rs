//! What callers are told when a coordinator goes away.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use concord_proto::Coordinators;
use concord_proto::v1::GetRequest;
use concord_proto::v1::coordinator_client::CoordinatorClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;

/// Frame types of HTTP/2.
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GO_AWAY: u8 = 7;

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let [.., high, middle, low] = payload.len().to_be_bytes();
    [&[high, middle, low, kind, 0, 0, 0, 0, 0], payload].concat()
}

/// Reads until a call has begun.
async fn call_begun(stream: &mut TcpStream) {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    stream.write_all(&frame(SETTINGS, &[])).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        if head[3] == HEADERS {
            return;
        }
    }
}

#[tokio::test]
async fn a_call_that_nobody_answered_is_unavailable() {
    // In good order: no stream was handled, no error. Or just so.
    for goodbye in [frame(GO_AWAY, &[0; 8]), Vec::new()] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut client = CoordinatorClient::new(Coordinators::connect_lazy(&url).unwrap());
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            call_begun(&mut stream).await;
            stream.write_all(&goodbye).await.unwrap();
        };
        let (answer, ()) = tokio::join!(client.get(GetRequest::default()), server);
        let status = answer.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
}
