//! A link to a server that can be cut at the worst moment: on the way there, or on the way back.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::PostgresServer;
use crate::config::LedgerSettings;

/// What is lost when a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The request does not arrive.
    Request,
    /// The request is carried out; its answer does not arrive.
    Answer,
    /// The host vanishes: neither this request nor any other arrives, and nothing is closed.
    Host,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Times {
    Once,
    Always,
}

/// A port on loopback that leads to the server. It is closed when this is dropped.
pub struct Link {
    port: u16,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    /// Requests that contain these bytes: the next one, or each.
    armed: Mutex<Option<(Vec<u8>, Loss, Times)>>,
    cuts: AtomicUsize,
    /// Connections of an earlier age carry nothing any more, and are not closed: their host has vanished.
    age: AtomicUsize,
    /// New connections are taken and carry nothing either.
    is_silent: AtomicBool,
}

impl Link {
    /// Opens a link to `server`.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn to(server: &PostgresServer) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("a bound port has an address").port();
        let shared = Arc::new(Shared::default());
        let socket = server.folder().join(".s.PGSQL.5432");
        let accepting = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = UnixStream::connect(&socket).await else { continue };
                tokio::spawn(carry(client, server, Arc::clone(&accepting)));
            }
        });
        Self { port, shared, task }
    }

    /// Settings of a ledger in `database` that uses the link.
    pub fn settings(&self, database: &str) -> LedgerSettings {
        let address = format!("127.0.0.1:{}", self.port);
        LedgerSettings::new(format!("postgres://windlass@{address}/{database}?sslmode=disable"))
    }

    /// Cuts the connection of the next request that contains `marker`, once.
    pub fn cut_at(&self, marker: &[u8], loss: Loss) {
        *self.armed() = Some((marker.to_vec(), loss, Times::Once));
    }

    /// Cuts the connection of every request that contains `marker`, until [`Self::cut_no_more`].
    pub fn cut_every(&self, marker: &[u8], loss: Loss) {
        *self.armed() = Some((marker.to_vec(), loss, Times::Always));
    }

    /// Lets every request pass again.
    pub fn cut_no_more(&self) {
        *self.armed() = None;
    }

    /// From now on nothing is carried and nothing is closed, as when a host loses its power.
    pub fn silence(&self) {
        self.shared.silence();
    }

    /// Connections made from now on work; the silent ones stay silent.
    pub fn speak(&self) {
        self.shared.is_silent.store(false, Ordering::SeqCst);
        self.shared.age.fetch_add(1, Ordering::SeqCst);
    }

    /// How often it has been cut.
    pub fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::SeqCst)
    }

    fn armed(&self) -> std::sync::MutexGuard<'_, Option<(Vec<u8>, Loss, Times)>> {
        self.shared.armed.lock().expect("no holder of this lock panics")
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Carries one connection until either side ends it or it is cut. Both sockets close with the return.
async fn carry(mut client: TcpStream, mut server: UnixStream, shared: Arc<Shared>) {
    let (mut there, mut back) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut lost_answer = false;
    let age = shared.age.load(Ordering::SeqCst);
    let was_silent = shared.is_silent.load(Ordering::SeqCst);
    let is_silent = || was_silent || shared.age.load(Ordering::SeqCst) != age;
    loop {
        tokio::select! {
            read = client.read(&mut there) => {
                let Some(n) = read.ok().filter(|n| *n > 0) else { return };
                if is_silent() {
                    continue;
                }
                match shared.loss(&there[..n]) {
                    Some(Loss::Request) => return,
                    Some(Loss::Answer) => lost_answer = true,
                    Some(Loss::Host) => {
                        shared.silence();
                        continue;
                    }
                    None => {}
                }
                if server.write_all(&there[..n]).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut back) => {
                let Some(n) = read.ok().filter(|n| *n > 0) else { return };
                if is_silent() {
                    continue;
                }
                if lost_answer {
                    // "Ready for query, no transaction": what was asked for is committed.
                    if back[..n].ends_with(&[b'Z', 0, 0, 0, 5, b'I']) {
                        return;
                    }
                } else if client.write_all(&back[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}

impl Shared {
    fn silence(&self) {
        self.is_silent.store(true, Ordering::SeqCst);
        self.age.fetch_add(1, Ordering::SeqCst);
    }

    fn loss(&self, request: &[u8]) -> Option<Loss> {
        let mut armed = self.armed.lock().expect("no holder of this lock panics");
        let (marker, loss, times) = armed.as_ref()?;
        let found = request.windows(marker.len()).any(|part| part == marker);
        let (loss, times) = found.then_some((*loss, *times))?;
        if times == Times::Once {
            *armed = None;
        }
        self.cuts.fetch_add(1, Ordering::SeqCst);
        Some(loss)
    }
}
