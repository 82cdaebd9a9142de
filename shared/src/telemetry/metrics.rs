//! Prometheus: the recorder of a process, and its rendering.

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::names;

/// Buckets of what takes from 100 µs to hours: jobs, their waiting, and every other `_seconds`.
pub const SECONDS: [f64; 22] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 14400.0,
];
/// Buckets of counts: batch sizes.
pub const COUNTS: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 200.0, 500.0, 10_000.0];
/// Samples gather until they are moved into their buckets, this often.
const UPKEEP: Duration = Duration::from_secs(5);

/// The metrics of this process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    handle: PrometheusHandle,
    process: metrics_process::Collector,
}

impl Metrics {
    /// Installs the recorder that the `metrics` macros write to, and describes every name. Call once, in
    /// `main`.
    ///
    /// # Errors
    /// A recorder is installed already.
    pub fn install() -> Result<Self, String> {
        let recorder = builder()?.build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|e| e.to_string())?;
        let process = metrics_process::Collector::default();
        process.describe();
        names::describe();
        metrics::gauge!("windlass_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(Self { inner: Arc::new(Inner { handle, process }) })
    }

    /// All metrics now, those of the operating system included, as Prometheus text.
    pub fn render(&self) -> String {
        self.inner.process.collect();
        self.inner.handle.render()
    }

    /// Keeps the memory of unscraped samples bounded until `shutdown`.
    pub fn spawn_upkeep(&self, shutdown: CancellationToken, tasks: &TaskTracker) {
        let metrics = self.clone();
        tasks.spawn(async move {
            while shutdown.run_until_cancelled(tokio::time::sleep(UPKEEP)).await.is_some() {
                metrics.inner.handle.run_upkeep();
            }
        });
    }
}

fn builder() -> Result<PrometheusBuilder, String> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
        .and_then(|b| b.set_buckets_for_metric(Matcher::Suffix("_rows".into()), &COUNTS))
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_buckets_and_carry_help() {
        let recorder = builder().unwrap().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            names::describe();
            super::super::engine_call("claim", std::time::Instant::now(), true);
        });
        let text = handle.render();
        assert!(text.contains("# HELP windlass_engine_call_seconds "), "{text}");
        assert!(text.contains("windlass_engine_call_seconds_bucket{call=\"claim\",le=\"0.0001\"}"));
        assert!(text.contains("le=\"14400\"}"));
        assert!(text.contains("windlass_engine_errors_total{call=\"claim\"} 1"));
    }
}
