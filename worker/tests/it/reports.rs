//! Logs, progress, beats and large values.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;
use windlass_shared::engine::Ended;
use windlass_shared::limits::{INLINE_BYTES_MAX, VALUE_BYTES_MAX};
use windlass_shared::model::id::BlobId;
use windlass_shared::model::job::Value;
use windlass_worker::context::{Context, LogLevel};
use windlass_worker::error::HandlerError;
use windlass_worker::reporter::Nowhere;

use crate::fixture::{Rig, Running, spec};

#[tokio::test]
async fn logs_and_progress_arrive_with_the_beat_even_after_the_api_was_away() {
    let mut rig = Rig::new().await;
    *rig.memory.away.lock().unwrap() = 2;
    let worker = rig.start(|b| {
        b.handle("talk", |ctx: Context, (): ()| async move {
            ctx.log(LogLevel::Info, "one");
            ctx.progress(50.0, None);
            ctx.log(LogLevel::Warn, "two");
            ctx.progress(f64::INFINITY, Some("nearly"));
            ctx.progress(250.0, Some("done"));
            Ok::<_, HandlerError>(())
        })
    });
    let id = rig.push("talk", json!(null), spec(1)).await;
    assert_eq!(rig.last(id).await.ended, Ended::Succeeded);
    worker.stop().await;
    let (logs, progress) = rig
        .memory
        .until(|reports| {
            let logs: Vec<_> = reports.iter().flat_map(|r| r.logs.clone()).collect();
            let progress: Vec<_> = reports.iter().flat_map(|r| r.progress.clone()).collect();
            (logs.len() >= 2 && !progress.is_empty()).then_some((logs, progress))
        })
        .await;
    let lines: Vec<_> =
        logs.iter().map(|l| (l.attempt, l.level.as_str(), l.message.as_str())).collect();
    assert_eq!(lines, [(1, "info", "one"), (1, "warn", "two")]);
    assert!(logs.iter().all(|line| line.job_id == id && line.at.micros() > 0));
    let last = progress.last().unwrap();
    assert_eq!((last.job_id, last.percent, last.message.as_deref()), (id, 100.0, Some("done")));
    let beat = rig.memory.until(|reports| reports.first().map(|r| r.worker.clone())).await;
    assert_eq!((beat.name.as_str(), beat.concurrency), ("rig", 8));
    assert!(beat.kinds.iter().any(|kind| kind.as_str() == "talk") && !beat.host.is_empty());
}

#[tokio::test]
async fn large_values_go_by_reference() {
    let mut rig = Rig::new().await;
    let worker = rig.start(|b| b);
    let text = serde_json::to_vec(&"x".repeat(INLINE_BYTES_MAX)).unwrap();
    let text = Bytes::from(text);
    let input = BlobId::generate();
    rig.memory.blobs.lock().unwrap().insert(input, text.clone());
    let id = rig.push_value("echo", Value::Blob(input), spec(1)).await;
    let end = rig.last(id).await;
    assert_eq!(end.ended, Ended::Succeeded);
    let Some(Value::Blob(output)) = end.detail.output else { panic!("{end:?}") };
    assert_ne!(output, input);
    assert_eq!(rig.memory.blobs.lock().unwrap()[&output], text);
    let id = rig.push_value("echo", Value::Blob(BlobId::generate()), spec(3)).await;
    let end = rig.last(id).await;
    assert_eq!((end.ended, end.code()), (Ended::Dead, "payload_missing"));
    worker.stop().await;
}

#[tokio::test]
async fn an_output_over_the_limit_or_without_a_place_fails() {
    let mut rig = Rig::new().await;
    let make = |b: windlass_worker::builder::WorkerBuilder| {
        b.handle(
            "make",
            |_ctx, length: usize| async move { Ok::<_, HandlerError>("x".repeat(length)) },
        )
    };
    let worker = rig.start(make);
    let end = rig.run("make", json!(VALUE_BYTES_MAX - 2), spec(1)).await;
    assert_eq!(end.ended, Ended::Succeeded);
    let end = rig.run("make", json!(VALUE_BYTES_MAX - 1), spec(5)).await;
    assert_eq!((end.ended, end.code(), end.attempt), (Ended::Dead, "output_too_large", 1));
    worker.stop().await;
    let alone = make(rig.builder().reporter(Arc::new(Nowhere))).build().unwrap();
    let worker = Running::start(alone);
    let end = rig.run("make", json!(INLINE_BYTES_MAX), spec(2)).await;
    assert_eq!((end.ended, end.code(), end.attempt), (Ended::Dead, "output_not_stored", 2));
    worker.stop().await;
}
