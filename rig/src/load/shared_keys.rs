//! Keys that many clients share (E25).

use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use super::client::Client;
use super::plan::{QUEUES, Submission, job};
use crate::experiments::Form;
use crate::worker::{EFFECT, Work};

/// Many clients submit the same keys at once, each in an order of its own; every twentieth body differs from that of
/// the others. Each call is repeated for `patience`.
///
/// # Errors
/// A client panicked.
pub async fn submit(
    client: &Client,
    form: Form,
    rng: &mut StdRng,
    patience: Duration,
) -> anyhow::Result<()> {
    let (clients, keys) = form.pick((10, 100), (50, 1_000));
    let mark = uuid::Uuid::new_v4().simple().to_string();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let mut submissions: Vec<Submission> = (0..keys)
            .map(|n| {
                let other = rng.random_bool(0.05);
                let ms = if other { 2 + rng.random_range(0..50) } else { 1 };
                let work = Work { ms, ..Work::default() };
                job(format!("same-{mark}-{n}"), QUEUES[2], EFFECT, &work, 0)
            })
            .collect();
        submissions.shuffle(rng);
        let client = client.clone();
        tasks.spawn(async move {
            for submission in submissions {
                client.submit(&submission, patience).await;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    Ok(())
}
