//! A TCP proxy that can lose an answer: it lets a chosen request through and then cuts the connection.
#![allow(unreachable_pub)] // See support.rs.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// When to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Before the server sees the request.
    Before,
    /// After the server has carried it out, before its answer arrives.
    After,
}

/// The words of a request, and where to cut.
type Trap = Arc<Mutex<Option<(Vec<u8>, Cut)>>>;

#[derive(Clone)]
pub struct Proxy {
    pub port: u16,
    trap: Trap,
}

impl Proxy {
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy { port: listener.local_addr().unwrap().port(), trap: Arc::default() };
        let trap = Arc::clone(&proxy.trap);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                tokio::spawn(carry(client, server, Arc::clone(&trap)));
            }
        });
        proxy
    }

    /// Cuts the next connection on which a request with `words` is seen; once.
    pub fn cut(&self, words: &str, cut: Cut) {
        *self.trap.lock().unwrap() = Some((words.as_bytes().to_vec(), cut));
    }

    /// Whether the cut has been made.
    pub fn has_cut(&self) -> bool {
        self.trap.lock().unwrap().is_none()
    }
}

async fn carry(mut client: TcpStream, mut server: TcpStream, trap: Trap) {
    let (mut up, mut down) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(length @ 1..) = read else { return };
                let sprung = {
                    let mut trap = trap.lock().unwrap();
                    let hit = trap.as_ref().is_some_and(|(words, _)| up[..length].windows(words.len()).any(|w| w == words));
                    if hit { trap.take() } else { None }
                };
                if let Some((_, Cut::Before)) = sprung {
                    return;
                }
                if server.write_all(&up[..length]).await.is_err() {
                    return;
                }
                if sprung.is_some() {
                    // The first byte of the answer to the last statement comes when it has been carried out;
                    // answers of one request arrive together on a loopback.
                    let _ = server.read(&mut down).await;
                    return;
                }
            }
            read = server.read(&mut down) => {
                let Ok(length @ 1..) = read else { return };
                if client.write_all(&down[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}
