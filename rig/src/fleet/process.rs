//! One process that the rig started: its log, its signals, its end.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context as _, anyhow};

/// How a process is started, and started again.
#[derive(Debug, Clone)]
pub struct Program {
    /// For people and for the history.
    pub name: String,
    /// The executable.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its whole environment, but for `PATH`.
    pub env: BTreeMap<String, String>,
    /// Where its output goes; appended to.
    pub log: PathBuf,
    /// Where it runs.
    pub folder: PathBuf,
    /// Runs as this user, by number, where the rig is root; for PostgreSQL, which refuses to be root.
    pub user: Option<u32>,
}

/// A process of a fleet. It ends with this handle, and with the rig, however that ends.
#[derive(Debug)]
pub struct Process {
    program: Program,
    child: Option<Child>,
}

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// The executable is missing, or its log cannot be made.
    pub fn start(program: Program) -> anyhow::Result<Self> {
        let child = Some(spawn(&program)?);
        Ok(Self { program, child })
    }

    /// For people and for the history.
    pub fn name(&self) -> &str {
        &self.program.name
    }

    /// How it is started; a change counts from the next start on.
    pub fn program_mut(&mut self) -> &mut Program {
        &mut self.program
    }

    /// Its id; `None` once it was killed here or was seen to have ended.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// How it ended, if it has ended by itself.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    /// SIGKILL, and waits until it is gone. Without effect on one that has ended.
    pub fn kill_9(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only when the process is gone already, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGKILL to it and to its children. Those of one that stands still cannot get away meanwhile.
    pub fn kill_9_tree(&mut self) {
        for child in self.pid().into_iter().flat_map(children) {
            // One that has just ended need not be killed.
            let _ = signal(child, libc::SIGKILL);
        }
        self.kill_9();
    }

    /// Starts it again, with the same arguments. Kills it first if it runs.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.kill_9();
        self.child = Some(spawn(&self.program)?);
        Ok(())
    }

    /// SIGSTOP: it stands still until [`Self::thaw`], and its connections stay open.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze(&self) -> anyhow::Result<()> {
        signal(self.running()?, libc::SIGSTOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// It does not run.
    pub fn thaw(&self) -> anyhow::Result<()> {
        signal(self.running()?, libc::SIGCONT)
    }

    /// SIGSTOP to it and to its children, as PostgreSQL has.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze_tree(&self) -> anyhow::Result<()> {
        // The parent first, so that it makes no more children; then again, for those of the moment before.
        let pid = self.running()?;
        signal(pid, libc::SIGSTOP)?;
        for _ in 0..2 {
            for child in children(pid) {
                // One that has just ended need not be stopped.
                let _ = signal(child, libc::SIGSTOP);
            }
        }
        Ok(())
    }

    /// SIGCONT to it and to its children.
    ///
    /// # Errors
    /// It does not run.
    pub fn thaw_tree(&self) -> anyhow::Result<()> {
        let pid = self.running()?;
        for child in children(pid) {
            // As above.
            let _ = signal(child, libc::SIGCONT);
        }
        signal(pid, libc::SIGCONT)
    }

    /// Resident memory in KiB, of it alone.
    pub fn rss_kib(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        &self.program.log
    }

    /// The end of its log, for an error message.
    pub fn log_tail(&self) -> String {
        tail(&self.program.log)
    }

    fn running(&self) -> anyhow::Result<u32> {
        self.pid().with_context(|| format!("{} does not run", self.program.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_9();
    }
}

/// The last lines of a file, at most 2,000 bytes.
pub fn tail(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text[text.len().saturating_sub(2_000)..]).into_owned()
}

/// Ids of the living children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|other| parent(*other) == Some(pid))
        .collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in brackets and may hold anything: what follows the last one is `state ppid …`.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[expect(unsafe_code, reason = "the standard library sends no signal but SIGKILL")]
fn signal(pid: u32, signal: libc::c_int) -> anyhow::Result<()> {
    let pid = libc::pid_t::try_from(pid).context("a process id")?;
    // SAFETY: `kill` takes two numbers and touches no memory of this process.
    if unsafe { libc::kill(pid, signal) } == 0 {
        return Ok(());
    }
    Err(anyhow!(std::io::Error::last_os_error())).with_context(|| format!("signal {signal}"))
}

fn spawn(program: &Program) -> anyhow::Result<Child> {
    let log = File::options().create(true).append(true).open(&program.log);
    let log = log.with_context(|| program.log.display().to_string())?;
    let mut command = Command::new(&program.path);
    command
        .args(&program.args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(&program.env)
        .current_dir(&program.folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    if let Some(user) = program.user {
        command.uid(user).gid(user);
    }
    spawn_tied(command).with_context(|| format!("cannot start {}", program.path.display()))
}

type Order = (Command, Sender<std::io::Result<Child>>);

/// Spawns a child that the kernel kills when this process ends, however it ends. The kernel ties a child to the
/// *thread* that made it, so all are made by one thread that lives as long as the process.
pub(crate) fn spawn_tied(command: Command) -> std::io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                die_with_parent(&mut command);
                // The one who asked may have panicked; the child then ends with this process.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (answer, child) = channel();
    let order = (command, answer);
    let gone = |_| std::io::Error::other("the spawning thread has ended");
    spawner.lock().unwrap_or_else(PoisonError::into_inner).send(order).map_err(gone)?;
    child.recv().map_err(std::io::Error::other)?
}

#[expect(unsafe_code, reason = "PR_SET_PDEATHSIG has no safe wrapper and must be set in the child")]
fn die_with_parent(command: &mut Command) {
    // SAFETY: the closure runs between fork and exec, after the change of user (which would clear the setting), and
    // makes one async-signal-safe system call with constant arguments; it touches no memory of the parent.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
}
