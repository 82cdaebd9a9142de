//! Stopping in order: a token that says "drain", and a tracker of the tasks that must end first.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Exit code of a process that was told twice to stop.
pub const EXIT_SECOND_SIGNAL: i32 = 130;

/// The end of one process. Cheap to clone; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Cancelled when the process is to drain.
    pub token: CancellationToken,
    /// The tasks that must end before the process does.
    pub tasks: TaskTracker,
}

impl Shutdown {
    /// A shutdown that SIGTERM and SIGINT ask for: the first of either cancels the token, the second ends
    /// the process at once with [`EXIT_SECOND_SIGNAL`]. To be called within the runtime.
    ///
    /// # Errors
    /// The operating system refuses to deliver the signals.
    pub fn on_signals() -> std::io::Result<Self> {
        let shutdown = Self::default();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let token = shutdown.token.clone();
        // Not in the tracker: it lives as long as the process, so that a second signal always works.
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                if token.is_cancelled() {
                    tracing::warn!(signal = name, "second signal: stopping at once");
                    std::process::exit(EXIT_SECOND_SIGNAL);
                }
                tracing::info!(signal = name, "draining; a second signal stops at once");
                token.cancel();
            }
        });
        Ok(shutdown)
    }

    /// Waits for the tracked tasks to end, at most this long; whether they did. Takes no new ones.
    /// May be dropped and repeated.
    pub async fn finished(&self, within: Duration) -> bool {
        self.tasks.close();
        tokio::time::timeout(within, self.tasks.wait()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_waits_for_tracked_tasks_and_not_for_ever() {
        let shutdown = Shutdown::default();
        let token = shutdown.token.clone();
        shutdown.tasks.spawn(async move { token.cancelled().await });
        assert!(!shutdown.finished(Duration::from_millis(1)).await);
        shutdown.token.cancel();
        assert!(shutdown.finished(Duration::from_secs(30)).await);
    }
}
