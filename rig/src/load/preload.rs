//! Many jobs at once, each on record.

use serde_json::{Value, json};

use super::client::{Client, call_of};
use super::plan::Submission;
use crate::history::{Phase, Reply};

/// Jobs of one request.
const BATCH: usize = 500;

/// Submits these jobs in batches. Their keys are only tags here: a batch has a key of its own, as long as its first.
///
/// # Errors
/// A batch is not answered, or a job of it is refused.
pub async fn preload(client: &Client, submissions: &[Submission]) -> anyhow::Result<()> {
    for part in submissions.chunks(BATCH) {
        let calls: Vec<_> = part.iter().map(call_of).collect();
        let ops: Vec<u64> = calls.iter().map(|call| client.history.invoke(call)).collect();
        let jobs: Vec<&Value> = part.iter().map(|submission| &submission.body).collect();
        let answer = client.send("/v1/jobs/batch", &json!({ "jobs": jobs }), &part[0].key).await?;
        let results = answer["results"].as_array().map(Vec::as_slice).unwrap_or_default();
        anyhow::ensure!(results.len() == part.len(), "not a result for each job: {answer}");
        for ((op, call), result) in ops.into_iter().zip(calls).zip(results) {
            let id = result["id"].as_str().map(str::to_owned);
            anyhow::ensure!(id.is_some(), "a job was refused: {result}");
            let state = result["state"].as_str().map(str::to_owned);
            let reply = Reply { status: 201, id, state, ..Reply::default() };
            client.history.complete(op, Phase::Ok, call, reply);
        }
    }
    Ok(())
}
