//! The client's log: what was asked for, what was answered, and what the rig did to the fleet, with times.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::stamp::Stamp;

/// One line. Every operation has an `Invoke`, and one of the other phases after it, unless the client was stopped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The operation; its events share it.
    pub op: u64,
    /// What happened.
    pub phase: Phase,
    /// When.
    pub at: Stamp,
    /// What was asked for; repeated with the answer.
    pub call: Call,
    /// What was answered, if anything was.
    #[serde(default)]
    pub reply: Option<Reply>,
}

/// Jepsen's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// About to be sent.
    Invoke,
    /// Done, and answered so.
    Ok,
    /// Refused for good: it did not happen.
    Fail,
    /// It may have happened.
    Unknown,
    /// Not a call: something that the rig did.
    Note,
}

/// What was asked for, or done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub enum Call {
    /// `POST /v1/jobs`, or `/v1/workflows` when `steps` is not 0.
    Submit {
        /// Its idempotency key, which is also a tag of the job or run.
        key: String,
        /// Digest of the body.
        body: String,
        /// Where it waits.
        queue: String,
        /// The handler.
        kind: String,
        /// Attempts that are to fail before one succeeds.
        fails: u32,
        /// The state that it is to end in; of several, with `|` between them, one.
        #[serde(default = "succeeded")]
        ends: String,
        /// Not before this long after acceptance, in ms; 0: at once.
        delay_ms: u64,
        /// Steps of a run; 0: a job.
        steps: u32,
    },
    /// `POST /v1/queues/{queue}/pause`.
    Pause {
        /// Which.
        queue: String,
    },
    /// `POST /v1/queues/{queue}/resume`.
    Resume {
        /// Which.
        queue: String,
    },
    /// `GET /v1/jobs/{id}`.
    Poll {
        /// Which.
        id: String,
    },
    /// Something that the rig did.
    Fault(Fault),
}

fn succeeded() -> String {
    "succeeded".into()
}

/// What the rig did to the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// A process was killed (SIGKILL).
    Killed {
        /// Its name; a worker's is that in the effect log.
        process: String,
    },
    /// A process was stopped (SIGSTOP).
    Frozen {
        /// Its name.
        process: String,
    },
    /// It was continued.
    Thawed {
        /// Its name.
        process: String,
    },
    /// A process was started in place of a killed one.
    Started {
        /// Its name.
        process: String,
    },
    /// A worker and Redis, or the ledger, could not reach each other from here on.
    CutOff {
        /// The worker, or `*`.
        process: String,
    },
    /// What Redis had acknowledged is gone, or may be.
    EngineLost {
        /// How.
        how: String,
    },
    /// The wall clock of a process's host was moved.
    ClockMoved {
        /// Its place in the fleet: `redis`, `api-0`.
        process: String,
        /// From here on it shows true time plus this.
        offset_ms: i64,
    },
    /// A mark of the experiment: `fault`, `heal`, `drained`.
    Mark {
        /// Which.
        name: String,
    },
}

/// What was answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// HTTP status; 0: no answer.
    pub status: u16,
    /// The stable code of a refusal, or the error of the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Of the job or the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The state shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// `run_at` of the job, in µs since 1970 (of whole milliseconds).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at_us: Option<i64>,
    /// Whether a pause reached the engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<bool>,
}

/// Writes a history. Cheap calls from many tasks: a line is put into a buffer.
#[derive(Debug)]
pub struct Recorder {
    file: Mutex<BufWriter<File>>,
    next: AtomicU64,
}

impl Recorder {
    /// A new file.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        Ok(Self { file: Mutex::new(BufWriter::new(file)), next: AtomicU64::new(1) })
    }

    /// Notes that a call is about to be sent; the number of its operation.
    pub fn invoke(&self, call: &Call) -> u64 {
        let op = self.next.fetch_add(1, Ordering::Relaxed);
        self.write(&Event {
            op,
            phase: Phase::Invoke,
            at: Stamp::now(),
            call: call.clone(),
            reply: None,
        });
        op
    }

    /// Notes what was answered.
    pub fn complete(&self, op: u64, phase: Phase, call: Call, reply: Reply) {
        self.write(&Event { op, phase, at: Stamp::now(), call, reply: Some(reply) });
    }

    /// Notes something that the rig does; its instant.
    pub fn fault(&self, fault: Fault) -> Stamp {
        let op = self.next.fetch_add(1, Ordering::Relaxed);
        let at = Stamp::now();
        self.write(&Event { op, phase: Phase::Note, at, call: Call::Fault(fault), reply: None });
        at
    }

    /// Notes a mark of the experiment; its instant.
    pub fn mark(&self, name: &str) -> Stamp {
        self.fault(Fault::Mark { name: name.to_owned() })
    }

    /// Puts what is buffered into the file.
    ///
    /// # Errors
    /// The disk is full, or the like: the evidence is not whole.
    pub fn flush(&self) -> std::io::Result<()> {
        self.file.lock().expect("nobody panics while holding it").flush()
    }

    fn write(&self, event: &Event) {
        let mut line = serde_json::to_vec(event).expect("an event is JSON");
        line.push(b'\n');
        let mut file = self.file.lock().expect("nobody panics while holding it");
        // A full disk shows at the next flush, which reports it: the buffer keeps the error's bytes.
        let _ = file.write_all(&line);
    }
}

/// Reads a history.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> anyhow::Result<Vec<Event>> {
    crate::effects::read_lines(path)
}
