//! Stops processes in the middle of whatever they do, and continues them.
//!
//! A frozen process is stopped by SIGSTOP: no thread of it runs, its connections stay open, its leases run
//! out. It is continued when the guard is dropped, also by a panic, and when the tool itself is killed: a
//! small shell holds the other end of a pipe, and sends SIGCONT to all when the pipe ends.

use std::io::{self, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::processes::{self, Signal};

/// Longest wait until a process has stopped; the kernel may have to finish a write for it first.
const STOP_MAX: Duration = Duration::from_secs(5);
/// Rounds in which new children are looked for; one that finds none is the last.
const ROUNDS_MAX: usize = 100;
const WATCHDOG: &str = r#"pids=; while read -r pid; do pids="$pids $pid"; done; kill -CONT $pids"#;

/// Stopped processes. They are continued when this is dropped.
#[must_use = "a guard that is dropped at once continues the process at once"]
#[derive(Debug)]
pub struct Frozen {
    pids: Vec<u32>,
    watchdog: Child,
}

/// Stops one process, and returns when it has stopped.
///
/// Errors when there is no such process, it may not be signalled, or it does not stop in 5 s.
pub fn process(pid: u32) -> io::Result<Frozen> {
    let mut frozen = Frozen::nothing()?;
    frozen.stop(pid)?;
    Ok(frozen)
}

/// Stops a process and all its descendants, and returns when they have stopped.
///
/// Parents stop first, so none can have a child unseen. A descendant whose parent has ended before is
/// nobody's descendant any more, and goes on. Errors as [`process`]; then all are continued.
pub fn tree(pid: u32) -> io::Result<Frozen> {
    let mut frozen = Frozen::nothing()?;
    frozen.stop(pid)?;
    for _ in 0..ROUNDS_MAX {
        let known = frozen.pids.clone();
        let is_new = |child: &u32| !known.contains(child);
        let children: Vec<u32> =
            processes::children_of(&known)?.into_iter().filter(is_new).collect();
        if children.is_empty() {
            return Ok(frozen);
        }
        for child in children {
            match frozen.stop(child) {
                // One that ended meanwhile needs no stopping.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Err(io::Error::other("the processes have children without end"))
}

impl Frozen {
    fn nothing() -> io::Result<Self> {
        use std::os::unix::process::CommandExt;
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What ends the tool from a terminal must not end this too.
            .process_group(0)
            .spawn()?;
        Ok(Self { pids: Vec::new(), watchdog })
    }

    /// The stopped processes, in the order in which they were stopped.
    pub fn pids(&self) -> &[u32] {
        &self.pids
    }

    /// Continues them; the same as dropping this.
    pub fn thaw(self) {}

    fn stop(&mut self, pid: u32) -> io::Result<()> {
        if pid <= 1 || pid == std::process::id() || pid == self.watchdog.id() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "this process must not stop"));
        }
        // Known to the watchdog before it is stopped.
        let pipe = self.watchdog.stdin.as_mut().expect("piped, and closed by drop only");
        writeln!(pipe, "{pid}")?;
        processes::send(pid, Signal::Stop)?;
        self.pids.push(pid);
        let deadline = Instant::now() + STOP_MAX;
        loop {
            match processes::state_of(pid)? {
                // A tracer's stop counts; the dead and the gone do nothing either.
                None | Some('T' | 't' | 'Z' | 'X') => return Ok(()),
                Some(_) if Instant::now() > deadline => {
                    let text = format!("process {pid} does not stop");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
                Some(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in self.pids.iter().rev() {
            // Fails when it has been killed meanwhile.
            let _ = processes::send(*pid, Signal::Continue);
        }
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}
