//! Waiting for what can be asked for.

use std::time::{Duration, Instant};

/// Between two questions: often enough to be near the instant, seldom enough to leave the fleet its cores.
const PACE: Duration = Duration::from_millis(20);
/// Between two questions that cost the fleet something.
const SELDOM: Duration = Duration::from_millis(250);

/// Asks until there is an answer, at most for `longest`.
///
/// # Errors
/// There was none in that time.
pub async fn until<T, F: Future<Output = Option<T>>>(
    longest: Duration,
    ask: impl FnMut() -> F,
) -> anyhow::Result<T> {
    paced(longest, PACE, ask).await
}

/// As [`until`], for questions that cost the fleet something.
///
/// # Errors
/// As [`until`].
pub async fn until_seldom<T, F: Future<Output = Option<T>>>(
    longest: Duration,
    ask: impl FnMut() -> F,
) -> anyhow::Result<T> {
    paced(longest, SELDOM, ask).await
}

async fn paced<T, F: Future<Output = Option<T>>>(
    longest: Duration,
    pace: Duration,
    mut ask: impl FnMut() -> F,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + longest;
    loop {
        if let Some(found) = ask().await {
            return Ok(found);
        }
        anyhow::ensure!(Instant::now() < deadline, "not within {longest:?}");
        tokio::time::sleep(pace).await;
    }
}
