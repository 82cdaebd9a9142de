//! How much memory a process tree holds.

use std::fs;

use super::sys;

/// Most processes that are looked at; a tree with more is counted in part.
const PROCESSES_MAX: usize = 4_096;

/// Resident bytes of all descendants of a process. Memory that they share is counted for each.
pub(super) fn resident_bytes(root: u32) -> u64 {
    let mut open = children(root);
    let (mut seen, mut pages) = (0, 0);
    while let Some(pid) = open.pop() {
        seen += 1;
        if seen > PROCESSES_MAX {
            break;
        }
        pages += resident_pages(pid);
        open.extend(children(pid));
    }
    pages * sys::page_size()
}

/// A process that has ended has none.
fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    threads
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

fn resident_pages(pid: u32) -> u64 {
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/statm")) else { return 0 };
    text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0)
}
