//! The warden: a small process between the worker and a command, so that nothing of the command escapes.
//!
//! The worker forks the warden, the warden forks the command's main process. As its *subreaper* the warden
//! is the parent of every orphan that the command leaves, whatever session, process group or environment
//! the orphan has made for itself: killing its own children again and again until none is left kills the
//! whole tree, and nothing else. It does so when the worker closes its end of a pipe, which also happens
//! when the worker dies in any way.
//!
//! The warden is a forked copy of a process with threads and never execs, so all of this is made of plain
//! system calls.

use std::io;
use std::os::fd::RawFd;

use libc::{c_int, pid_t};

use super::sys::{self, Fork, Reaped};

/// Worker to warden: ask the command's main process group and all orphans to end.
pub(super) const TERMINATE: u8 = b'T';

/// Bytes of one message from the warden to the worker.
pub(super) const MESSAGE_BYTES: usize = 20;

/// From the warden to the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// The main process has ended, with this wait status.
    MainEnded(i32),
    /// Nobody is left. What all of them used.
    AllEnded {
        /// In user and system mode.
        cpu_us: u64,
        /// The largest resident set that a single process had.
        memory_kib: u64,
    },
}

impl Message {
    fn encode(self) -> [u8; MESSAGE_BYTES] {
        let (status, cpu_us, memory_kib) = match self {
            Self::MainEnded(status) => (status, u64::MAX, u64::MAX),
            Self::AllEnded { cpu_us, memory_kib } => (0, cpu_us, memory_kib),
        };
        let mut bytes = [0; MESSAGE_BYTES];
        bytes[..4].copy_from_slice(&status.to_le_bytes());
        bytes[4..12].copy_from_slice(&cpu_us.to_le_bytes());
        bytes[12..].copy_from_slice(&memory_kib.to_le_bytes());
        bytes
    }

    /// Back from the wire.
    pub(super) fn decode(bytes: &[u8; MESSAGE_BYTES]) -> Self {
        let number = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        match number(4) {
            u64::MAX => {
                Self::MainEnded(i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            }
            cpu_us => Self::AllEnded { cpu_us, memory_kib: number(12) },
        }
    }
}

/// What the fork needs, prepared before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup {
    /// The warden reads orders here, and its end.
    pub(super) orders: RawFd,
    /// The warden writes messages here.
    pub(super) messages: RawFd,
    pub(super) open_files_max: u64,
    pub(super) file_size_max: Option<u64>,
}

/// Runs in the process that the worker forked, just before exec: that process stays behind as the warden
/// and never returns from here; the command's main process does, to exec.
pub(super) fn split(setup: &Setup) -> io::Result<()> {
    sys::new_session();
    sys::process_control(libc::PR_SET_CHILD_SUBREAPER, 1)?;
    sys::process_control(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    let warden = sys::process_id();
    match sys::fork()? {
        Fork::Parent(main) => guard(main, setup),
        Fork::Child => prepare_main(warden, setup),
    }
}

fn prepare_main(warden: pid_t, setup: &Setup) -> io::Result<()> {
    sys::new_session();
    sys::process_control(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)?;
    if sys::parent_id() != warden {
        // The warden died before the line above could count.
        sys::exit(1);
    }
    sys::limit(libc::RLIMIT_CORE, 0)?;
    sys::limit(libc::RLIMIT_NOFILE, setup.open_files_max)?;
    if let Some(max) = setup.file_size_max {
        sys::limit(libc::RLIMIT_FSIZE, max)?;
    }
    let score = sys::open(c"/proc/self/oom_score_adj", libc::O_WRONLY);
    if score >= 0 {
        sys::write(score, OOM_SCORE);
        sys::close(score);
    }
    sys::close_on_exec_from(3);
    Ok(())
}

const ORDERS: RawFd = 0;
const MESSAGES: RawFd = 1;
/// While killing, children are looked for this often, for those whose end is not signalled.
const KILL_EVERY_MS: c_int = 10;
/// Between the kernel's first choice when memory runs out (1000) and an ordinary process (0): a command goes
/// before the worker does.
const OOM_SCORE: &[u8] = b"500";

/// The warden's life: collects whoever ends, obeys orders, ends when nobody is left.
fn guard(main: pid_t, setup: &Setup) -> ! {
    sys::block_signals();
    sys::set_name(c"windlass-warden");
    // Keeps nothing of the worker's: not its sockets, and not the other ends of these pipes, whose closing
    // by the worker must be seen.
    sys::duplicate(setup.orders, ORDERS);
    sys::duplicate(setup.messages, MESSAGES);
    sys::close_from(2);
    sys::set_nonblocking(ORDERS);
    let ended = sys::child_signals();
    let mut flock = Flock { main, main_ended: false, main_collected: false };
    let mut killing = false;
    loop {
        flock.collect();
        if killing {
            flock.signal(libc::SIGKILL);
        }
        let orders = if killing { -1 } else { ORDERS };
        sys::wait_readable(orders, ended, if killing { KILL_EVERY_MS } else { -1 });
        let mut signals = [0; 512];
        while sys::read(ended, &mut signals) > 0 {}
        let mut order = [0];
        match sys::read(ORDERS, &mut order) {
            0 => killing = true,
            1 if order[0] == TERMINATE => {
                flock.signal(libc::SIGTERM);
                // One that is stopped would not hear it.
                flock.signal(libc::SIGCONT);
            }
            _ => {}
        }
    }
}

/// The main process and all orphans: the warden's children.
struct Flock {
    main: pid_t,
    main_ended: bool,
    main_collected: bool,
}

impl Flock {
    /// Collects all who have ended; ends the warden if nobody is left. The main process is collected last:
    /// as long as it is not, nobody else can have its number, and its group can be signalled.
    fn collect(&mut self) {
        if !self.main_ended
            && let Some(status) = sys::end_of(self.main)
        {
            self.main_ended = true;
            sys::write(MESSAGES, &Message::MainEnded(status).encode());
        }
        let mut others = 0;
        let listed = for_each_child(|pid| {
            if pid != self.main && sys::reap(pid) == Reaped::NotYet {
                others += 1;
            }
        });
        // The list may miss a child while others end. Then collecting the main process finds it, below.
        if self.main_ended && !self.main_collected && (others == 0 || !listed) {
            self.main_collected = sys::reap(self.main) == Reaped::Collected;
        }
        if self.main_collected {
            self.finish();
        }
    }

    /// Ends the warden if nobody is left.
    fn finish(&self) {
        loop {
            match sys::reap(sys::ANY) {
                Reaped::Collected => {}
                Reaped::NotYet => return,
                Reaped::NoChildren => {
                    let (cpu_us, memory_kib) = sys::children_usage();
                    sys::write(MESSAGES, &Message::AllEnded { cpu_us, memory_kib }.encode());
                    sys::exit(0);
                }
            }
        }
    }

    /// Signals the main process's group, at one go whatever it forks, and every child. Killed children leave
    /// theirs to the warden, which finds them the next time.
    fn signal(&self, signal: c_int) {
        if !self.main_collected {
            sys::signal(-self.main, signal);
        }
        for_each_child(|pid| sys::signal(pid, signal));
    }
}

/// Whether the kernel lists children.
fn for_each_child(mut each: impl FnMut(pid_t)) -> bool {
    let list = sys::open(c"/proc/thread-self/children", libc::O_RDONLY);
    if list < 0 {
        return false;
    }
    let mut buffer = [0; 4096];
    let mut pid: pid_t = 0;
    loop {
        let read = sys::read(list, &mut buffer);
        let Ok(read @ 1..) = usize::try_from(read) else { break };
        for byte in buffer.iter().take(read) {
            match byte {
                b'0'..=b'9' => pid = pid.wrapping_mul(10).wrapping_add(pid_t::from(byte - b'0')),
                _ if pid > 1 => {
                    each(pid);
                    pid = 0;
                }
                _ => pid = 0,
            }
        }
    }
    sys::close(list);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        for message in [
            Message::MainEnded(-9),
            Message::MainEnded(0),
            Message::AllEnded { cpu_us: 7, memory_kib: 1 << 40 },
            Message::AllEnded { cpu_us: 0, memory_kib: 0 },
        ] {
            assert_eq!(Message::decode(&message.encode()), message);
        }
    }
}
