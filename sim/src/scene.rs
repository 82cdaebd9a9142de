//! One world from its beginning to its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_util::sync::CancellationToken;
use windlass_shared::config::LedgerSettings;
use windlass_shared::ledger::Ledger;

use crate::crew::Crew;
use crate::faults::{self, Fault, Faults};
use crate::machine::Machine;
use crate::story::{Cost, Story, Trouble};
use crate::world::{Far, Fate, Who, Wire, World};
use crate::{below, checker, orders};

/// Orders and faults come within the first so many seconds of a world; then everything is mended.
const SHORTEST: u64 = 6;
const LONGEST: u64 = 40;
/// After the mending everything must have come to rest within this time.
const REST_WITHIN: Duration = Duration::from_secs(240);
/// It is over when everything has rested for so long: the latest message has arrived by then.
const REST_FOR: Duration = Duration::from_secs(5);
/// Somebody looks every so often whether it has.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A process that ended is started again after this.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// Steps of processes in one world: a hundred times the usual.
const STEPS_MAX: u64 = 5_000_000;
/// Doing something takes up to this long, in ns.
const STEP_NS: u64 = 30_000;

/// What became of a world.
pub struct Outcome {
    /// Promises that were broken.
    pub broken: Vec<String>,
    /// Of everything that happened.
    pub hash: u64,
    /// For people.
    pub summary: String,
}

/// A process, running or not.
struct Slot {
    who: Who,
    machine: Option<Machine>,
    shutdown: CancellationToken,
    ended: Arc<AtomicBool>,
    stalls: u32,
    skew_ns: i64,
}

enum Event {
    Fault(Fault),
    Start(Who),
    Wake(Who),
    Mend(Who, Far),
    EngineUp,
    MendAll,
    Look,
}

/// Lives through the world of a seed, on this thread.
///
/// # Errors
/// The world could not be set up.
pub fn live(seed: u64, faults: Faults, print: bool) -> anyhow::Result<Outcome> {
    // Before the world begins: a name by its dice would be that of the same seed in another process, and what is drawn
    // until a free one is found would show in the world.
    let folder = below::outside(folder)?;
    below::begin(seed);
    windlass_shared::tap::simulate();
    let file = folder.path().join("ledger.db");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("ledger")
        .enable_all()
        .build()?;
    let settings = LedgerSettings {
        pool_max: 1,
        ..LedgerSettings::new(format!("sqlite://{}", file.display()))
    };
    let ledger = below::outside(|| {
        runtime.block_on(async {
            Ledger::migrate(&settings).await?;
            let ledger = Ledger::open(&settings).await?;
            for sql in checker::AUDIT {
                ledger.tamper((*sql).into()).await?;
            }
            anyhow::Ok(ledger)
        })
    })
    .context("cannot make a ledger")?;
    let Ledger::Sqlite(sqlite) = &ledger else { unreachable!("the address is SQLite's") };
    watch_panics();
    let world = World::new(seed, Arc::clone(sqlite), runtime.handle().clone(), Story::new(print));
    let mut scene = Scene::new(seed, faults, &world);
    let steps = scene.play();
    below::outside(|| {
        runtime.block_on(checker::check(&world, &scene.crew.orders, &ledger, &file))
    })?;
    drop(scene);
    let panics = PANICS.load(Ordering::SeqCst);
    if panics > 0 {
        world.broken(format!("{panics} panics"));
    }
    let state = world.state();
    let story = &state.story;
    let summary = format!(
        "{:.1} s, {steps} steps, {} lines, {} jobs, {} runs, {} handlers, {} engines",
        below::now_ns() as f64 / 1e9,
        story.trace.lines,
        story.accepted.values().map(Vec::len).sum::<usize>(),
        story.runs.len(),
        story.effects.len(),
        state.generation,
    );
    Ok(Outcome { broken: story.broken.clone(), hash: story.trace.hash(), summary })
}

/// Handlers of worlds don't panic, so any panic is a fault of the product, or of the world.
static PANICS: AtomicU64 = AtomicU64::new(0);

fn watch_panics() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        tell(panic);
    }));
}

/// In memory where there is such a place: worlds commit thousands of times.
fn folder() -> std::io::Result<tempfile::TempDir> {
    let builder = tempfile::Builder::new().prefix("windlass-sim-").to_owned();
    builder.tempdir_in("/dev/shm").or_else(|_| builder.tempdir())
}

struct Scene {
    world: Arc<World>,
    crew: Crew,
    slots: Vec<Slot>,
    agenda: BTreeMap<(u64, u64), Event>,
    entries: u64,
    /// Who is not part of this world.
    absent: Vec<Who>,
    mended_at: Option<Duration>,
    rests_since: Option<Duration>,
    over: bool,
}

impl Scene {
    fn new(seed: u64, faults: Faults, world: &Arc<World>) -> Self {
        let mut dice = StdRng::seed_from_u64(seed);
        let within = Duration::from_secs(dice.random_range(SHORTEST..LONGEST));
        let orders = Arc::new(orders::draw(&mut dice, within));
        let lease = Duration::from_secs(dice.random_range(3..12));
        let faults = faults::draw(&mut dice, faults, within);
        let crew = Crew { world: Arc::clone(world), orders, lease };
        let slot = |who| Slot {
            who,
            machine: None,
            shutdown: CancellationToken::new(),
            ended: Arc::default(),
            stalls: 0,
            skew_ns: 0,
        };
        let slots = Who::ALL.map(slot).into();
        let spare = [Who::WorkerB, Who::SchedulerB];
        let absent = spare.into_iter().filter(|_| dice.random_bool(0.4)).collect();
        let (agenda, world) = (BTreeMap::new(), Arc::clone(world));
        let mut scene = Self {
            world,
            crew,
            slots,
            agenda,
            entries: 0,
            absent,
            mended_at: None,
            rests_since: None,
            over: false,
        };
        for who in Who::ALL {
            let at = Duration::from_millis(dice.random_range(0..500));
            scene.plan(at, Event::Start(who));
        }
        for (at, fault) in faults {
            scene.plan(at, Event::Fault(fault));
        }
        scene.plan(within + Duration::from_secs(1), Event::MendAll);
        scene
    }

    fn plan(&mut self, after: Duration, event: Event) {
        self.entries += 1;
        let at = below::now_ns() + u64::try_from(after.as_nanos()).expect("worlds are short");
        self.agenda.insert((at, self.entries), event);
    }

    /// Plays until everything rests; how many steps it took.
    fn play(&mut self) -> u64 {
        for step in 0..STEPS_MAX {
            while let Some(entry) = self.agenda.first_entry()
                && entry.key().0 <= below::now_ns()
            {
                let event = entry.remove();
                self.happen(event);
            }
            if self.over {
                return step;
            }
            let ready = self.ready();
            if ready.is_empty() {
                below::move_to(self.next());
                continue;
            }
            let chosen = self.world.roll(ready.len() as u64);
            self.step(ready[usize::try_from(chosen).expect("a place in a short list")]);
        }
        self.world.broken("the world does not come to rest: too many steps".into());
        STEPS_MAX
    }

    /// Places of the processes that have something to do now.
    fn ready(&self) -> Vec<usize> {
        let now = below::now_ns();
        let (mut ready, mut asked, mut epolls) = (Vec::new(), Vec::new(), Vec::new());
        for (place, slot) in self.slots.iter().enumerate() {
            let Some(machine) = slot.machine.as_ref().filter(|_| slot.stalls == 0) else {
                continue;
            };
            match machine.parked() {
                Some(parked) if parked.until_ns.is_none_or(|until| until > now) => {
                    asked.push(place);
                    epolls.push(parked.epoll);
                }
                _ => ready.push(place),
            }
        }
        let woken = below::woken(&epolls);
        ready.extend(asked.into_iter().zip(woken).filter(|(_, woken)| *woken).map(|(at, _)| at));
        ready
    }

    /// When something happens next.
    fn next(&self) -> u64 {
        let timers = self.slots.iter().filter(|slot| slot.stalls == 0).filter_map(|slot| {
            slot.machine.as_ref().and_then(Machine::parked).and_then(|parked| parked.until_ns)
        });
        let planned = self.agenda.keys().next().map(|(at, _)| *at);
        timers.chain(planned).min().expect("somebody looks until it is over")
    }

    fn step(&mut self, place: usize) {
        below::move_to(below::now_ns() + self.world.roll(STEP_NS));
        let slot = &mut self.slots[place];
        let Some(machine) = &mut slot.machine else { return };
        below::set_skew(slot.skew_ns);
        machine.step();
        below::set_skew(0);
        let who = slot.who;
        if let Some(fate) = self.world.take_fate(who) {
            self.world.note(format_args!("{who:?}: {fate:?}"));
            let (Fate::Dies(long) | Fate::Freezes(long)) = fate;
            if let Fate::Dies(_) = fate {
                slot.machine = None;
                self.plan(long, Event::Start(who));
            } else {
                slot.stalls += 1;
                self.plan(long, Event::Wake(who));
            }
            self.note_trouble(long, Some(who), Cost::Leases);
        } else if slot.ended.load(Ordering::SeqCst) {
            slot.machine = None;
            self.world.note(format_args!("{who:?} has ended"));
            self.plan(RESTART_AFTER, Event::Start(who));
        }
    }

    fn slot(&mut self, who: Who) -> &mut Slot {
        self.slots.iter_mut().find(|slot| slot.who == who).expect("every process has a slot")
    }

    fn start(&mut self, who: Who) {
        let (shutdown, ended) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
        let main = self.crew.main(who, shutdown.clone());
        let is_absent = self.absent.contains(&who);
        let slot = self.slot(who);
        if slot.machine.is_some() || is_absent {
            return;
        }
        let end = Arc::clone(&ended);
        (slot.shutdown, slot.ended) = (shutdown, ended);
        slot.machine = Some(Machine::start(async move {
            main.await;
            end.store(true, Ordering::SeqCst);
        }));
        self.world.note(format_args!("{who:?} starts"));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Fault(fault) if self.mended_at.is_none() => self.fail(fault),
            Event::Fault(_) => {}
            Event::Start(who) => self.start(who),
            Event::Wake(who) => {
                let slot = self.slot(who);
                slot.stalls = slot.stalls.saturating_sub(1);
                self.world.note(format_args!("{who:?} goes on"));
            }
            Event::Mend(who, far) => self.world.set_wire(who, far, Wire::default()),
            Event::EngineUp => {
                self.world.state().engine_down = false;
                self.world.note(format_args!("the engine is back"));
            }
            Event::MendAll => self.mend_all(),
            Event::Look => self.look(),
        }
    }

    fn mend_all(&mut self) {
        self.mended_at = Some(Duration::from_nanos(below::now_ns()));
        self.world.note(format_args!("everything is mended"));
        self.world.mend();
        for who in Who::ALL {
            self.slot(who).skew_ns = 0;
            self.start(who);
        }
        self.plan(LOOK_EVERY, Event::Look);
    }

    fn look(&mut self) {
        let (world, orders) = (Arc::clone(&self.world), Arc::clone(&self.crew.orders));
        let unrest =
            below::outside(|| world.ledger_runtime.block_on(checker::unrest(&world, &orders)));
        let frozen = self.slots.iter().find(|slot| slot.stalls > 0).map(|slot| slot.who);
        let unrest = unrest.or(frozen.map(|who| format!("{who:?} stands still")));
        let now = Duration::from_nanos(below::now_ns());
        let rested = now.saturating_sub(*self.rests_since.get_or_insert(now));
        if let Some(unrest) = unrest {
            self.rests_since = None;
            if self.mended_at.is_some_and(|at| now.saturating_sub(at) > REST_WITHIN) {
                self.over = true;
                let what = format!("not at rest {REST_WITHIN:?} after the mending: {unrest}");
                self.world.broken(what);
            }
        } else if rested >= REST_FOR {
            self.over = true;
        }
        self.plan(LOOK_EVERY, Event::Look);
    }

    fn fail(&mut self, fault: Fault) {
        self.world.note(format_args!("FAULT {fault:?}"));
        let (long, whose) = self.carry_out(fault);
        if !matches!(fault, Fault::Copy | Fault::LoseAfter(..) | Fault::At(..)) {
            self.note_trouble(long, whose, fault.cost());
        }
    }

    fn note_trouble(&self, long: Duration, whose: Option<Who>, cost: Cost) {
        let from = below::now_ns();
        let to = from + u64::try_from(long.as_nanos()).expect("faults are short");
        self.world.state().story.troubles.push(Trouble { from, to, whose, cost });
    }

    /// Lets it happen; how long it lasts, and to whom (`None`: to everybody).
    fn carry_out(&mut self, fault: Fault) -> (Duration, Option<Who>) {
        let wire = Wire::default();
        match fault {
            Fault::Kill(who, down) => {
                self.slot(who).machine = None;
                self.plan(down, Event::Start(who));
                return (down, Some(who));
            }
            Fault::At(who, messages, fate) => {
                self.world.doom(who, messages, fate);
                return (Duration::ZERO, Some(who));
            }
            Fault::Drain(who) => {
                self.slot(who).shutdown.cancel();
                return (Duration::from_secs(20), Some(who));
            }
            Fault::Stall(who, long) => {
                self.slot(who).stalls += 1;
                self.plan(long, Event::Wake(who));
                return (long, Some(who));
            }
            Fault::Cut(who, far, long) => {
                return self.spoil(who, far, long, Wire { cut: true, ..wire });
            }
            Fault::Lossy(who, far, lost_percent, long) => {
                return self.spoil(who, far, long, Wire { lost_percent, ..wire });
            }
            Fault::Slow(who, far, slow, long) => {
                return self.spoil(who, far, long, Wire { slow, ..wire });
            }
            Fault::Skew(who, ms) => self.slot(who).skew_ns = ms * 1_000_000,
            Fault::Copy => self.world.keep_copy(),
            Fault::EngineDown(long) => return (self.engine_away(long), None),
            Fault::Wipe(away) => {
                self.world.replace_engine(None);
                return (self.engine_away(away), None);
            }
            Fault::RollBack(copy, away) => {
                self.world.replace_engine(Some(copy));
                return (self.engine_away(away), None);
            }
            Fault::LoseAfter(settles, back) => self.world.lose_engine_after(settles, back),
            Fault::Step(ms) => self.world.state().engine_skew += ms * 1_000,
        }
        (Duration::ZERO, None)
    }

    fn spoil(&mut self, who: Who, far: Far, long: Duration, wire: Wire) -> (Duration, Option<Who>) {
        self.world.set_wire(who, far, wire);
        self.plan(long, Event::Mend(who, far));
        (long + wire.slow, Some(who))
    }

    fn engine_away(&mut self, long: Duration) -> Duration {
        self.world.state().engine_down = true;
        self.plan(long, Event::EngineUp);
        long
    }
}
