//! One run of a command: start it under its warden, follow it to the end of its last process.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::pin::pin;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use bytes::BytesMut;
use futures::FutureExt;
use futures::future::FusedFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::capture::Capture;
use super::tree::{self, Tree};
use super::warden::{self, MESSAGE_BYTES, Message, Setup};

/// Between asking a command to end and killing it.
const TERMINATE_GRACE: Duration = Duration::from_secs(2);
/// For all processes to be gone after they were killed; only one that hangs in the kernel takes longer.
const KILL_TIME_MAX: Duration = Duration::from_secs(10);
/// For the streams to end after all processes have: somebody else may have been handed their other ends.
const STREAMS_TIME_MAX: Duration = Duration::from_secs(2);
/// The tree is looked at this often, but for its first moments: short commands are to be seen as well.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// The first look, after the start; each further one takes twice as long.
const SAMPLE_FIRST: Duration = Duration::from_millis(3);

/// What to run.
pub(super) struct Launch {
    /// Program, arguments, environment and folder.
    pub(super) command: Command,
    pub(super) stdin: Option<String>,
    pub(super) output_max: usize,
    pub(super) open_files_max: u64,
    pub(super) file_size_max: Option<u64>,
    pub(super) memory_max: Option<u64>,
    pub(super) processes_max: usize,
    pub(super) timeout: Option<Duration>,
}

/// Why a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// By itself, or killed by somebody.
    Ended(ExitStatus),
    /// Over this limit.
    TimedOut(Duration),
    /// It held this many bytes.
    TooMuchMemory(u64),
    /// It had this many.
    TooManyProcesses(usize),
    /// The token fired.
    Cancelled,
    /// Its warden was killed, so nothing is known of it.
    Unknown,
}

/// What became of a command. None of its processes is left.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) why: Why,
    pub(super) stdout: Capture,
    pub(super) stderr: Capture,
    pub(super) cpu: Duration,
    /// `None` of a command that ended before it could be looked at.
    pub(super) memory_peak_bytes: Option<u64>,
}

/// The warden, and with it the command. Dropping it kills the command's whole tree.
struct Running {
    /// Closed to have everybody killed.
    orders: Option<Sender>,
    messages: Receiver,
    child: Option<Child>,
    memory_peak_bytes: u64,
    cpu: Duration,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(mut child) = self.child.take()
            && !matches!(child.try_wait(), Ok(Some(_)))
        {
            // The warden ends when it has killed the rest; somebody must collect it, and must not block here.
            std::thread::spawn(move || child.wait());
        }
    }
}

/// Runs a command to the end of its last process: what it has left behind when it ends is killed. When
/// dropped, its whole process tree is killed; when the token fires or a limit is passed, it is ended, at the
/// latest after the grace.
///
/// # Errors
/// When it cannot be started.
pub(super) async fn run(launch: Launch, token: &CancellationToken) -> io::Result<Finished> {
    let (stdin, output_max) = (launch.stdin, launch.output_max);
    let limits = Limits {
        timeout: launch.timeout,
        memory_max: launch.memory_max.unwrap_or(u64::MAX),
        processes_max: launch.processes_max,
    };
    let start = Start {
        command: launch.command,
        with_stdin: stdin.is_some(),
        open_files_max: launch.open_files_max,
        file_size_max: launch.file_size_max,
    };
    // Copying a large worker's page tables takes a while.
    let (mut running, streams) =
        tokio::task::spawn_blocking(move || start.start()).await.map_err(io::Error::other)??;
    let (mut out, mut err) = (Capture::new(output_max), Capture::new(output_max));
    let why;
    {
        let feeding = feed(streams.stdin, stdin);
        let mut streaming = pin!(
            async {
                tokio::join!(
                    feeding,
                    drain(streams.stdout, &mut out),
                    drain(streams.stderr, &mut err)
                )
            }
            .fuse()
        );
        let mut following = pin!(running.follow(&limits, token));
        why = loop {
            tokio::select! {
                why = &mut following => break why,
                _ = &mut streaming, if !streaming.is_terminated() => {}
            }
        };
        if !streaming.is_terminated() {
            // What has come so far is kept if they do not end.
            let _ = tokio::time::timeout(STREAMS_TIME_MAX, streaming).await;
        }
    }
    let (cpu, peak) = (running.cpu, running.memory_peak_bytes);
    let memory_peak_bytes = (peak > 0).then_some(peak);
    Ok(Finished { why, stdout: out, stderr: err, cpu, memory_peak_bytes })
}

struct Limits {
    timeout: Option<Duration>,
    memory_max: u64,
    processes_max: usize,
}

struct Start {
    command: Command,
    with_stdin: bool,
    open_files_max: u64,
    file_size_max: Option<u64>,
}

struct Streams {
    stdin: Option<ChildStdin>,
    stdout: Receiver,
    stderr: Receiver,
}

impl Start {
    #[expect(unsafe_code, reason = "the warden is made between fork and exec")]
    fn start(mut self) -> io::Result<(Running, Streams)> {
        let (orders_end, orders) = io::pipe()?;
        let (messages, messages_end) = io::pipe()?;
        let setup = Setup {
            orders: orders_end.as_raw_fd(),
            messages: messages_end.as_raw_fd(),
            open_files_max: self.open_files_max,
            file_size_max: self.file_size_max,
        };
        self.command
            .stdin(if self.with_stdin { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // SAFETY: `split` only makes system calls; it neither allocates, nor locks, nor panics.
        unsafe { self.command.pre_exec(move || warden::split(&setup)) };
        let mut child = self.command.spawn()?;
        let piped = "the stream was asked for";
        let stdout = OwnedFd::from(child.stdout.take().expect(piped));
        let stderr = OwnedFd::from(child.stderr.take().expect(piped));
        let streams = Streams {
            stdin: child.stdin.take(),
            stdout: Receiver::from_owned_fd(stdout)?,
            stderr: Receiver::from_owned_fd(stderr)?,
        };
        let mut running = Running {
            orders: Some(Sender::from_owned_fd(orders.into())?),
            messages: Receiver::from_owned_fd(messages.into())?,
            child: Some(child),
            memory_peak_bytes: 0,
            cpu: Duration::ZERO,
        };
        // At once: a short command may be over when somebody else comes to it.
        running.look();
        Ok((running, streams))
    }
}

impl Running {
    /// Follows the command to its end and the end of everything that it left, and collects the warden.
    async fn follow(&mut self, limits: &Limits, token: &CancellationToken) -> Why {
        let why = self.main_end(limits, token).await;
        match why {
            Why::TimedOut(_) | Why::Cancelled => self.terminate().await,
            // Nobody is left to ask, or there is no time to lose.
            Why::Ended(_) | Why::TooMuchMemory(_) | Why::TooManyProcesses(_) | Why::Unknown => {}
        }
        // Whoever is left is killed: an end is the end of all.
        self.orders = None;
        if tokio::time::timeout(KILL_TIME_MAX, self.all_end()).await.is_err() {
            tracing::error!(
                "processes of a command hang in the kernel; they are killed as soon as they don't"
            );
            return why;
        }
        if let Some(mut child) = self.child.take() {
            // It has closed its pipe, which it does by ending.
            let _ = tokio::task::spawn_blocking(move || child.wait()).await;
        }
        why
    }

    /// Waits for the main process's end, or a reason to bring it about.
    async fn main_end(&mut self, limits: &Limits, token: &CancellationToken) -> Why {
        let deadline = limits.timeout.map(|timeout| (Instant::now() + timeout, timeout));
        let mut pause = SAMPLE_FIRST;
        let mut sample_at = Instant::now();
        let mut inbox = Inbox::default();
        loop {
            tokio::select! {
                biased;
                message = inbox.next(&mut self.messages) => return match message {
                    Some(Message::MainEnded(status)) => Why::Ended(ExitStatus::from_raw(status)),
                    Some(Message::AllEnded { .. }) | None => Why::Unknown,
                },
                () = token.cancelled() => return Why::Cancelled,
                limit = passed(deadline) => return Why::TimedOut(limit),
                () = tokio::time::sleep_until(sample_at) => {}
            }
            let tree = self.look();
            if tree.resident_bytes > limits.memory_max {
                return Why::TooMuchMemory(tree.resident_bytes);
            }
            if tree.processes > limits.processes_max {
                return Why::TooManyProcesses(tree.processes);
            }
            sample_at = Instant::now() + pause;
            pause = (pause * 2).min(SAMPLE_EVERY);
        }
    }

    fn look(&mut self) -> Tree {
        let tree = self.child.as_ref().map_or_else(Tree::default, |warden| tree::look(warden.id()));
        self.memory_peak_bytes =
            self.memory_peak_bytes.max(tree.resident_bytes).max(tree.peak_bytes);
        tree
    }

    /// Asks the command to end and gives it some time.
    async fn terminate(&mut self) {
        if let Some(orders) = &mut self.orders {
            // Fails if the warden is gone; then there is nobody to ask.
            let _ = orders.write_all(&[warden::TERMINATE]).await;
        }
        let mut inbox = Inbox::default();
        let _ = tokio::time::timeout(TERMINATE_GRACE, inbox.next(&mut self.messages)).await;
    }

    async fn all_end(&mut self) {
        let mut inbox = Inbox::default();
        while let Some(message) = inbox.next(&mut self.messages).await {
            if let Message::AllEnded { cpu_us, memory_kib } = message {
                self.cpu = Duration::from_micros(cpu_us);
                let bytes = memory_kib << 10;
                // What the worker held at the fork counts in it: only more than that is the command's.
                if bytes > tree::own_peak_bytes() {
                    self.memory_peak_bytes = self.memory_peak_bytes.max(bytes);
                }
            }
        }
    }
}

/// Reads messages; what was read of one survives being dropped in a `select!`.
#[derive(Default)]
struct Inbox {
    buffer: BytesMut,
}

impl Inbox {
    /// `None`: the warden is gone.
    async fn next(&mut self, messages: &mut Receiver) -> Option<Message> {
        loop {
            if let Some(bytes) = self.buffer.first_chunk::<MESSAGE_BYTES>() {
                let message = Message::decode(bytes);
                drop(self.buffer.split_to(MESSAGE_BYTES));
                return Some(message);
            }
            // Never more than one message: the next reader starts with an empty buffer.
            let mut part = [0; MESSAGE_BYTES];
            let missing = MESSAGE_BYTES - self.buffer.len();
            match messages.read(&mut part[..missing]).await {
                Ok(read @ 1..) => self.buffer.extend_from_slice(&part[..read]),
                Ok(0) | Err(_) => return None,
            }
        }
    }
}

/// Waits for the deadline, and gives back the limit that it stands for.
async fn passed(deadline: Option<(Instant, Duration)>) -> Duration {
    match deadline {
        Some((deadline, limit)) => {
            tokio::time::sleep_until(deadline).await;
            limit
        }
        None => std::future::pending().await,
    }
}

/// Writes the standard input and closes it. A command need not read it.
async fn feed(stdin: Option<ChildStdin>, text: Option<String>) {
    if let (Some(stdin), Some(text)) = (stdin, text)
        && let Ok(mut stdin) = Sender::from_owned_fd(OwnedFd::from(stdin))
    {
        let _ = stdin.write_all(text.as_bytes()).await;
    }
}

/// Reads a stream to its end, keeping what fits: a command never waits for us.
async fn drain(mut stream: Receiver, capture: &mut Capture) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        capture.push(&buffer[..read]);
    }
}
