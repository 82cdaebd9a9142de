//! From claim to outcome.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::Barrier;
use windlass_shared::engine::{Ended, LiveState};
use windlass_shared::model::job::JobSpec;
use windlass_worker::context::Context;
use windlass_worker::error::HandlerError;

use crate::fixture::{Rig, limited, spec};

#[tokio::test]
async fn built_in_kinds_succeed_with_their_output() {
    let mut rig = Rig::new().await;
    let worker = rig.start(|b| b);
    let payload = json!({"a": [1, {"b": null}]});
    for (kind, payload, output) in [
        ("noop", json!({"any": "thing"}), json!(null)),
        ("echo", payload.clone(), payload),
        ("sleep", json!({"for": "1ms"}), json!(null)),
        ("fail", json!({"times": 0}), json!({"attempt": 1})),
    ] {
        let end = rig.run(kind, payload, spec(1)).await;
        assert_eq!((end.ended, end.attempt), (Ended::Succeeded, 1), "{kind}: {end:?}");
        assert_eq!(end.output(), output, "{kind}");
        assert_eq!(end.detail.head.worker.as_deref(), Some("rig"));
    }
    worker.stop().await;
}

#[tokio::test]
async fn burning_ends_in_time_and_when_it_is_stopped() {
    let mut rig = Rig::new().await;
    let worker = rig.start(|b| b);
    let end = rig.run("cpu.burn", json!({"seconds": 0.02}), spec(1)).await;
    let used = end.output()["cpu_seconds"].as_f64().unwrap();
    assert!((0.02..1.0).contains(&used), "{used}");
    for wrong in [json!({"seconds": -1}), json!({"seconds": 3600.5}), json!({"for": 1})] {
        let end = rig.run("cpu.burn", wrong, spec(5)).await;
        assert_eq!((end.ended, end.attempt, end.code()), (Ended::Dead, 1, "invalid_payload"));
    }
    // Over its limit it is stopped, and so is its thread, for which the runtime waits at the end of this test.
    let end = rig.run("cpu.burn", json!({"seconds": 3600}), limited(1, 50)).await;
    assert_eq!(end.code(), "timeout");
    worker.stop().await;
}

#[tokio::test]
async fn failures_are_retried_until_the_job_is_dead() {
    let mut rig = Rig::new().await;
    let worker = rig.start(|b| b);
    let id = rig.push("fail", json!({"error": "broken_pipe"}), spec(3)).await;
    let ends = rig.outcomes(id, |o| o.ended.is_terminal()).await;
    let attempts: Vec<u32> = ends.iter().map(|end| end.attempt).collect();
    assert_eq!(attempts, [1, 2, 3]);
    for end in &ends[..2] {
        let delay = Duration::from_millis(10);
        assert_eq!(end.ended, Ended::Retry(end.at.plus(delay)));
    }
    assert_eq!((ends[2].ended, ends[2].code()), (Ended::Dead, "broken_pipe"));
    let end = rig.run("fail", json!({"times": 2}), spec(5)).await;
    assert_eq!((end.ended, end.output()), (Ended::Succeeded, json!({"attempt": 3})));
    let end = rig.run("fail", json!({"permanent": true}), spec(5)).await;
    assert_eq!((end.ended, end.attempt), (Ended::Dead, 1));
    worker.stop().await;
}

#[tokio::test]
async fn typed_handlers_read_their_payload_and_any_error_is_retryable() {
    #[derive(serde::Deserialize)]
    struct Pair {
        left: u32,
        right: u32,
    }
    let mut rig = Rig::new().await;
    let worker = rig.start(|b| {
        b.handle("add", |ctx: Context, pair: Pair| async move {
            assert_eq!(
                (ctx.attempt(), ctx.kind().as_str(), ctx.queue().as_str()),
                (1, "add", "default")
            );
            assert!(ctx.traceparent().is_some() && ctx.fence().0 > 0);
            pair.left
                .checked_add(pair.right)
                .ok_or(HandlerError::permanent("overflow", "too large"))
        })
        .handle("io", |_ctx, (): ()| async move {
            std::fs::read("/nonexistent").map(|_| ()).map_err(HandlerError::from)
        })
    });
    assert_eq!(rig.run("add", json!({"left": 2, "right": 3}), spec(1)).await.output(), json!(5));
    let end = rig.run("add", json!({"left": u32::MAX, "right": 1}), spec(5)).await;
    assert_eq!((end.ended, end.code()), (Ended::Dead, "overflow"));
    let end = rig.run("add", json!({"left": 2, "right": "x"}), spec(5)).await;
    assert_eq!((end.ended, end.code(), end.attempt), (Ended::Dead, "invalid_payload", 1));
    assert!(end.message().contains("`right`"), "{}", end.message());
    let id = rig.push("io", json!(null), spec(2)).await;
    let end = rig.first(id).await;
    assert!(matches!(end.ended, Ended::Retry(_)));
    assert_eq!(end.code(), "handler_error");
    worker.stop().await;
}

#[tokio::test]
async fn a_panic_fails_its_attempt_and_nothing_else() {
    let mut rig = Rig::new().await;
    let worker = rig.start(|b| {
        b.handle("late", |_ctx, (): ()| async move {
            tokio::task::yield_now().await;
            if true {
                panic!("not {}", "again");
            }
            Ok::<_, HandlerError>(())
        })
        .handler("early", Early)
    });
    let beside = rig.push("sleep", json!({"for": "200ms"}), spec(1)).await;
    let end = rig.run("late", json!(null), spec(2)).await;
    assert_eq!((end.ended, end.code(), end.attempt), (Ended::Dead, "panic", 2));
    assert!(end.message().contains("not again"), "{}", end.message());
    assert_eq!(rig.run("early", json!(null), spec(1)).await.code(), "panic");
    assert_eq!(rig.last(beside).await.ended, Ended::Succeeded);
    worker.stop().await;
}

/// Panics before there is a future.
struct Early;

impl windlass_worker::handler::Handler for Early {
    fn call(
        &self,
        _ctx: Context,
    ) -> futures::future::BoxFuture<'static, Result<windlass_worker::handler::Output, HandlerError>>
    {
        panic!("no future")
    }
}

#[tokio::test]
async fn an_attempt_over_its_limit_is_stopped_and_counts() {
    let mut rig = Rig::new().await;
    let worker = rig.start(|b| {
        b.handle("listens", |ctx: Context, (): ()| async move {
            ctx.cancellation().cancelled().await;
            // Too late to count.
            Ok::<_, HandlerError>(())
        })
    });
    for kind in ["sleep", "listens"] {
        let payload = if kind == "sleep" { json!({"for": "1h"}) } else { json!(null) };
        let id = rig.push(kind, payload, limited(2, 50)).await;
        let ends = rig.outcomes(id, |o| o.ended.is_terminal()).await;
        assert_eq!(ends.len(), 2);
        for end in &ends {
            assert_eq!(
                (end.code(), end.detail.head.timed_out),
                ("timeout", true),
                "{kind}: {end:?}"
            );
        }
        assert_eq!((ends[1].ended, ends[1].attempt), (Ended::Dead, 2));
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_snooze_does_not_count_as_an_attempt() {
    let mut rig = Rig::new().await;
    let calls = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&calls);
    let worker = rig.start(|b| {
        b.handle("later", move |ctx: Context, (): ()| {
            let call = calls.fetch_add(1, Ordering::SeqCst);
            async move {
                match call {
                    0 | 1 => Err(HandlerError::snooze(Duration::from_millis(20))),
                    _ => Ok(ctx.attempt()),
                }
            }
        })
    });
    let id = rig.push("later", json!(null), spec(1)).await;
    let ends = rig.outcomes(id, |o| o.ended.is_terminal()).await;
    assert!(ends[..2].iter().all(|end| matches!(end.ended, Ended::Snoozed(_))), "{ends:?}");
    assert_eq!((ends.len(), ends[2].output()), (3, json!(1)));
    assert_eq!(seen.load(Ordering::SeqCst), 3);
    worker.stop().await;
}

#[tokio::test]
async fn jobs_of_kinds_without_a_handler_are_left_to_others() {
    let mut rig = Rig::new().await;
    let foreign = rig.push("unheard.of", json!(null), spec(1)).await;
    let worker = rig.start(|b| b);
    assert_eq!(rig.run("noop", json!(null), spec(1)).await.ended, Ended::Succeeded);
    let live = rig.engine.peek(&rig.shard, foreign).await.unwrap().unwrap();
    assert!(matches!(live.state, LiveState::Ready { .. }), "{live:?}");
    worker.stop().await;
}

#[tokio::test]
async fn envelopes_that_cannot_be_read_are_parked_or_dead() {
    let mut rig = Rig::new().await;
    let worker = rig.start(|b| b);
    let newer = rig.push_raw("noop".parse().unwrap(), Bytes::from_static(b"\x09newer.")).await;
    let end = rig.first(newer).await;
    assert!(matches!(end.ended, Ended::Snoozed(_)), "{end:?}");
    assert_eq!(end.code(), "bad_envelope");
    let damaged =
        rig.push_raw("noop".parse().unwrap(), Bytes::from_static(b"\x01\xff\xff\xff\xff")).await;
    let end = rig.first(damaged).await;
    assert_eq!((end.ended, end.code()), (Ended::Dead, "bad_envelope"));
    worker.stop().await;
}

#[tokio::test]
async fn slots_and_weights_bound_what_runs_at_once() {
    let mut rig = Rig::new().await;
    rig.settings.concurrency = 4;
    let (busy, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let peak = Arc::clone(&most);
    let worker = rig.start(|b| {
        b.handle("weigh", move |ctx: Context, (): ()| {
            let (busy, most) = (Arc::clone(&busy), Arc::clone(&most));
            async move {
                let weight = ctx.spec().weight.min(4);
                most.fetch_max(busy.fetch_add(weight, Ordering::SeqCst) + weight, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(5)).await;
                busy.fetch_sub(weight, Ordering::SeqCst);
                Ok::<_, HandlerError>(())
            }
        })
    });
    let mut ids = Vec::new();
    for n in 0..40 {
        let weight = [1, 1, 3, 1, 99][n % 5];
        ids.push(rig.push("weigh", json!(null), JobSpec { weight, ..spec(1) }).await);
    }
    for id in ids {
        assert_eq!(rig.last(id).await.ended, Ended::Succeeded);
    }
    assert_eq!(peak.load(Ordering::SeqCst), 4);
    worker.stop().await;
}

#[tokio::test]
async fn all_slots_are_used() {
    let mut rig = Rig::new().await;
    let together = Arc::new(Barrier::new(8));
    let worker = rig.start(|b| {
        b.handle("meet", move |_ctx, (): ()| {
            let together = Arc::clone(&together);
            async move {
                together.wait().await;
                Ok::<_, HandlerError>(())
            }
        })
    });
    let mut ids = Vec::new();
    for _ in 0..8 {
        ids.push(rig.push("meet", json!(null), spec(1)).await);
    }
    for id in ids {
        assert_eq!(rig.last(id).await.ended, Ended::Succeeded);
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_jobs_run_once_each() {
    const JOBS: u32 = 3_000;
    let mut rig = Rig::new().await;
    let runs = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&runs);
    let mut ids = Vec::new();
    for _ in 0..JOBS {
        ids.push(rig.push("count", json!(null), spec(1)).await);
    }
    let worker = rig.start(|b| {
        b.handle("count", move |_ctx, (): ()| {
            runs.fetch_add(1, Ordering::SeqCst);
            std::future::ready(Ok::<_, HandlerError>(()))
        })
    });
    let last = *ids.last().unwrap();
    assert_eq!(rig.last(last).await.ended, Ended::Succeeded);
    worker.stop().await;
    assert_eq!(seen.load(Ordering::SeqCst), JOBS);
    let stats = rig.engine.stats(&rig.shard).await.unwrap();
    assert_eq!((stats.ready, stats.leased, stats.outbox), (0, 0, u64::from(JOBS)));
}
