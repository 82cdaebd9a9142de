//! Many jobs at once, each on record.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use super::client::{Client, call_of};
use super::plan::Submission;
use crate::history::{Phase, Reply};
use crate::until::until_seldom;

/// Jobs of one request.
const BATCH: usize = 500;
/// How long one request is repeated.
const PATIENCE: Duration = Duration::from_secs(60);

/// Submits these jobs in batches; their ids, in their order. Their keys are only tags here: a batch has a key of its own,
/// as long as its first.
///
/// # Errors
/// A batch is not answered, or a job of it is refused.
pub async fn preload(client: &Client, submissions: &[Submission]) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::with_capacity(submissions.len());
    for part in submissions.chunks(BATCH) {
        let calls: Vec<_> = part.iter().map(call_of).collect();
        let ops: Vec<u64> = calls.iter().map(|call| client.history.invoke(call)).collect();
        let jobs: Vec<_> = part.iter().map(|submission| client.body(&submission.body)).collect();
        let body = json!({ "jobs": jobs });
        // The key makes it safe to repeat.
        let answer = until_seldom(PATIENCE, || async {
            client.send("/v1/jobs/batch", &body, &part[0].key).await.ok()
        });
        let answer = answer.await.context("a batch is not accepted")?;
        let results = answer["results"].as_array().map(Vec::as_slice).unwrap_or_default();
        anyhow::ensure!(results.len() == part.len(), "not a result for each job: {answer}");
        for ((op, call), result) in ops.into_iter().zip(calls).zip(results) {
            let id = result["id"].as_str();
            let id = id.with_context(|| format!("a job was refused: {result}"))?.to_owned();
            let state = result["state"].as_str().map(str::to_owned);
            ids.push(id.clone());
            let reply = Reply { status: 201, id: Some(id), state, ..Reply::default() };
            client.history.complete(op, Phase::Ok, call, reply);
        }
    }
    Ok(ids)
}
