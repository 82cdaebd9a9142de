//! Large runs while processes are killed.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use windlass_loadtest::{graph, workflow};
use windlass_shared::ledger::Ledger;
use windlass_shared::model::id::WorkflowId;
use windlass_shared::model::name::Namespace;
use windlass_shared::model::workflow::WorkflowState;

use crate::harness::{Fleet, Role};

/// Processes killed, one after the other.
const KILLS_MAX: u32 = 30;
/// The run has ended by then.
const LIMIT: Duration = Duration::from_secs(200);

/// Numbers that are different in every run of the test and can be had again.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = std::env::var("WINDLASS_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
            u64::from(now.subsec_nanos())
        });
        println!("WINDLASS_TEST_SEED={seed}");
        Self(seed)
    }

    /// Below a bound. Knuth's MMIX generator.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Goal: in a run of 10,000 steps each step ends exactly once, after all that it needs, whatever dies.
/// Method: 1 -> 4,998 -> 1, then 1,000 diamonds of 5 steps in 10 rows; schedulers (with their recorders) and workers
/// are killed with SIGKILL at random; every step's record is read from the ledger and held against the graph.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_steps_end_once_each_whatever_is_killed() {
    let mut fleet = Fleet::start().await;
    let mut random = Random::new();
    let mut workers: Vec<Role> = (0..4).map(|_| fleet.worker(50)).collect();
    let edges = graph::fan_and_diamonds(4_998, 1_000, 10, 3);
    assert_eq!(edges.len(), 10_000);
    // A step may be under way on each of the workers that are killed.
    let job = json!({"kind": "noop", "max_crashes": KILLS_MAX});
    let document = graph::document("chaos", &edges, &job);
    let (status, run) = fleet.post("/v1/workflows", document).await;
    assert_eq!(status, 201, "{run}");
    let id: WorkflowId = run["id"].as_str().expect("an id").parse().expect("an id");

    let ledger = Ledger::open(&fleet.ledger()).await.expect("the ledger opens");
    let namespace = Namespace::default();
    let started = Instant::now();
    let (mut kills, mut next_kill) = (0, started);
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    let ended = loop {
        pace.tick().await;
        let run = ledger.run(&namespace, id).await.expect("the ledger answers");
        let run = run.expect("the run is on record");
        if run.state.is_terminal() {
            break run;
        }
        assert!(started.elapsed() < LIMIT, "{:?}", ledger.step_counts(id).await);
        if kills < KILLS_MAX && Instant::now() >= next_kill {
            match random.below(5) {
                0 => fleet.kill_scheduler(),
                n => {
                    let n = usize::try_from(n - 1).expect("a small number");
                    workers[n].kill_9();
                    workers[n] = fleet.worker(50);
                }
            }
            kills += 1;
            next_kill = Instant::now() + Duration::from_millis(200 + random.below(600));
        }
    };
    println!("ended after {:?} and {kills} kills", started.elapsed());
    assert_eq!(ended.state, WorkflowState::Succeeded, "{:?}", ended.error);
    assert!(kills > 0, "nothing was killed");
    let ran = workflow::ran(&ledger, id).await.expect("every step has ended well, once");
    graph::check(&edges, &ran).expect("every step ran after what it needs");
}
