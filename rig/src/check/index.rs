//! The evidence, put in order.

use std::collections::{BTreeMap, HashMap};

use super::Evidence;
use crate::effects::{Effect, End, Phase as EffectPhase};
use crate::history::{Call, Event, Fault, Phase, Reply};
use crate::stamp::Stamp;

/// The places whose clocks are engine time: that of Redis, or of a `dev`, which has its engine in itself.
const ENGINES: [&str; 2] = ["redis", "dev"];
/// A move is on record within this time after it was made.
const MOVE_NOTED_US: i64 = 100_000;

/// One execution of a handler.
#[derive(Debug, Clone)]
pub struct Execution {
    /// The job.
    pub job: String,
    /// The lease; also the claim's instant in µs of engine time.
    pub fence: u64,
    /// Who.
    pub worker: String,
    /// The handler.
    pub kind: String,
    /// Where the job waited.
    pub queue: String,
    /// The run and the step.
    pub step: Option<(String, String)>,
    /// When the handler was called.
    pub started: Stamp,
    /// When and how it ended; `None`: its worker was killed.
    pub end: Option<(Stamp, End)>,
}

/// What became of one key.
#[derive(Debug, Default)]
pub(super) struct Key<'a> {
    /// Every try: its body, whether it is a run, and the answer.
    pub(super) tries: Vec<Try<'a>>,
    pub(super) fails: u32,
    pub(super) steps: u32,
    /// The state that it is to end in.
    pub(super) ends: &'a str,
    /// How long it is to wait after acceptance.
    pub(super) delay_ms: u64,
    /// When it was sent first.
    pub(super) asked: Option<Stamp>,
}

#[derive(Debug)]
pub(super) struct Try<'a> {
    /// When it was answered, or sent if it never was.
    pub(super) at: Stamp,
    pub(super) body: &'a str,
    pub(super) phase: Phase,
    pub(super) reply: Option<&'a Reply>,
}

impl Key<'_> {
    pub(super) fn oks(&self) -> impl Iterator<Item = &Try<'_>> {
        self.tries.iter().filter(|t| t.phase == Phase::Ok)
    }
    pub(super) fn is_accepted(&self) -> bool {
        self.oks().next().is_some()
    }
    pub(super) fn is_open(&self) -> bool {
        !self.is_accepted() && self.tries.iter().any(|t| t.phase == Phase::Unknown)
    }
}

/// A time in which something held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: Stamp,
    pub(super) to: Option<Stamp>,
}

/// The evidence by key, job and worker.
#[derive(Debug)]
pub struct Index<'a> {
    /// The evidence itself.
    pub(super) evidence: &'a Evidence,
    /// Submissions by key.
    pub(super) keys: BTreeMap<&'a str, Key<'a>>,
    /// The key of an accepted job or run.
    pub(super) key_of: HashMap<&'a str, &'a str>,
    /// All executions, by start.
    pub executions: Vec<Execution>,
    /// Places in [`Self::executions`] by job, by fence and start.
    pub(super) by_job: HashMap<&'a str, Vec<usize>>,
    /// When workers were killed.
    pub(super) killed: HashMap<&'a str, Stamp>,
    /// When workers stood still.
    pub(super) frozen: HashMap<&'a str, Vec<Span>>,
    /// From when on workers could not reach the engine; `*` is all of them.
    pub(super) cut_off: HashMap<&'a str, Vec<Stamp>>,
    /// When Redis lost something.
    pub(super) engine_lost: Vec<Stamp>,
    /// From when on the engine's clock was off by how many ms.
    pub(super) engine_moves: Vec<(Stamp, i64)>,
    /// Pauses that were promised: from the answer to the next call to resume.
    pub(super) paused: HashMap<&'a str, Vec<Span>>,
}

impl<'a> Index<'a> {
    /// Puts the evidence in order.
    pub fn new(evidence: &'a Evidence) -> Self {
        let executions = executions(&evidence.effects);
        let mut index = Self {
            evidence,
            keys: BTreeMap::new(),
            key_of: HashMap::new(),
            by_job: HashMap::new(),
            executions,
            killed: HashMap::new(),
            frozen: HashMap::new(),
            cut_off: HashMap::new(),
            engine_lost: Vec::new(),
            engine_moves: Vec::new(),
            paused: HashMap::new(),
        };
        let by_id: HashMap<&str, &'a str> =
            evidence.effects.iter().map(|e| (e.job.as_str(), e.job.as_str())).collect();
        for (place, execution) in index.executions.iter().enumerate() {
            let job = by_id[execution.job.as_str()];
            index.by_job.entry(job).or_default().push(place);
        }
        for places in index.by_job.values_mut() {
            let executions = &index.executions;
            places.sort_by_key(|place| (executions[*place].fence, executions[*place].started));
        }
        index.read_submissions();
        index.read_faults();
        index.read_pauses();
        index
    }

    /// Executions of a job, by fence and start.
    pub fn of_job(&self, job: &str) -> impl Iterator<Item = &Execution> {
        self.by_job.get(job).into_iter().flatten().map(|place| &self.executions[*place])
    }

    /// When a worker was killed.
    pub fn killed_at(&self, worker: &str) -> Option<Stamp> {
        self.killed.get(worker).copied()
    }

    /// The true wall time of an execution's claim, in µs; `None` where the engine's clock went back and it cannot be
    /// told. The fence is the claim's instant in engine time, or later where that went back.
    pub(super) fn claimed_us(&self, execution: &Execution) -> Option<i64> {
        let fence = i64::try_from(execution.fence).unwrap_or(i64::MAX);
        if self.engine_moves.is_empty() {
            return Some(fence);
        }
        let from = std::iter::once(i64::MIN).chain(self.engine_moves.iter().map(|m| m.0.wall_us));
        let to = self.engine_moves.iter().map(|m| m.0.wall_us).chain([i64::MAX]);
        let offsets = std::iter::once(0).chain(self.engine_moves.iter().map(|m| m.1));
        let started = execution.started.wall_us;
        if self.may_have_stood_still(fence, started) {
            return None;
        }
        // A time that engine time went through twice: the handler was called right after the later one.
        let instants = from.zip(to).zip(offsets).filter_map(|((from, to), offset_ms)| {
            let at = fence - offset_ms * 1_000;
            let then = from.saturating_sub(MOVE_NOTED_US)..to;
            (then.contains(&at) && at <= started).then_some(at)
        });
        instants.max()
    }

    /// Whether this is the engine time at which the clock went back before the handler was called: an engine whose time
    /// never goes back stands still there until the clock has caught up.
    fn may_have_stood_still(&self, fence: i64, started_us: i64) -> bool {
        let before = std::iter::once(0).chain(self.engine_moves.iter().map(|moved| moved.1));
        before.zip(&self.engine_moves).any(|(before, (at, after))| {
            let shown = at.wall_us + before * 1_000;
            let until = at.wall_us + (before - after) * 1_000;
            *after < before
                && (shown - MOVE_NOTED_US..=shown + MOVE_NOTED_US).contains(&fence)
                && (at.wall_us..=until + MOVE_NOTED_US).contains(&started_us)
        })
    }

    /// The latest engine time that had been shown by an execution's start, in µs: what was due by then is due, also when
    /// the clock went back after that.
    pub(super) fn shown_us(&self, execution: &Execution) -> i64 {
        let fence = i64::try_from(execution.fence).unwrap_or(i64::MAX);
        let offsets = std::iter::once(0).chain(self.engine_moves.iter().map(|moved| moved.1));
        let ends = self.engine_moves.iter().map(|moved| moved.0);
        let before = ends.zip(offsets).filter(|(end, _)| *end <= execution.started);
        before.map(|(end, offset_ms)| end.wall_us + offset_ms * 1_000).fold(fence, i64::max)
    }

    /// Whether the engine's clock ever went back.
    pub(super) fn engine_went_back(&self) -> bool {
        let offsets = std::iter::once(0).chain(self.engine_moves.iter().map(|moved| moved.1));
        let offsets: Vec<i64> = offsets.collect();
        offsets.windows(2).any(|pair| pair[1] < pair[0])
    }

    fn read_submissions(&mut self) {
        // An operation without an answer (the client was stopped) counts as unknown.
        let mut open: BTreeMap<u64, &'a Event> = BTreeMap::new();
        for event in &self.evidence.history {
            let Call::Submit { key, body, fails, steps, ends, delay_ms, .. } = &event.call else {
                continue;
            };
            if event.phase == Phase::Invoke {
                open.insert(event.op, event);
                let entry = self.keys.entry(key.as_str()).or_default();
                entry.asked.get_or_insert(event.at);
                continue;
            }
            open.remove(&event.op);
            let entry = self.keys.entry(key.as_str()).or_default();
            (entry.fails, entry.steps, entry.ends) = (*fails, *steps, ends.as_str());
            entry.delay_ms = *delay_ms;
            let (at, phase, reply) = (event.at, event.phase, event.reply.as_ref());
            entry.tries.push(Try { at, body, phase, reply });
            let id = event.reply.as_ref().and_then(|reply| reply.id.as_deref());
            if let Some(id) = id.filter(|_| event.phase == Phase::Ok) {
                self.key_of.insert(id, key.as_str());
            }
        }
        for event in open.into_values() {
            let Call::Submit { key, body, fails, steps, ends, .. } = &event.call else { continue };
            let entry = self.keys.entry(key.as_str()).or_default();
            (entry.fails, entry.steps, entry.ends) = (*fails, *steps, ends.as_str());
            entry.tries.push(Try { at: event.at, body, phase: Phase::Unknown, reply: None });
        }
    }

    fn read_faults(&mut self) {
        for event in &self.evidence.history {
            let Call::Fault(fault) = &event.call else { continue };
            match fault {
                Fault::Killed { process } => {
                    self.killed.insert(process, event.at);
                }
                Fault::Frozen { process } => {
                    let span = Span { from: event.at, to: None };
                    self.frozen.entry(process).or_default().push(span);
                }
                Fault::Thawed { process } => {
                    let spans = self.frozen.get_mut(process.as_str());
                    if let Some(span) = spans.and_then(|spans| spans.last_mut()) {
                        span.to = Some(event.at);
                    }
                }
                Fault::CutOff { process } => {
                    self.cut_off.entry(process).or_default().push(event.at)
                }
                Fault::EngineLost { .. } => self.engine_lost.push(event.at),
                Fault::ClockMoved { process, offset_ms } if ENGINES.contains(&process.as_str()) => {
                    self.engine_moves.push((event.at, *offset_ms));
                }
                // The clocks of others decide nothing.
                Fault::ClockMoved { .. } | Fault::Started { .. } | Fault::Mark { .. } => {}
            }
        }
    }

    fn read_pauses(&mut self) {
        for event in &self.evidence.history {
            match (&event.call, event.phase) {
                (Call::Pause { queue }, Phase::Ok) => {
                    let applied = event.reply.as_ref().and_then(|reply| reply.applied);
                    let spans = self.paused.entry(queue).or_default();
                    let is_open = spans.last().is_some_and(|span| span.to.is_none());
                    if applied == Some(true) && !is_open {
                        spans.push(Span { from: event.at, to: None });
                    }
                }
                (Call::Resume { queue }, Phase::Invoke) => {
                    let last = self.paused.get_mut(queue.as_str()).and_then(|s| s.last_mut());
                    if let Some(span) = last.filter(|span| span.to.is_none()) {
                        span.to = Some(event.at);
                    }
                }
                _ => {}
            }
        }
    }
}

/// Pairs the lines of the effect log.
fn executions(effects: &[Effect]) -> Vec<Execution> {
    let mut found: Vec<Execution> = Vec::new();
    let mut places: HashMap<(&str, u64, &str, Stamp), usize> = HashMap::new();
    for effect in effects {
        let name = (effect.job.as_str(), effect.fence, effect.worker.as_str(), effect.started);
        let place = *places.entry(name).or_insert_with(|| {
            found.push(Execution {
                job: effect.job.clone(),
                fence: effect.fence,
                worker: effect.worker.clone(),
                kind: effect.kind.clone(),
                queue: effect.queue.clone(),
                step: effect.step.clone(),
                started: effect.started,
                end: None,
            });
            found.len() - 1
        });
        if effect.phase == EffectPhase::End {
            found[place].end = effect.end.map(|end| (effect.at, end));
        }
    }
    found.sort_by_key(|execution| execution.started);
    found
}
