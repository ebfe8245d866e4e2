//! Something between a peer and etcd that loses answers.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Passes connections on. Runs on the runtime that it was started on.
pub(crate) struct Proxy {
    address: SocketAddr,
    to_lose: Arc<AtomicUsize>,
    is_cut: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn start(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let to_lose = Arc::new(AtomicUsize::new(0));
        let lose = to_lose.clone();
        let (is_cut, cut) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (lose, mut cut) = (lose.clone(), cut.clone());
                connections.spawn(async move {
                    let passing = async {
                        if let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
                            pass(client, server, &lose).await;
                        }
                    };
                    tokio::select! {
                        biased;
                        _ = cut.wait_for(|is_cut| *is_cut) => {}
                        () = passing => {}
                    }
                });
            }
        });
        Self { address, to_lose, is_cut, _tasks: tasks }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Nothing passes, or everything again.
    pub(crate) fn cut(&self, is_cut: bool) {
        self.is_cut.send_replace(is_cut);
    }

    /// The answers to so many writes of pins will be lost: etcd has done them, and the connection breaks.
    pub(crate) fn lose(&self, count: usize) {
        self.to_lose.store(count, Ordering::SeqCst);
    }

    /// How many of them still have to be.
    pub(crate) fn left(&self) -> usize {
        self.to_lose.load(Ordering::SeqCst)
    }
}

async fn pass(mut client: TcpStream, mut server: TcpStream, to_lose: &AtomicUsize) {
    let (mut asked, mut answered) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut is_lost = false;
    loop {
        tokio::select! {
            read = client.read(&mut asked) => match read {
                Ok(length @ 1..) => {
                    let text = String::from_utf8_lossy(&asked[..length]);
                    // Only what removes or writes pins: the rest goes on by itself.
                    if text.contains("/v3/kv/txn") && text.contains("\"prev_kv\":true") {
                        is_lost = to_lose
                            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                            .is_ok();
                    }
                    if server.write_all(&asked[..length]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
            read = server.read(&mut answered) => match read {
                // Etcd has answered, so it has done it.
                Ok(1..) if is_lost => return,
                Ok(length @ 1..) => {
                    if client.write_all(&answered[..length]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
        }
    }
}
