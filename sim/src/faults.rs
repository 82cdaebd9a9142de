//! What goes wrong in a world, drawn before it begins.

use std::time::Duration;

use clap::ValueEnum;
use rand::Rng;
use rand::rngs::StdRng;

use crate::story::Cost;
use crate::world::{Far, Fate, Who};

/// Most faults of a world.
const FAULTS_MAX: usize = 9;

/// Which faults a world may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Faults {
    /// None: messages take their time, and that is all.
    Calm,
    /// Processes die, drain, stand still and have wrong clocks; messages are lost and late; stores are away.
    Some,
    /// These, and the engine is wiped, rolled back, and its clock steps.
    All,
}

/// Something that goes wrong.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// `kill -9`; back after this.
    Kill(Who, Duration),
    /// Something comes over it at one of its next messages, so between one step of the protocol and the next.
    At(Who, u32, Fate),
    /// Told to end, and started again.
    Drain(Who),
    /// Frozen.
    Stall(Who, Duration),
    /// Nothing gets through.
    Cut(Who, Far, Duration),
    /// So many of a hundred messages are lost.
    Lossy(Who, Far, u32, Duration),
    /// Messages take up to the first longer, for the second.
    Slow(Who, Far, Duration, Duration),
    /// Nobody reaches the engine.
    EngineDown(Duration),
    /// The host's clock is wrong by so many ms from now on.
    Skew(Who, i64),
    /// What the engine has now may come back later.
    Copy,
    /// The engine loses everything, and is away for a while.
    Wipe(Duration),
    /// The engine comes back as one of its copies was.
    RollBack(u64, Duration),
    /// The engine is lost right after so many settles, and is back at once: empty, or as one of its copies was.
    LoseAfter(u32, Option<u64>),
    /// The engine's clock steps by so many ms.
    Step(i64),
}

impl Fault {
    /// What it may cost. What comes over a process at a message is noted when it comes.
    pub fn cost(self) -> Cost {
        let is_worker = |who: Who| matches!(who, Who::WorkerA | Who::WorkerB);
        match self {
            Self::Kill(who, _) | Self::Drain(who) | Self::Stall(who, _) if is_worker(who) => {
                Cost::Leases
            }
            Self::Cut(who, far, _) | Self::Lossy(who, far, ..) | Self::Slow(who, far, ..)
                if is_worker(who) && far == Far::Engine =>
            {
                Cost::Leases
            }
            Self::EngineDown(_) | Self::Step(_) => Cost::Leases,
            Self::Wipe(_) | Self::RollBack(..) => Cost::Engine,
            _ => Cost::Time,
        }
    }
}

/// The faults of a world, with their times, which lie `within` its first time.
pub fn draw(dice: &mut StdRng, faults: Faults, within: Duration) -> Vec<(Duration, Fault)> {
    if faults == Faults::Calm {
        return Vec::new();
    }
    // What the loss of an engine costs by itself shows where nothing else goes wrong.
    let alone = faults == Faults::All && dice.random_bool(0.4);
    let count = if alone { 0 } else { dice.random_range(1..=FAULTS_MAX) };
    let mut drawn: Vec<_> = (0..count).map(|_| (moment(dice, within), small(dice))).collect();
    if faults == Faults::All {
        let copies = dice.random_range(1..6);
        drawn.extend((0..copies).map(|_| (moment(dice, within), Fault::Copy)));
        let losses = if alone { 1 } else { dice.random_range(1..3) };
        drawn.extend((0..losses).map(|_| (moment(dice, within), of_engine(dice))));
    }
    drawn
}

fn moment(dice: &mut StdRng, within: Duration) -> Duration {
    within.mul_f64(dice.random())
}

fn millis(dice: &mut StdRng, from: u64, to: u64) -> Duration {
    Duration::from_millis(dice.random_range(from..to))
}

fn who(dice: &mut StdRng) -> Who {
    Who::ALL[dice.random_range(0..Who::ALL.len())]
}

fn far(dice: &mut StdRng) -> Far {
    if dice.random_bool(0.6) { Far::Engine } else { Far::Ledger }
}

fn small(dice: &mut StdRng) -> Fault {
    let who = who(dice);
    match dice.random_range(0..20) {
        0 | 1 => Fault::Kill(who, millis(dice, 100, 12_000)),
        2 | 3 | 16..20 => Fault::At(who, dice.random_range(1..40), fate(dice)),
        4 => Fault::Drain(who),
        5..8 => Fault::Stall(who, frozen(dice)),
        8 | 9 => Fault::Cut(who, far(dice), millis(dice, 200, 15_000)),
        10 | 11 => {
            let percent = dice.random_range(5..60);
            Fault::Lossy(who, far(dice), percent, millis(dice, 1_000, 15_000))
        }
        12 | 13 => {
            let by = millis(dice, 50, 4_000);
            Fault::Slow(who, far(dice), by, millis(dice, 1_000, 15_000))
        }
        14 => Fault::EngineDown(millis(dice, 200, 12_000)),
        _ => Fault::Skew(who, dice.random_range(-300_000..300_000)),
    }
}

fn fate(dice: &mut StdRng) -> Fate {
    if dice.random_bool(0.6) {
        Fate::Dies(millis(dice, 100, 12_000))
    } else {
        Fate::Freezes(frozen(dice))
    }
}

/// Some longer than a tombstone stands.
fn frozen(dice: &mut StdRng) -> Duration {
    if dice.random_bool(0.3) { millis(dice, 15_000, 45_000) } else { millis(dice, 500, 15_000) }
}

fn of_engine(dice: &mut StdRng) -> Fault {
    let away = millis(dice, 0, 5_000);
    match dice.random_range(0..8) {
        0 | 1 => Fault::Wipe(away),
        2 | 3 => Fault::RollBack(dice.random(), away),
        4..7 => {
            let back = dice.random_bool(0.5).then(|| dice.random());
            Fault::LoseAfter(dice.random_range(1..8), back)
        }
        _ => Fault::Step(dice.random_range(-20_000..20_000)),
    }
}
