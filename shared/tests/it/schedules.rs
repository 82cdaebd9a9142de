//! Goal: however many look at, change, trigger and backfill schedules at the same time, each due time has one row, and
//! each fired one has one job; on both ledgers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use windlass_shared::clock::Clock;
use windlass_shared::config::{EngineSettings, LedgerSettings};
use windlass_shared::engine::Engine;
use windlass_shared::ledger::schedules::{FireRow, Schedule};
use windlass_shared::ledger::{JobFilter, Ledger, LedgerError, Paused};
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::lifecycle::schedule::NewSchedule;
use windlass_shared::model::id::ScheduleId;
use windlass_shared::model::job::{JobSpec, Priority};
use windlass_shared::model::name::{Namespace, ScheduleName};
use windlass_shared::model::schedule::decide::Submitted;
use windlass_shared::model::schedule::times::{Timing, Zone};
use windlass_shared::model::schedule::{
    CatchUp, CatchUpPolicy, FireOutcome, FireSource, Overlap, ScheduleSpec, ScheduledWork,
};
use windlass_shared::model::time::{Span, Timestamp};
use windlass_shared::model::workflow::JobTemplate;
use windlass_shared::testkit::postgres_server::PostgresServer;

/// How far in the past the schedules begin: so many due times are to be decided at once.
const BEHIND: Duration = Duration::from_secs(120);
const EVERY: Duration = Duration::from_secs(1);

fn spec(n: usize, anchor: Timestamp) -> ScheduleSpec {
    let overlaps = [Overlap::Allow, Overlap::Skip, Overlap::Queue, Overlap::Replace];
    let policies = [CatchUpPolicy::All, CatchUpPolicy::One, CatchUpPolicy::None];
    ScheduleSpec {
        timing: Timing::Every { every: Span(EVERY), anchor },
        zone: Zone::default(),
        overlap: overlaps[n % overlaps.len()],
        catch_up: CatchUp {
            policy: policies[n % policies.len()],
            max: 40,
            grace: Span(BEHIND / 2),
        },
        jitter: n.is_multiple_of(2).then_some(Span(Duration::from_millis(500))),
        start_at: None,
        end_at: None,
        exclude: Vec::new(),
        pause_on_failure: None,
        work: ScheduledWork::Job(JobTemplate {
            queue: format!("q{}", n % 2).parse().unwrap(),
            kind: "k".parse().unwrap(),
            priority: Priority::default(),
            payload: serde_json::json!({"due": "${{ run.scheduled_at }}"}),
            is_template: false,
            delay: None,
            ttl: None,
            spec: JobSpec::default(),
            tags: Vec::new(),
            meta: None,
        }),
        description: String::new(),
    }
}

async fn life(ledger: Ledger) -> Lifecycle {
    let engine = Engine::open(&EngineSettings::new("embedded")).await.unwrap();
    Lifecycle::start(ledger, engine, Clock::System, CancellationToken::new(), TaskTracker::new())
}

/// One thing that somebody does. Refusals for the schedule's being far behind, or busy, are part of it.
async fn act(life: &Lifecycle, name: &ScheduleName, draw: &mut StdRng, anchor: Timestamp) {
    let namespace = Namespace::default();
    let fine = |error: LedgerError| match error {
        LedgerError::Unavailable(_) | LedgerError::OutcomeUnknown => {}
        other => panic!("{other:?}"),
    };
    match draw.random_range(0..20) {
        0 => {
            let paused = Paused { since: anchor, by: "test".into(), reason: None };
            let paused = draw.random_bool(0.4).then_some(paused);
            life.pause_schedule(&namespace, name, paused).await.map(drop).unwrap_or_else(fine);
        }
        1 => {
            let make = |schedule: &Schedule| Ok::<_, ()>(schedule.spec.clone());
            life.patch_schedule(&namespace, name, make).await.map(drop).unwrap_or_else(fine);
        }
        2 => {
            let due = life.trigger_time().await.unwrap();
            life.trigger_schedule(&namespace, name, due).await.map(drop).unwrap_or_else(fine);
        }
        3 => {
            let from = anchor.plus(EVERY * draw.random_range(0..60));
            let to = from.plus(EVERY * 20);
            life.backfill_schedule(&namespace, name, from, to).await.map(drop).unwrap_or_else(fine);
        }
        _ => life.look_at_schedule(&namespace, name).await.map(drop).unwrap_or_else(fine),
    }
}

async fn all_fires(ledger: &Ledger, id: ScheduleId) -> Vec<FireRow> {
    let (mut fires, mut before) = (Vec::new(), None);
    loop {
        let page = ledger.fires(id, before, 500).await.unwrap();
        let Some(last) = page.last() else { return fires };
        before = Some(last.due);
        fires.extend(page);
    }
}

async fn all_jobs(ledger: &Ledger) -> BTreeMap<String, serde_json::Value> {
    let (mut jobs, mut before) = (BTreeMap::new(), None);
    loop {
        let filter = JobFilter::default();
        let page = ledger.list(&Namespace::default(), &filter, before, 500).await.unwrap();
        for job in page.jobs {
            let windlass_shared::model::job::Value::Inline(payload) = &job.payload else {
                panic!("payloads are small here");
            };
            jobs.insert(job.id.to_string(), serde_json::from_slice(payload).unwrap());
        }
        let Some(next) = page.next else { return jobs };
        before = Some(next);
    }
}

/// Several processes, each with a ledger of its own, act on a few schedules that are behind.
async fn storm(ledgers: Vec<Ledger>, seed: u64) {
    const SCHEDULES: usize = 6;
    let ledger = ledgers[0].clone();
    let anchor = Timestamp::from_millis(ledger.now().await.unwrap().minus(BEHIND).millis());
    let names: Vec<ScheduleName> =
        (0..SCHEDULES).map(|n| format!("s{n}").parse().unwrap()).collect();
    let mut made = Vec::new();
    let first = life(ledger.clone()).await;
    for (n, name) in names.iter().enumerate() {
        let (id, namespace) = (ScheduleId::generate(), Namespace::default());
        let new =
            NewSchedule { id, namespace, name: name.clone(), spec: spec(n, anchor), paused: None };
        made.push(first.create_schedule(new).await.unwrap().unwrap());
    }
    let (from, now) = (anchor.micros(), ledger.now().await.unwrap().micros());
    ledger
        .tamper(format!("UPDATE schedules SET cursor_at = {from}, look_at = {now}"))
        .await
        .unwrap();
    let mut tasks = JoinSet::new();
    for (n, ledger) in ledgers.iter().enumerate() {
        let (life, names) = (life(ledger.clone()).await, names.clone());
        tasks.spawn(async move {
            let mut draw = StdRng::seed_from_u64(seed * 100 + n as u64);
            for _ in 0..120 {
                let name = &names[draw.random_range(0..names.len())];
                act(&life, name, &mut draw, anchor).await;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    for schedule in &made {
        while first.look_at_schedule(&schedule.namespace, &schedule.name).await.unwrap() > 0 {}
    }
    account(&ledger, &made, anchor).await;
}

async fn account(ledger: &Ledger, made: &[Schedule], anchor: Timestamp) {
    let jobs = all_jobs(ledger).await;
    let mut named = BTreeSet::new();
    for schedule in made {
        let now = ledger.schedule(&schedule.namespace, &schedule.name).await.unwrap().unwrap();
        let fires = all_fires(ledger, schedule.id).await;
        let own = fires.iter().filter(|fire| fire.source != FireSource::Trigger);
        let due: BTreeSet<i64> = own.clone().map(|fire| fire.due.micros()).collect();
        assert_eq!(due.len(), own.count(), "{}: a due time with two rows", schedule.name);
        let every = i64::try_from(EVERY.as_micros()).unwrap();
        let expected: BTreeSet<i64> = (1..)
            .map(|n| anchor.micros() + n * every)
            .take_while(|at| *at <= now.cursor.micros())
            .collect();
        // A backfill may reach back to the anchor itself.
        let strange: Vec<_> =
            due.difference(&expected).filter(|at| **at != anchor.micros()).collect();
        let missing: Vec<_> = expected.difference(&due).collect();
        assert!(
            missing.is_empty() && strange.is_empty(),
            "{}: {missing:?} {strange:?}",
            schedule.name
        );
        for fire in &fires {
            let fired = fire.outcome == FireOutcome::Fired;
            assert_eq!(fired, fire.work.is_some(), "{fire:?}");
            let Some(Submitted::Job(id)) = fire.work else { continue };
            let job = &jobs[&id.to_string()];
            assert_eq!(job["due"], serde_json::to_value(fire.due).unwrap(), "{fire:?}");
            assert!(named.insert(id.to_string()), "a job of two fires: {fire:?}");
        }
    }
    let unnamed: Vec<_> = jobs.keys().filter(|id| !named.contains(*id)).collect();
    assert!(unnamed.is_empty(), "jobs without a fire: {unnamed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_due_time_is_accounted_for_once_on_postgres() {
    let server = PostgresServer::start();
    let url = server.url(&server.database().await);
    let mut ledgers = Vec::new();
    for _ in 0..4 {
        ledgers.push(Ledger::open(&LedgerSettings::new(url.clone())).await.unwrap());
    }
    storm(ledgers.clone(), 1).await;
    for ledger in ledgers {
        ledger.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_due_time_is_accounted_for_once_on_sqlite() {
    for seed in 1..=3 {
        let folder = tempfile::tempdir().unwrap();
        let settings =
            LedgerSettings::new(format!("sqlite://{}/ledger.db", folder.path().display()));
        Ledger::migrate(&settings).await.unwrap();
        let ledger = Ledger::open(&settings).await.unwrap();
        storm(vec![ledger.clone(); 4], seed).await;
        ledger.close().await;
    }
}
