//! Other processes, by number: what `/proc` says of them, and signals.

use std::io;

/// A signal of the tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Continue,
}

/// Sends a signal. `NotFound` when there is no such process.
#[expect(unsafe_code, reason = "the standard library sends no signals to processes by number")]
pub fn send(pid: u32, signal: Signal) -> io::Result<()> {
    let number = match signal {
        Signal::Stop => libc::SIGSTOP,
        Signal::Continue => libc::SIGCONT,
    };
    // Zero and negative numbers would name whole groups of processes.
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: kill takes two numbers and touches no memory of this process.
    if unsafe { libc::kill(pid, number) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    let is_gone = error.raw_os_error() == Some(libc::ESRCH);
    Err(if is_gone { io::ErrorKind::NotFound.into() } else { error })
}

/// What `/proc/PID/stat` says behind the name of the program; `None` when the process is gone.
fn stat(pid: u32) -> io::Result<Option<Vec<String>>> {
    let text = match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        Err(error) => return Err(error),
    };
    // The name may hold blanks and brackets.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    Ok(Some(rest.split_whitespace().map(str::to_owned).collect()))
}

/// The letter of a process's state (`R`, `S`, `D`, `T`, `Z`); `None` when it is gone.
pub fn state_of(pid: u32) -> io::Result<Option<char>> {
    Ok(stat(pid)?.and_then(|fields| fields.first()?.chars().next()))
}

/// When a process started, in ticks since boot: with its number it names it for ever.
pub fn start_of(pid: u32) -> io::Result<Option<u64>> {
    Ok(stat(pid)?.and_then(|fields| fields.get(19)?.parse().ok()))
}

/// The children of these processes, each once.
pub fn children_of(parents: &[u32]) -> io::Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let parent = stat(pid)?.and_then(|fields| fields.get(1)?.parse().ok());
        if parent.is_some_and(|parent| parents.contains(&parent)) {
            children.push(pid);
        }
    }
    Ok(children)
}
