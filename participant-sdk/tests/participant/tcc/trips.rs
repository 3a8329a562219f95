//! How often a call goes to the database and back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::shop::*;
use crate::on_both;
use crate::support::*;

/// Passes everything on, and counts how often the client spoke after the server.
struct Counter {
    port: u16,
    trips: Arc<AtomicUsize>,
}

impl Counter {
    async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let counter = Counter { port: listener.local_addr().unwrap().port(), trips: Arc::default() };
        let trips = Arc::clone(&counter.trips);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                tokio::spawn(pass_on(client, server, Arc::clone(&trips)));
            }
        });
        counter
    }
}

async fn pass_on(
    mut client: TcpStream,
    mut server: TcpStream,
    trips: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut server_spoke = true;
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let length = read?;
                if length == 0 {
                    return Ok(());
                }
                trips.fetch_add(usize::from(std::mem::take(&mut server_spoke)), Ordering::SeqCst);
                server.write_all(&asked[..length]).await?;
            }
            read = server.read(&mut answered) => {
                let length = read?;
                if length == 0 {
                    return Ok(());
                }
                server_spoke = true;
                client.write_all(&answered[..length]).await?;
            }
        }
    }
}

on_both! {
    /// The SDK's own pool: START TRANSACTION with the barrier's statement, the handler's one statement, and COMMIT
    /// with the reply.
    async fn a_call_with_one_statement_takes_three_trips(flavor) {
        let mut shop = Shop::new(flavor, Driver::MysqlAsync).await;
        let counter = Counter::before(server(flavor).port()).await;
        shop.by(counter.port);
        let pool = MySql::connect(&shop.world.url, &Options::default()).unwrap();
        let node = shop.world.node_of(shop.builder_on(pool)).await;
        let counted = || counter.trips.swap(0, Ordering::SeqCst);
        for warm in [false, true] {
            let [confirmed, cancelled, barred] = std::array::from_fn(|_| gtid());
            counted();
            let mut trips = Vec::new();
            assert!(node.attempt(confirmed, "1").await.unwrap().reserved);
            trips.push(("Try", counted(), 3));
            assert_eq!(node.confirm_once(confirmed, "1").await.unwrap().outcome(), BranchOutcome::Committed);
            trips.push(("Confirm", counted(), 3));
            assert!(node.attempt(cancelled, "1").await.unwrap().reserved);
            counted();
            assert_eq!(node.cancel_once(cancelled, "1").await.unwrap().outcome(), BranchOutcome::RolledBack);
            trips.push(("Cancel", counted(), 3));
            assert_eq!(node.cancel_once(barred, "1").await.unwrap().outcome(), BranchOutcome::RolledBack);
            trips.push(("empty Cancel", counted(), 3));
            assert!(node.attempt(confirmed, "1").await.unwrap().reserved);
            trips.push(("a repeated Try", counted(), 3));
            // The first time, a statement is prepared.
            if warm {
                assert!(trips.iter().all(|(_, took, most)| took == most), "{trips:?}");
            }
        }
    }
}
