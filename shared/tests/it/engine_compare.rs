//! Engines beside the model: equal replies and equal states after every step of random histories.

use std::sync::Arc;
use std::time::Duration;

use windlass_shared::clock::Clock;
use windlass_shared::engine::embedded::Embedded;
use windlass_shared::engine::model::ShardDump;
use windlass_shared::engine::{Engine, ProcessId, ShardId};
use windlass_shared::model::name::{Namespace, QueueName};
use windlass_shared::model::time::Timestamp;
use windlass_shared::testkit::histories::compare::{check, play};
use windlass_shared::testkit::histories::shrink::shrink;
use windlass_shared::testkit::histories::{BOUNDS, Call, Replay, Reply, Step, call, draw};

const START: Timestamp = Timestamp::from_micros(1_700_000_000_000_250);

struct OnEmbedded {
    clock: Clock,
    embedded: Arc<Embedded>,
    engine: Engine,
    shard: ShardId,
}

impl OnEmbedded {
    fn fresh() -> Self {
        let clock = Clock::manual(START);
        let embedded = Arc::new(Embedded::with_bounds(clock.clone(), BOUNDS));
        let shard = ShardId::first(Namespace::default(), QueueName::default());
        Self { clock, engine: Engine::Embedded(embedded.clone()), embedded, shard }
    }
}

impl Replay for OnEmbedded {
    async fn now(&mut self) -> Timestamp {
        self.engine.now().await.expect("the embedded engine always answers")
    }
    async fn advance(&mut self, by: Duration) {
        self.clock.advance(by);
    }
    async fn call(&mut self, wanted: &Call) -> (Reply, Timestamp) {
        let reply = call(&self.engine, &self.shard, wanted).await;
        (reply.expect("the embedded engine always answers"), self.clock.now())
    }
    async fn dump(&mut self) -> ShardDump {
        self.embedded.dump(&self.shard)
    }
    async fn process(&mut self) -> ProcessId {
        self.engine.gate(&self.shard).await.expect("the embedded engine always answers").process
    }
    async fn wipe(&mut self) {
        self.embedded.wipe();
    }
    async fn restart(&mut self) -> bool {
        self.embedded.restart_from(self.embedded.snapshot());
        true
    }
}

#[tokio::test]
async fn the_embedded_engine_does_what_the_model_does() {
    check(0..1_000, 40, async || OnEmbedded::fresh()).await;
}

/// An engine with a bug: it forgets to promote.
struct Forgetful(OnEmbedded);

impl Replay for Forgetful {
    async fn now(&mut self) -> Timestamp {
        self.0.now().await
    }
    async fn advance(&mut self, by: Duration) {
        self.0.advance(by).await;
    }
    async fn call(&mut self, wanted: &Call) -> (Reply, Timestamp) {
        match wanted {
            Call::Promote(_) => (Reply::Promote(0), self.now().await),
            other => self.0.call(other).await,
        }
    }
    async fn dump(&mut self) -> ShardDump {
        self.0.dump().await
    }
    async fn process(&mut self) -> ProcessId {
        self.0.process().await
    }
    async fn wipe(&mut self) {
        self.0.wipe().await;
    }
    async fn restart(&mut self) -> bool {
        self.0.restart().await
    }
}

#[tokio::test]
async fn a_bug_is_found_and_its_history_made_short() {
    let fails =
        async |steps: &[Step]| play(&mut Forgetful(OnEmbedded::fresh()), steps).await.is_some();
    let mut seeds = 0..200;
    let found = loop {
        let seed = seeds.next().expect("one of 200 histories promotes something");
        let steps = draw(seed, 40);
        if fails(&steps).await {
            break steps;
        }
    };
    let short = shrink(found, fails).await;
    // Something delayed, time passing, and the promotion that did not happen.
    assert!(short.len() <= 4, "{short:#?}");
    assert!(matches!(short.last(), Some(Step::Promote(_))), "{short:#?}");
}
