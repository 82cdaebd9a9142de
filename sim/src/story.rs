//! What happened in a world, as the checker wants it.

use std::collections::BTreeMap;

use windlass_shared::engine::ClaimReply;
use windlass_shared::model::id::{JobId, WorkflowId};
use windlass_worker::context::Context;

use crate::below;
use crate::world::Who;

/// Broken promises that are told; the first ones matter.
const BROKEN_MAX: usize = 20;

/// A line by line account, kept as a hash.
pub struct Trace {
    hash: u64,
    print: bool,
    /// Lines so far.
    pub lines: u64,
}

impl Trace {
    /// An empty one; `print`: every line goes to standard output as well.
    pub const fn new(print: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, print, lines: 0 }
    }

    /// Adds a line.
    pub fn note(&mut self, line: std::fmt::Arguments<'_>) {
        let ns = below::now_ns();
        let line = format!("{:>10}.{:06} {line}", ns / 1_000_000, ns % 1_000_000);
        for byte in line.bytes() {
            // FNV-1a
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.lines += 1;
        if self.print {
            println!("{line}");
        }
    }

    /// Of all lines so far.
    pub const fn hash(&self) -> u64 {
        self.hash
    }
}

/// A lease that the engine gave.
#[derive(Debug, Clone, Copy)]
pub struct Lease {
    /// When, in ns of the world.
    pub at: u64,
}

/// One run of a handler.
#[derive(Debug, Clone)]
pub struct Effect {
    /// The job.
    pub job: JobId,
    /// The lease's number.
    pub fence: u64,
    /// Who runs it.
    pub who: Who,
    /// Of which engine at its start.
    pub generation: u32,
    /// When, in ns of the world.
    pub from: u64,
    /// Its end, by itself or by force; `None`: its process was killed, or it is not over.
    pub to: Option<u64>,
}

/// What a fault may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// Leases.
    Leases,
    /// The engine lost something: no leases, as long as nothing else goes wrong.
    Engine,
    /// Time.
    Time,
}

/// Something that went wrong.
#[derive(Debug, Clone, Copy)]
pub struct Trouble {
    /// Begin, in ns of the world.
    pub from: u64,
    /// End.
    pub to: u64,
    /// With whom; `None`: with everybody.
    pub whose: Option<Who>,
    /// How much.
    pub cost: Cost,
}

impl Trouble {
    /// Whether it lasted into a span of time, both ends included.
    pub const fn meets(&self, from: u64, to: u64) -> bool {
        self.from <= to && self.to >= from
    }
}

/// A queue that was paused.
#[derive(Debug, Clone, Copy)]
pub struct Pause {
    /// Which of the world's queues.
    pub queue: usize,
    /// Nothing may start from here ...
    pub from: u64,
    /// ... until here.
    pub to: Option<u64>,
}

/// What happened.
pub struct Story {
    /// Line by line.
    pub trace: Trace,
    /// Jobs that were accepted, by the place of their order, in the order's order.
    pub accepted: BTreeMap<usize, Vec<JobId>>,
    /// Runs that were accepted, by the place of their order.
    pub runs: BTreeMap<usize, WorkflowId>,
    /// Cancelled before they began, and when the submitter knew.
    pub cancelled: BTreeMap<JobId, u64>,
    /// Pauses that were answered.
    pub pauses: Vec<Pause>,
    /// Leases by job and fence.
    pub leases: BTreeMap<(JobId, u64), Lease>,
    /// Runs of handlers.
    pub effects: Vec<Effect>,
    /// Handlers that run now, with their place in `effects`.
    pub running: BTreeMap<JobId, Vec<(usize, Context)>>,
    /// Orders that are done, by place and process.
    pub done: BTreeMap<(usize, Who), ()>,
    /// What went wrong.
    pub troubles: Vec<Trouble>,
    /// Broken promises.
    pub broken: Vec<String>,
}

impl Story {
    /// Nothing has happened.
    pub const fn new(print: bool) -> Self {
        Self {
            trace: Trace::new(print),
            accepted: BTreeMap::new(),
            runs: BTreeMap::new(),
            cancelled: BTreeMap::new(),
            pauses: Vec::new(),
            leases: BTreeMap::new(),
            effects: Vec::new(),
            running: BTreeMap::new(),
            done: BTreeMap::new(),
            troubles: Vec::new(),
            broken: Vec::new(),
        }
    }

    /// Notes a broken promise.
    pub fn broken(&mut self, what: String) {
        self.trace.note(format_args!("BROKEN: {what}"));
        if self.broken.len() < BROKEN_MAX {
            self.broken.push(what);
        }
    }

    /// Notes that a handler begins; its place. `engine_us`: engine time now.
    pub fn begins(&mut self, effect: Effect, context: Context, engine_us: i64) -> usize {
        self.trace.note(format_args!(
            "{:?} begins {} with {}, attempt {}",
            effect.who,
            effect.job,
            effect.fence,
            context.attempt()
        ));
        let rivals = self.running.get(&effect.job).cloned().unwrap_or_default();
        for (place, rival) in rivals {
            let other = &self.effects[place];
            let holds = rival.lease_expires_at().micros() > engine_us;
            if other.generation == effect.generation && holds {
                let (a, b) = (other.who, effect.who);
                self.broken(format!("{} has two holders at once: {a:?} and {b:?}", effect.job));
            }
        }
        let place = self.effects.len();
        self.running.entry(effect.job).or_default().push((place, context));
        self.effects.push(effect);
        place
    }

    /// Notes that a handler is over, by itself or by force.
    pub fn ends(&mut self, place: usize) {
        let effect = &mut self.effects[place];
        effect.to = Some(below::now_ns());
        let job = effect.job;
        self.trace.note(format_args!("{:?} is through with {job}", self.effects[place].who));
        if let Some(running) = self.running.get_mut(&job) {
            running.retain(|(other, _)| *other != place);
        }
    }

    /// Notes leases as the engine gives them.
    pub fn leased(&mut self, who: Who, reply: &ClaimReply) {
        for job in &reply.jobs {
            self.trace.note(format_args!("{who:?} leases {} with {}", job.id, job.fence));
            let lease = Lease { at: below::now_ns() };
            if self.leases.insert((job.id, job.fence.0), lease).is_some() {
                self.broken(format!("{} was leased twice with fence {}", job.id, job.fence));
            }
        }
    }
}
