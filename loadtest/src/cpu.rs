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

/// CPU time so far of a process and all its descendants.
///
/// # Errors
/// There is no such process.
pub fn of_tree(pid: u32) -> Result<Duration> {
    let ticks = tree(pid)?.iter().map(|(_, stat)| stat.ticks).sum::<u64>();
    Ok(TICK * u32::try_from(ticks).unwrap_or(u32::MAX))
}

/// A process and all its descendants that there are.
fn tree(pid: u32) -> Result<Vec<(u32, Stat)>> {
    let root = stat(pid).with_context(|| format!("there is no process {pid}"))?;
    let mut children: HashMap<u32, Vec<(u32, Stat)>> = HashMap::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(stat) = stat(pid) {
            children.entry(stat.parent).or_default().push((pid, stat));
        }
    }
    let mut tree = vec![(pid, root)];
    let mut at = 0;
    while let Some((parent, _)) = tree.get(at) {
        // Removed, so that a process number that is used again cannot make a ring.
        tree.extend(children.remove(parent).unwrap_or_default());
        at += 1;
    }
    Ok(tree)
}

/// Bytes in memory of a process and all its descendants: what each has for itself, and of what they share as much as the one that
/// uses most of it. Of a process without descendants that is its resident set.
///
/// # Errors
/// There is no such process.
pub fn memory_of_tree(pid: u32) -> Result<u64> {
    let (mut own, mut shared) = (0, 0);
    for (pid, _) in tree(pid)? {
        let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        let (anon, all) = (field(&status, "RssAnon:"), field(&status, "VmRSS:"));
        own += anon;
        shared = all.saturating_sub(anon).max(shared);
    }
    Ok(own + shared)
}

/// A field of `/proc/PID/status`, in bytes.
fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
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
        assert!(memory_of_tree(std::process::id()).unwrap() > 1 << 20);
    }

    #[test]
    fn a_watched_process_is_a_name_and_a_number() {
        let watched: Watched = "redis=42".parse().unwrap();
        assert_eq!(watched, Watched { name: "redis".into(), pid: 42 });
        assert!("redis".parse::<Watched>().is_err());
    }
}
