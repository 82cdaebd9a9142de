//! Private Redis servers: single, Cluster, Sentinel. On loopback, on free ports, in temporary folders.
//!
//! A server dies with its handle, also when a test panics, and with the process that started it, also
//! when that is killed. Needs `redis-server` (7.0 or later) on the path.
//!
//! Everything here blocks for some milliseconds and panics on failure: for tests only.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub mod cluster;
pub mod process;
pub mod resp;
pub mod sentinel;

use process::RedisProcess;

/// Longest wait for a server, a cluster or a failover to be ready.
pub const READY_MAX: Duration = Duration::from_secs(20);
/// Starts tried when another program takes the port between its choice and its use.
const STARTS_MAX: u32 = 8;

/// How a private server differs from an empty one without persistence.
#[derive(Debug, Clone, Default)]
pub struct RedisOptions {
    /// Keeps what was written over a `kill -9`: append-only file, synced at every write.
    pub appendonly: bool,
    /// Refuses writes that need more memory than this.
    pub maxmemory_bytes: Option<u64>,
    /// `maxmemory-policy`; `None` is `noeviction`.
    pub policy: Option<&'static str>,
    /// `requirepass`.
    pub password: Option<&'static str>,
    /// Further arguments of the command line.
    pub args: Vec<String>,
}

/// One private server.
pub struct RedisServer {
    process: RedisProcess,
    password: Option<&'static str>,
}

impl RedisServer {
    /// Starts a server and waits until it answers.
    ///
    /// # Panics
    /// When there is no `redis-server`, or it does not answer in [`READY_MAX`].
    pub fn start(options: RedisOptions) -> Self {
        let args = command_line(&options);
        let server = Self { process: RedisProcess::start(&args), password: options.password };
        server.wait_ready();
        server
    }

    /// A server shared by all tests of this process that use keys of their own ([`unique_prefix`]).
    /// Without a memory limit and persistence; never killed or flushed.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<RedisServer> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(RedisOptions::default()))
    }

    /// `redis://127.0.0.1:PORT`, with the password if there is one.
    pub fn url(&self) -> String {
        match self.password {
            Some(password) => format!("redis://:{password}@127.0.0.1:{}", self.port()),
            None => format!("redis://127.0.0.1:{}", self.port()),
        }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.process.port
    }

    /// Kills it without warning, and waits until it is gone. Its port and folder stay reserved by name.
    pub fn kill_9(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port and folder. Without `appendonly` it comes back empty.
    pub fn restart(&mut self) {
        self.process.restart();
        self.wait_ready();
    }

    /// Runs one command and returns its reply as text, see [`resp::Reply`].
    pub fn command(&self, words: &[&str]) -> resp::Reply {
        let mut connection = resp::Connection::open(self.port()).expect("the server accepts");
        if let Some(password) = self.password {
            connection.call(&["AUTH", password]).expect("the server answers").expect_ok();
        }
        connection.call(words).expect("the server answers")
    }

    fn wait_ready(&self) {
        wait_until("redis answers PING", || {
            let mut connection = resp::Connection::open(self.port()).ok()?;
            if let Some(password) = self.password {
                connection.call(&["AUTH", password]).ok()?;
            }
            let reply = connection.call(&["PING"]).ok()?;
            (reply.text() == "PONG").then_some(())
        });
    }
}

fn command_line(options: &RedisOptions) -> Vec<String> {
    let mut args = vec!["--save".to_owned(), String::new()];
    let mut set = |name: &str, value: String| args.extend([format!("--{name}"), value]);
    if options.appendonly {
        set("appendonly", "yes".into());
        set("appendfsync", "always".into());
    }
    if let Some(bytes) = options.maxmemory_bytes {
        set("maxmemory", bytes.to_string());
    }
    if let Some(password) = options.password {
        set("requirepass", password.into());
    }
    set("maxmemory-policy", options.policy.unwrap_or("noeviction").into());
    args.extend(options.args.iter().cloned());
    args
}

/// A key prefix that no other test of this process uses.
pub fn unique_prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Asks until there is an answer, up to [`READY_MAX`].
///
/// # Panics
/// When there is none in that time.
pub fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + READY_MAX;
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_comes_back_on_its_port_and_dies_with_its_handle() {
        let options = RedisOptions { appendonly: true, ..RedisOptions::default() };
        let mut server = RedisServer::start(options);
        server.command(&["SET", "a", "1"]).expect_ok();
        server.kill_9();
        assert!(resp::Connection::open(server.port()).is_err(), "killed means gone");
        server.restart();
        assert_eq!(server.command(&["GET", "a"]).text(), "1");
        let port = server.port();
        drop(server);
        assert!(resp::Connection::open(port).is_err());
    }
}
