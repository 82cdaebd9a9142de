//! What a process tree is and holds at an instant.

use std::fs;

/// Most processes that are looked at; a tree with more is seen in part.
const PROCESSES_MAX: usize = 4_096;

/// A process tree, without its root.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) processes: usize,
    /// Of all together. Memory that they share is counted for each.
    pub(super) resident_bytes: u64,
    /// The most that one of them has had since it began.
    pub(super) peak_bytes: u64,
}

/// Looks at all descendants of a process. One that ends meanwhile counts as far as it was seen.
pub(super) fn look(root: u32) -> Tree {
    let mut open = children(root);
    let mut tree = Tree::default();
    while let Some(pid) = open.pop()
        && tree.processes < PROCESSES_MAX
    {
        tree.processes += 1;
        let (resident, peak) = memory(pid);
        tree.resident_bytes += resident;
        tree.peak_bytes = tree.peak_bytes.max(peak);
        open.extend(children(pid));
    }
    tree
}

/// The children of all threads. A process that has ended has none.
fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    threads
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok())
        .flat_map(|list| {
            list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

/// Resident bytes, now and at most. A process that has ended has none.
fn memory(pid: u32) -> (u64, u64) {
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/status")) else { return (0, 0) };
    (field(&text, "VmRSS:"), field(&text, "VmHWM:"))
}

/// The most resident bytes that this process has had since it began.
pub(super) fn own_peak_bytes() -> u64 {
    memory(std::process::id()).1
}

fn field(status: &str, name: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = value.and_then(|value| value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t1\n";
        assert_eq!((field(status, "VmRSS:"), field(status, "VmHWM:")), (1 << 20, 2 << 20));
        assert_eq!(field(status, "VmSwap:"), 0);
        assert!(own_peak_bytes() > 1 << 20);
    }
}
