//! The doors of engine and ledger, as one process of a world has them: every call takes its time on a wire that
//! may lose the request, or the reply to what was done.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use windlass_shared::engine::embedded::Embedded;
use windlass_shared::engine::{ClaimReply, Engine, EngineError};
use windlass_shared::ledger::sqlite::Sqlite;
use windlass_shared::ledger::{Ledger, LedgerError};
use windlass_shared::tap::{EngineTap, LedgerTap};

use crate::below;
use crate::story::{Cost, Trouble};
use crate::world::{Far, Who, World};

/// Whoever waits for what was lost gives up after this long, as the settings of Redis and PostgreSQL say.
const GIVE_UP: Duration = Duration::from_secs(2);
/// The usual time of one way, at most, in µs.
const USUAL_US: u64 = 1_500;

/// Calls of the ledger that change nothing, so that a lost answer leaves nothing unknown.
const READS: [&str; 24] = [
    "attempts",
    "blob",
    "checkpoint",
    "due_runs",
    "job",
    "jobs",
    "key",
    "keys",
    "leader",
    "list",
    "list_runs",
    "logs",
    "now",
    "on_record",
    "operation",
    "queue",
    "queue_page",
    "rollups",
    "run",
    "shard",
    "steps",
    "terminal_among",
    "unfinished",
    "waiting",
];

/// One process's way to one store.
struct Way {
    world: Arc<World>,
    who: Who,
    far: Far,
}

impl Way {
    /// One way; whether the message arrived.
    async fn travel(&self) -> bool {
        if self.world.dies_at_message(self.who) {
            return std::future::pending().await;
        }
        let wire = self.world.wire(self.who, self.far);
        let us = 50 + self.world.roll(USUAL_US) + self.world.roll(1 + wire.slow.as_micros() as u64);
        let lost = wire.cut || self.world.roll(100) < u64::from(wire.lost_percent);
        tokio::time::sleep(Duration::from_micros(us)).await;
        // What was on its way when the wire was cut does not arrive.
        let lost = lost || self.world.wire(self.who, self.far).cut;
        if lost {
            tokio::time::sleep(GIVE_UP).await;
        }
        !lost
    }

    fn note(&self, call: &str, what: &str) {
        self.world.note(format_args!("{:?} {:?}.{call} {what}", self.who, self.far));
    }
}

/// The engine, as this process reaches it.
pub fn engine(world: &Arc<World>, who: Who) -> Engine {
    Engine::Tapped(Arc::new(Way { world: Arc::clone(world), who, far: Far::Engine }))
}

/// The ledger, as this process reaches it.
pub fn ledger(world: &Arc<World>, who: Who) -> Ledger {
    Ledger::Tapped(Arc::new(Way { world: Arc::clone(world), who, far: Far::Ledger }))
}

impl EngineTap for Way {
    fn before(&self, call: &'static str) -> BoxFuture<'_, Result<Arc<Embedded>, EngineError>> {
        Box::pin(async move {
            if self.travel().await {
                self.note(call, "arrives");
                return Ok(self.world.engine());
            }
            self.note(call, "was lost");
            Err(EngineError::Unavailable("no answer".into()))
        })
    }

    fn saw(&self, call: &'static str, answer: &dyn Any) {
        if call == "settle" && self.world.settled() {
            let (from, cost) = (below::now_ns(), Cost::Engine);
            let trouble = Trouble { from, to: from, whose: None, cost };
            self.world.state().story.troubles.push(trouble);
        }
        if let Some(Ok(reply)) = answer.downcast_ref::<Result<ClaimReply, EngineError>>() {
            self.world.state().story.leased(self.who, reply);
        }
    }

    fn after(&self, call: &'static str) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            if self.travel().await {
                return Ok(());
            }
            self.note(call, "was answered in vain");
            Err(EngineError::Unavailable("no answer".into()))
        })
    }
}

impl LedgerTap for Way {
    fn ledger(&self) -> &Arc<Sqlite> {
        &self.world.ledger
    }

    fn before(&self, call: &'static str) -> BoxFuture<'_, Result<(), LedgerError>> {
        Box::pin(async move {
            if self.travel().await {
                self.note(call, "arrives");
                return Ok(());
            }
            self.note(call, "was lost");
            Err(LedgerError::Unavailable("no answer".into()))
        })
    }

    fn carry(&self, call: BoxFuture<'_, ()>) {
        below::outside(|| self.world.ledger_runtime.block_on(call));
    }

    fn failed(&self, call: &'static str, error: &LedgerError) {
        self.note(call, &format!("fails: {error:?}"));
        if !matches!(error, LedgerError::Overloaded | LedgerError::TooManyQueues) {
            self.world.broken(format!("{:?}: the ledger fails {call}: {error:?}", self.who));
        }
    }

    fn after(&self, call: &'static str) -> BoxFuture<'_, Result<(), LedgerError>> {
        Box::pin(async move {
            if self.travel().await {
                return Ok(());
            }
            self.note(call, "was answered in vain");
            if READS.contains(&call) {
                return Err(LedgerError::Unavailable("no answer".into()));
            }
            Err(LedgerError::OutcomeUnknown)
        })
    }
}
