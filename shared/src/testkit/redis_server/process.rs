//! One `redis-server` process.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};

use rand::Rng;
use tempfile::TempDir;

use super::{STARTS_MAX, resp, wait_until};

/// A running (or killed) server process with its port and folder.
pub struct RedisProcess {
    /// Where it listens.
    pub port: u16,
    /// Where its peers of a Cluster talk to it.
    pub bus_port: u16,
    dir: TempDir,
    args: Vec<String>,
    child: Option<Child>,
}

impl RedisProcess {
    /// Starts `redis-server` with these arguments on a free port of its own choice.
    ///
    /// # Panics
    /// When the program is missing, or no port was free several times.
    pub fn start(args: &[String]) -> Self {
        let mut last = String::new();
        for _ in 0..STARTS_MAX {
            let dir = own_folder();
            let (port, bus_port) = (free_port(), free_port());
            let mut process = Self { port, bus_port, dir, args: args.to_vec(), child: None };
            match process.spawn() {
                Ok(()) => return process,
                Err(log) => last = log,
            }
        }
        panic!("redis-server does not start:\n{last}");
    }

    /// The folder with its files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// SIGKILL, and waits for its end. Harmless when it has ended.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only when the process is gone already, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again as it was.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&mut self) {
        self.kill();
        self.spawn().expect("redis-server starts again on its port");
    }

    /// Starts the process and waits until it accepts connections or has given up.
    fn spawn(&mut self) -> Result<(), String> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("redis.log"))
            .expect("the temporary folder is writable");
        let mut command = Command::new("redis-server");
        if let Some(config) = self.args.first().filter(|arg| arg.ends_with(".conf")) {
            command.arg(config);
        }
        command
            .args(["--port", &self.port.to_string(), "--cluster-port", &self.bus_port.to_string()])
            .args(["--bind", "127.0.0.1", "--dir"])
            .arg(self.dir.path())
            .args(self.args.iter().filter(|arg| !arg.ends_with(".conf")))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file handle can be cloned"))
            .stderr(log);
        let mut child = spawn_tied(command);
        let started = wait_until("redis-server listens or ends", || {
            if let Ok(Some(_)) = child.try_wait() {
                return Some(false);
            }
            resp::Connection::open(self.port).ok().map(|_| true)
        });
        if started {
            self.child = Some(child);
            return Ok(());
        }
        Err(std::fs::read_to_string(self.dir.path().join("redis.log")).unwrap_or_default())
    }
}

impl Drop for RedisProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

const FOLDER_PREFIX: &str = "windlass-redis-";

/// A folder that names this process. Servers shared by all tests of a process are never dropped, so the
/// first server of each process removes the folders of processes that are no more.
fn own_folder() -> TempDir {
    static SWEPT: OnceLock<()> = OnceLock::new();
    SWEPT.get_or_init(sweep_folders);
    let prefix = format!("{FOLDER_PREFIX}{}-", std::process::id());
    TempDir::with_prefix(prefix).expect("a temporary folder can be made")
}

fn sweep_folders() {
    // Without this list of living processes nothing is known to be stale.
    if !Path::new("/proc/self").exists() {
        return;
    }
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner =
            name.to_str().and_then(|name| name.strip_prefix(FOLDER_PREFIX)?.split_once('-'));
        let gone = |(pid, _): (&str, &str)| {
            pid.bytes().all(|b| b.is_ascii_digit()) && !Path::new("/proc").join(pid).exists()
        };
        if owner.is_some_and(gone) {
            // Another test may be removing it at the same time.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// A port that was free a moment ago, below the range from which outgoing connections take theirs, so
/// that it is likely still free after a restart.
pub fn free_port() -> u16 {
    loop {
        let port = rand::rng().random_range(12_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

type Order = (Command, Sender<std::io::Result<Child>>);

/// Spawns a child that the kernel kills when this process ends, however it ends.
///
/// The kernel ties a child to the *thread* that made it, and a test's thread ends before its process:
/// so all children are made by one thread that lives as long as the process.
fn spawn_tied(command: Command) -> Child {
    static SPAWNER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                die_with_parent(&mut command);
                // The one who asked may have panicked; then the child ends with its handle's pipe.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (answer, child) = channel();
    spawner
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .send((command, answer))
        .expect("the spawner lives as long as the process");
    child.recv().expect("the spawner answers").expect("redis-server is on the path")
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "PR_SET_PDEATHSIG has no safe wrapper and must be set in the child")]
fn die_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: the closure runs between fork and exec and makes one async-signal-safe system call with
    // constant arguments; it touches no memory of the parent.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_command: &mut Command) {}
