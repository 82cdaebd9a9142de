//! What is searched: small worlds that together hold every fault.

use crate::rules::{Loss, Scope};
use crate::state::Budget;

const NOTHING: Budget = Budget {
    losses: 0,
    outages: 0,
    expiries: 0,
    crashes: 0,
    misses: 0,
    doubts: 0,
    takeovers: 0,
    others: 0,
};

const PLAIN: Scope = Scope {
    name: "",
    losses: &[],
    left: NOTHING,
    clock_back: false,
    fresh: false,
    notes: false,
    fails: false,
    second_lease: false,
};

const CRASH: Budget = Budget { losses: 1, crashes: 1, ..NOTHING };

pub const STEADY: Scope = Scope {
    name: "no loss; a silence, a slow worker, a crash",
    left: Budget { outages: 1, expiries: 1, crashes: 1, ..NOTHING },
    notes: true,
    ..PLAIN
};

pub const SLOW: Scope = Scope {
    name: "no loss; two leases run out",
    left: Budget { expiries: 2, ..NOTHING },
    notes: true,
    ..PLAIN
};

pub const WIPE: Scope = Scope {
    name: "wipe or flush, a crash",
    losses: &[Loss::Wipe, Loss::Flush],
    left: CRASH,
    notes: true,
    ..PLAIN
};

pub const ROLLBACK: Scope = Scope {
    name: "rollback, a crash, another job's outcome",
    losses: &[Loss::Rollback],
    left: Budget { others: 1, ..CRASH },
    ..PLAIN
};

pub const RETRY: Scope = Scope {
    name: "rollback, the first attempt fails",
    losses: &[Loss::Rollback],
    left: Budget { losses: 1, ..NOTHING },
    fails: true,
    ..PLAIN
};

pub const RETRY_NOTED: Scope = Scope {
    name: "flush, the first attempt fails, leases are noted as running",
    losses: &[Loss::Flush],
    notes: true,
    ..RETRY
};

pub const RETRY_STEADY: Scope = Scope {
    name: "no loss; the first attempt fails, a verification without need",
    left: Budget { doubts: 1, ..NOTHING },
    notes: true,
    fails: true,
    ..PLAIN
};

pub const WIPE_OTHER: Scope = Scope {
    name: "flush, another job's outcome",
    losses: &[Loss::Flush],
    left: Budget { losses: 1, others: 1, ..NOTHING },
    ..PLAIN
};

pub const CLOCK: Scope = Scope {
    name: "rollback, the clock goes back, a worker misses the window, a crash",
    losses: &[Loss::Rollback],
    left: Budget { misses: 1, ..CRASH },
    clock_back: true,
    ..PLAIN
};

pub const WIPE_SLOW: Scope = Scope {
    name: "flush, a lease runs out",
    losses: &[Loss::Flush],
    left: Budget { losses: 1, expiries: 1, ..NOTHING },
    ..PLAIN
};

pub const SECOND: Scope = Scope {
    name: "flush while a second lease runs, a crash",
    losses: &[Loss::Flush],
    left: CRASH,
    second_lease: true,
    ..PLAIN
};

pub const WIPE_MISS: Scope = Scope {
    name: "wipe or flush, a worker misses the window, a crash",
    losses: &[Loss::Wipe, Loss::Flush],
    left: Budget { misses: 1, ..CRASH },
    ..PLAIN
};

pub const SILENCE: Scope = Scope {
    name: "rollback, a silence, a worker misses the window",
    losses: &[Loss::Rollback],
    left: Budget { losses: 1, outages: 1, misses: 1, ..NOTHING },
    ..PLAIN
};

pub const DOUBT: Scope = Scope {
    name: "rollback during a verification",
    losses: &[Loss::Rollback],
    left: Budget { losses: 1, doubts: 1, ..NOTHING },
    ..PLAIN
};

pub const LEADERS: Scope = Scope {
    name: "flush, two leaders, a verification without need",
    losses: &[Loss::Flush],
    left: Budget { losses: 1, doubts: 1, takeovers: 1, ..NOTHING },
    ..PLAIN
};

pub const FRESH: Scope = Scope {
    name: "first opening, flush, a verification without need",
    losses: &[Loss::Flush],
    left: Budget { losses: 1, doubts: 1, ..NOTHING },
    fresh: true,
    ..PLAIN
};

/// Not promised: the process stays, its data goes back, and the gate with it.
pub const IN_PLACE: Scope = Scope {
    name: "the same process goes back to its image",
    losses: &[Loss::RollbackInPlace],
    left: Budget { losses: 1, ..NOTHING },
    ..PLAIN
};

/// Searched in every run of the tests: worlds without a loss.
pub const LOSSLESS: [Scope; 2] = [STEADY, SLOW];
/// Worlds with a loss.
pub const LOSSES: [Scope; 5] = [WIPE, ROLLBACK, WIPE_OTHER, WIPE_SLOW, SILENCE];
/// Worlds in which the job is tried again.
pub const RETRIES: [Scope; 3] = [RETRY, RETRY_NOTED, RETRY_STEADY];
/// Worlds in which a worker comes late, or two hold a lease of the job.
pub const LATE_WORKERS: [Scope; 3] = [CLOCK, SECOND, WIPE_MISS];
/// Worlds in which somebody opens the shard at the wrong moment.
pub const OPENINGS: [Scope; 3] = [DOUBT, LEADERS, FRESH];

const STEADY_LONG: Scope = Scope {
    name: "no loss; a silence, two slow workers, a crash",
    left: Budget { outages: 1, expiries: 2, crashes: 1, ..NOTHING },
    ..STEADY
};

const WIPE_LONG: Scope = Scope {
    name: "wipe or flush, a slow worker, a crash",
    left: Budget { expiries: 1, ..CRASH },
    notes: false,
    ..WIPE
};

const ROLLBACK_LONG: Scope = Scope {
    name: "rollback, a slow worker, a crash",
    losses: &[Loss::Rollback],
    left: Budget { expiries: 1, ..CRASH },
    ..PLAIN
};

const SECOND_LONG: Scope = Scope {
    name: "rollback while a second lease runs, a worker misses the window, a crash",
    losses: &[Loss::Rollback],
    left: Budget { misses: 1, ..CRASH },
    ..SECOND
};

const LEADERS_LONG: Scope = Scope {
    name: "rollback or flush, two leaders, a verification without need",
    losses: &[Loss::Rollback, Loss::Flush],
    ..LEADERS
};

const RETRY_LONG: Scope = Scope {
    name: "rollback, the first attempt fails, leases are noted as running",
    notes: true,
    ..RETRY
};

/// Also the world in which it shows that a retry may be known to a later lease alone.
pub const RETRY_CRASH_LONG: Scope =
    Scope { name: "rollback, the first attempt fails, a crash", left: CRASH, ..RETRY };

const RETRY_LEADERS_LONG: Scope = Scope {
    name: "flush, the first attempt fails, two leaders",
    losses: &[Loss::Flush],
    left: Budget { losses: 1, takeovers: 1, ..NOTHING },
    ..RETRY
};

/// Minutes and gigabytes: searched on request.
pub const LONG: [Scope; 8] = [
    RETRY_LONG,
    RETRY_CRASH_LONG,
    RETRY_LEADERS_LONG,
    STEADY_LONG,
    WIPE_LONG,
    ROLLBACK_LONG,
    SECOND_LONG,
    LEADERS_LONG,
];
