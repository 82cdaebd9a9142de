//! One execution of a handler of the rig, whoever calls it: what it does, and the evidence that it leaves.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::effects::{Effect, EffectLog, End, Phase};
use crate::fenced::FencedStore;
use crate::stamp::Stamp;
use crate::worker::{FENCED, Work};

/// Where evidence goes.
#[derive(Debug)]
pub(crate) struct Evidence {
    log: EffectLog,
    store: FencedStore,
    /// Executions that are dropped say nothing.
    is_silent: AtomicBool,
}

/// What the caller says of the job.
pub(crate) struct Assignment {
    pub(crate) job: String,
    pub(crate) fence: u64,
    pub(crate) worker: String,
    pub(crate) attempt: u32,
    pub(crate) kind: String,
    pub(crate) queue: String,
    /// The run and the step, where the caller knows them.
    pub(crate) step: Option<(String, String)>,
}

impl Evidence {
    /// In this effect log and this folder of the store with fences. `synced`: as [`EffectLog::open`].
    pub(crate) fn open(effects: &Path, synced: bool, fenced: &Path) -> anyhow::Result<Self> {
        let log = EffectLog::open(effects, synced)?;
        let store = FencedStore::open(fenced).context("store with fences")?;
        Ok(Self { log, store, is_silent: AtomicBool::new(false) })
    }

    /// From now on an execution that is dropped leaves no second line: its process was killed, and wanted nothing.
    pub(crate) fn be_silent(&self, is_silent: bool) {
        self.is_silent.store(is_silent, Ordering::SeqCst);
    }
}

/// Does the work between two lines of evidence; how it ended, as on record.
///
/// # Errors
/// The evidence cannot be kept.
pub(crate) async fn perform(
    evidence: &Evidence,
    assignment: Assignment,
    work: &Work,
) -> std::io::Result<End> {
    let mut execution = Execution::start(evidence, assignment)?;
    let is_fenced = execution.effect.kind == FENCED;
    if is_fenced && !execution.write_fenced()? {
        return execution.end(End::Refused);
    }
    if let Some(poison) = work.poison {
        poison.take();
    }
    let is_down = work.needs.as_ref().is_some_and(|file| file.exists());
    let length = Duration::from_millis(work.ms);
    if work.spin {
        let until = Instant::now() + length;
        while Instant::now() < until {
            std::hint::spin_loop();
        }
    } else {
        tokio::time::sleep(length).await;
    }
    if is_fenced && !execution.write_fenced()? {
        return execution.end(End::Refused);
    }
    if is_down {
        return execution.end(End::Down);
    }
    let is_planned = execution.effect.attempt <= work.fails;
    execution.end(if is_planned { End::Planned } else { End::Ok })
}

/// One execution between its two lines. Dropped before its end, it says so.
struct Execution<'a> {
    evidence: &'a Evidence,
    effect: Effect,
    ended: bool,
}

impl<'a> Execution<'a> {
    fn start(evidence: &'a Evidence, assignment: Assignment) -> std::io::Result<Self> {
        let Assignment { job, fence, worker, attempt, kind, queue, step } = assignment;
        let now = Stamp::now();
        let effect = Effect {
            phase: Phase::Start,
            job,
            fence,
            worker,
            attempt,
            kind,
            queue,
            step,
            started: now,
            at: now,
            end: None,
        };
        evidence.log.append(&effect)?;
        Ok(Self { evidence, effect, ended: false })
    }

    fn end(&mut self, end: End) -> std::io::Result<End> {
        self.ended = true;
        self.effect.phase = Phase::End;
        self.effect.at = Stamp::now();
        self.effect.end = Some(end);
        self.evidence.log.append(&self.effect)?;
        Ok(end)
    }

    fn write_fenced(&self) -> std::io::Result<bool> {
        self.evidence.store.write(&self.effect.job, self.effect.fence)
    }
}

impl Drop for Execution<'_> {
    fn drop(&mut self) {
        if !self.ended && !self.evidence.is_silent.load(Ordering::SeqCst) {
            // An end that cannot be written looks like that of a killed worker, which nothing allows for: it shows.
            let _ = self.end(End::Dropped);
        }
    }
}
