//! Waiting for what can be asked for.

use std::time::{Duration, Instant};

/// Between two questions: often enough to be near the instant, seldom enough to leave the fleet its cores.
const PACE: Duration = Duration::from_millis(20);

/// Asks until there is an answer, at most for `longest`.
///
/// # Errors
/// There was none in that time.
pub async fn until<T, F: Future<Output = Option<T>>>(
    longest: Duration,
    mut ask: impl FnMut() -> F,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + longest;
    loop {
        if let Some(found) = ask().await {
            return Ok(found);
        }
        anyhow::ensure!(Instant::now() < deadline, "not within {longest:?}");
        tokio::time::sleep(PACE).await;
    }
}
