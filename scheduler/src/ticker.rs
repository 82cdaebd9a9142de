//! The shape of every periodic duty: a name, an interval, a bounded `tick`.

use std::time::{Duration, Instant};

use rand::Rng;
use tokio_util::sync::CancellationToken;

/// Runs `tick` every `interval` (spread by ±10 %, so that replicas don't move in step) until `shutdown`.
///
/// A tick that fails is logged once, counted, and repeated at its next time. `tick` returns how many
/// things it did.
pub(crate) async fn every<F, Fut>(
    name: &'static str,
    interval: Duration,
    shutdown: CancellationToken,
    mut tick: F,
) where
    F: FnMut() -> Fut,
    Fut: Future<Output = anyhow::Result<u64>>,
{
    let mut failing = false;
    loop {
        let spread = rand::rng().random_range(0.9..1.1);
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(interval.mul_f64(spread)) => {}
        }
        let started = Instant::now();
        let result = tick().await;
        metrics::histogram!("windlass_duty_seconds", "duty" => name).record(started.elapsed());
        match result {
            Ok(done) => {
                metrics::counter!("windlass_duty_done_total", "duty" => name).increment(done);
                if failing {
                    tracing::info!(duty = name, "duty works again");
                }
                failing = false;
            }
            Err(error) => {
                metrics::counter!("windlass_duty_failures_total", "duty" => name).increment(1);
                // Once per outage, not once per tick.
                if !failing {
                    tracing::warn!(
                        duty = name,
                        error = format!("{error:#}"),
                        "duty failed; will repeat"
                    );
                }
                failing = true;
            }
        }
    }
}
