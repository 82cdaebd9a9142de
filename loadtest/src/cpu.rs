//! CPU time and memory of processes, from `/proc`.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result};

/// Linux tells user space in ticks of 10 ms, whatever the kernel's own tick is.
const TICK: Duration = Duration::from_millis(10);

/// A process to watch, its descendants included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// What to call it in the report.
    pub name: String,
    /// Its id.
    pub pid: u32,
}

impl std::str::FromStr for Watched {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, &'static str> {
        let (name, pid) = text.split_once('=').ok_or("must be NAME=PID")?;
        let pid = pid.parse().map_err(|_| "must be NAME=PID")?;
        Ok(Self { name: name.to_owned(), pid })
    }
}

/// One line of `/proc/PID/stat`, what of it matters.
struct Stat {
    parent: u32,
    /// Its own, and that of its children that have ended and been waited for.
    ticks: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in brackets and may hold anything; what follows the last bracket is plain.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    // utime, stime, cutime and cstime are fields 14 to 17 of the whole line; `ppid` was field 4.
    let ticks = fields.skip(9).take(4).map(|f| f.parse::<u64>().unwrap_or(0)).sum();
    Some(Stat { parent, ticks })
}

/// All processes of this machine at one moment.
pub struct Processes {
    stats: HashMap<u32, Stat>,
    children: HashMap<u32, Vec<u32>>,
}

impl Processes {
    /// Looks at all of them.
    ///
    /// # Errors
    /// There is no `/proc`.
    pub fn now() -> Result<Self> {
        let (mut stats, mut children) = (HashMap::new(), HashMap::<u32, Vec<u32>>::new());
        for entry in std::fs::read_dir("/proc").context("cannot read /proc")?.flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some((pid, stat)) = pid.and_then(|pid| Some((pid, stat(pid)?))) {
                children.entry(stat.parent).or_default().push(pid);
                stats.insert(pid, stat);
            }
        }
        Ok(Self { stats, children })
    }

    /// A process and all its descendants.
    fn tree(&self, pid: u32) -> Vec<u32> {
        let mut tree = vec![pid];
        let mut at = 0;
        while let Some(parent) = tree.get(at) {
            let children = self.children.get(parent).map(Vec::as_slice).unwrap_or_default();
            // A process number that is used again must not make a ring.
            let new: Vec<u32> =
                children.iter().filter(|pid| !tree.contains(pid)).copied().collect();
            tree.extend(new);
            at += 1;
        }
        tree
    }

    /// CPU time so far of a process and all its descendants; `None`: there is no such process.
    pub fn cpu_of_tree(&self, pid: u32) -> Option<Duration> {
        self.stats.get(&pid)?;
        let tree = self.tree(pid);
        let ticks = tree.iter().filter_map(|pid| self.stats.get(pid)).map(|stat| stat.ticks);
        Some(TICK * u32::try_from(ticks.sum::<u64>()).unwrap_or(u32::MAX))
    }

    /// Bytes in memory of a process and all its descendants: what each has for itself, and of what they share as much as the
    /// one that uses most of it. Of a process without descendants that is its resident set. `None`: there is no such process.
    pub fn memory_of_tree(&self, pid: u32) -> Option<u64> {
        self.stats.get(&pid)?;
        Some(memory_of(&self.tree(pid)))
    }
}

/// See [`Processes::memory_of_tree`].
fn memory_of(pids: &[u32]) -> u64 {
    let (mut own, mut shared) = (0, 0);
    for pid in pids {
        let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        let (anon, all) = (field(&status, "RssAnon:"), field(&status, "VmRSS:"));
        own += anon;
        shared = all.saturating_sub(anon).max(shared);
    }
    own + shared
}

/// A field of `/proc/PID/status`, in bytes.
fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// CPU time so far of a process and all its descendants.
///
/// # Errors
/// There is no such process.
pub fn of_tree(pid: u32) -> Result<Duration> {
    Processes::now()?.cpu_of_tree(pid).with_context(|| format!("there is no process {pid}"))
}

/// CPU time and memory of this process alone: those of what it has started are not its own.
pub fn own_alone() -> (Duration, u64) {
    let pid = std::process::id();
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = text.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
    // Without `cutime` and `cstime`, which are of children.
    let ticks = fields.split_ascii_whitespace().skip(11).take(2);
    let ticks = ticks.filter_map(|field| field.parse::<u32>().ok()).sum::<u32>();
    (TICK * ticks, memory_of(&[pid]))
}

/// CPU time so far of this process.
pub fn own() -> Duration {
    of_tree(std::process::id()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_shows_as_cpu_time_of_this_process() {
        let before = own();
        let started = std::time::Instant::now();
        let mut n = 0u64;
        while own().saturating_sub(before) < Duration::from_millis(50) {
            n = std::hint::black_box(n.wrapping_mul(31).wrapping_add(7));
            assert!(started.elapsed() < Duration::from_secs(60), "no CPU time was counted");
        }
        assert!(of_tree(u32::MAX).is_err());
        let here = Processes::now().unwrap();
        let pid = std::process::id();
        assert!(
            here.memory_of_tree(pid).unwrap() > 1 << 20 && here.cpu_of_tree(u32::MAX).is_none()
        );
        let (cpu, memory) = own_alone();
        assert!(memory > 1 << 20 && cpu <= own() && cpu >= Duration::from_millis(50));
    }

    #[test]
    fn a_watched_process_is_a_name_and_a_number() {
        let watched: Watched = "redis=42".parse().unwrap();
        assert_eq!(watched, Watched { name: "redis".into(), pid: 42 });
        assert!("redis".parse::<Watched>().is_err());
    }
}
