//! What all processes of a world share: its dice, its engine and ledger, the wires to them, and what happened.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::Handle;
use windlass_shared::clock::Clock;
use windlass_shared::engine::ShardId;
use windlass_shared::engine::embedded::{Embedded, Snapshot};
use windlass_shared::ledger::sqlite::Sqlite;
use windlass_shared::model::name::{Namespace, QueueName};
use windlass_shared::model::time::Timestamp;

use crate::below;
use crate::story::Story;

/// The queues of every world.
pub const QUEUES: [&str; 2] = ["default", "other"];
/// Copies of the engine kept for a roll-back.
const COPIES_MAX: usize = 4;

/// Which process, by its place in [`Who::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// Takes submissions.
    ApiA,
    /// Takes submissions as well.
    ApiB,
    /// Runs jobs.
    WorkerA,
    /// Runs jobs as well.
    WorkerB,
    /// Records, sweeps.
    SchedulerA,
    /// Records, sweeps as well.
    SchedulerB,
}

impl Who {
    /// Every process.
    pub const ALL: [Self; 6] =
        [Self::ApiA, Self::ApiB, Self::WorkerA, Self::WorkerB, Self::SchedulerA, Self::SchedulerB];
}

/// One of the two things that processes talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Far {
    /// The engine.
    Engine,
    /// The ledger.
    Ledger,
}

/// The way from one process to one store.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wire {
    /// Nothing gets through.
    pub cut: bool,
    /// So many of a hundred requests and of a hundred replies are lost.
    pub lost_percent: u32,
    /// What a message may take beyond the usual, at most.
    pub slow: Duration,
}

/// What comes over a process between one message and the next.
#[derive(Debug, Clone, Copy)]
pub enum Fate {
    /// `kill -9`; back after this.
    Dies(Duration),
    /// Frozen for so long.
    Freezes(Duration),
}

/// What moves in a world.
pub struct State {
    /// The engine as it is now.
    pub engine: Arc<Embedded>,
    /// Rises whenever the engine loses something.
    pub generation: u32,
    /// Nobody reaches the engine.
    pub engine_down: bool,
    /// What the engine's clock is ahead.
    pub engine_skew: i64,
    copies: Vec<Snapshot>,
    /// What comes over processes at one of their next messages, and how many are left.
    doomed: BTreeMap<Who, (u32, Fate)>,
    /// The engine is lost after so many settles, and comes back empty or as a copy.
    lost_after: Option<(u32, Option<u64>)>,
    wires: BTreeMap<(Who, bool), Wire>,
    /// What happened.
    pub story: Story,
}

/// A world.
pub struct World {
    dice: Mutex<StdRng>,
    state: Mutex<State>,
    /// The ledger.
    pub ledger: Arc<Sqlite>,
    /// Where the ledger's own tasks run, outside of the world.
    pub ledger_runtime: Handle,
    engine_clock: Clock,
}

impl World {
    /// A world in which nothing has happened.
    pub fn new(seed: u64, ledger: Arc<Sqlite>, ledger_runtime: Handle, story: Story) -> Arc<Self> {
        let engine_clock = Clock::manual(Timestamp::from_micros(below::wall_us()));
        let state = State {
            engine: Arc::new(Embedded::new(engine_clock.clone())),
            generation: 1,
            engine_down: false,
            engine_skew: 0,
            copies: Vec::new(),
            doomed: BTreeMap::new(),
            lost_after: None,
            wires: BTreeMap::new(),
            story,
        };
        Arc::new(Self {
            dice: Mutex::new(StdRng::seed_from_u64(seed ^ 0x0077_696e_646c_6173)),
            state: Mutex::new(state),
            ledger,
            ledger_runtime,
            engine_clock,
        })
    }

    /// Everything that moves.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the world")
    }

    /// A number below `bound`.
    pub fn roll(&self, bound: u64) -> u64 {
        let mut dice = self.dice.lock().expect("dice don't panic");
        dice.random_range(0..bound.max(1))
    }

    /// One line of what happened.
    pub fn note(&self, line: std::fmt::Arguments<'_>) {
        self.state().story.trace.note(line);
    }

    /// A promise was broken.
    pub fn broken(&self, what: String) {
        self.state().story.broken(what);
    }

    /// The engine that is reached now, on its clock as it is now.
    pub fn engine(&self) -> Arc<Embedded> {
        let state = self.state();
        let Clock::Manual(us) = &self.engine_clock else { unreachable!("made manual above") };
        let now = below::wall_us() + state.engine_skew;
        us.store(now, std::sync::atomic::Ordering::SeqCst);
        Arc::clone(&state.engine)
    }

    /// The wire from a process to a store, as it is now.
    pub fn wire(&self, who: Who, far: Far) -> Wire {
        let state = self.state();
        let mut wire = state.wires.get(&(who, far == Far::Engine)).copied().unwrap_or_default();
        wire.cut |= state.engine_down && far == Far::Engine;
        wire
    }

    /// Changes a wire.
    pub fn set_wire(&self, who: Who, far: Far, wire: Wire) {
        self.state().wires.insert((who, far == Far::Engine), wire);
    }

    /// Has a process meet its fate at one of its next messages.
    pub fn doom(&self, who: Who, messages: u32, fate: Fate) {
        self.state().doomed.insert(who, (messages, fate));
    }

    /// Counts a message of a process; whether it dies at this one, or is dead already.
    pub fn dies_at_message(&self, who: Who) -> bool {
        let mut state = self.state();
        let Some((left, fate)) = state.doomed.get_mut(&who) else { return false };
        *left = left.saturating_sub(1);
        *left == 0 && matches!(fate, Fate::Dies(_))
    }

    /// What a process has met at a message, once.
    pub fn take_fate(&self, who: Who) -> Option<Fate> {
        let mut state = self.state();
        let (_, fate) = *state.doomed.get(&who).filter(|(left, _)| *left == 0)?;
        state.doomed.remove(&who);
        Some(fate)
    }

    /// Has the engine lose something right after so many settles, before anybody can have recorded the last one.
    pub fn lose_engine_after(&self, settles: u32, back: Option<u64>) {
        self.state().lost_after = Some((settles, back));
    }

    /// Counts a settle; whether the engine was lost with it.
    pub fn settled(&self) -> bool {
        let back = {
            let mut state = self.state();
            let Some((left, back)) = &mut state.lost_after else { return false };
            *left = left.saturating_sub(1);
            if *left > 0 {
                return false;
            }
            let back = *back;
            state.lost_after = None;
            back
        };
        self.note(format_args!("the engine is lost with what was settled just now"));
        self.replace_engine(back);
        true
    }

    /// Every wire as good as new, the engine reachable.
    pub fn mend(&self) {
        let mut state = self.state();
        state.wires.clear();
        state.doomed.clear();
        state.lost_after = None;
        state.engine_down = false;
    }

    /// Keeps what the engine has now, for a later roll-back.
    pub fn keep_copy(&self) {
        let copy = self.engine().snapshot();
        let mut state = self.state();
        if state.copies.len() == COPIES_MAX {
            state.copies.remove(0);
        }
        state.copies.push(copy);
    }

    /// The engine comes back empty, or as one of its copies was.
    pub fn replace_engine(&self, back: Option<u64>) {
        let mut state = self.state();
        let engine = Embedded::new(self.engine_clock.clone());
        if let Some(n) = back.filter(|_| !state.copies.is_empty()) {
            let place = usize::try_from(n).unwrap_or(0) % state.copies.len();
            engine.restart_from(state.copies[place].clone());
        }
        state.engine = Arc::new(engine);
        state.generation += 1;
    }
}

/// The one namespace of a world.
pub fn namespace() -> Namespace {
    Namespace::default()
}

/// A queue of a world.
pub fn queue(name: &str) -> QueueName {
    name.parse().expect("a name of a queue")
}

/// The shard of a queue.
pub fn shard(name: &str) -> ShardId {
    ShardId::first(namespace(), queue(name))
}
