//! Word of new queues: a trigger tells them, one connection per process that asked listens.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bounds::exchange;
use super::connect::CONNECT_TIMEOUT;
use crate::ledger::queue_walk::{NEWS_MAX, NewQueues};
use crate::model::name::{Namespace, QueueName};

const CHANNEL: &str = "windlass_queues";
/// Silence after which the connection is checked.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// Pause before it is made anew.
const PAUSE: Duration = Duration::from_secs(1);

/// Who listens, and whether the task runs.
pub(super) struct News {
    sender: broadcast::Sender<(Namespace, QueueName)>,
    started: AtomicBool,
}

impl Default for News {
    fn default() -> Self {
        Self { sender: broadcast::channel(NEWS_MAX).0, started: AtomicBool::new(false) }
    }
}

impl News {
    /// New queues from about now on. The first call starts the task, which ends with `stop`.
    pub(super) fn listen(
        &self,
        options: &PgConnectOptions,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) -> NewQueues {
        let receiver = self.sender.subscribe();
        if !self.started.swap(true, Ordering::SeqCst) {
            let (options, sender) = (options.clone(), self.sender.clone());
            let stop = stop.clone();
            tasks.spawn(
                async move { stop.run_until_cancelled(Box::pin(keep(options, sender))).await },
            );
        }
        NewQueues::new(receiver)
    }
}

/// Listens for ever.
async fn keep(options: PgConnectOptions, sender: broadcast::Sender<(Namespace, QueueName)>) {
    loop {
        // What is told meanwhile is lost, which listeners must expect: they also look.
        if let Err(error) = listen(&options, &sender).await {
            tracing::debug!(%error, "word of new queues is interrupted");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn listen(
    options: &PgConnectOptions,
    sender: &broadcast::Sender<(Namespace, QueueName)>,
) -> Result<(), sqlx::Error> {
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(CONNECT_TIMEOUT);
    let pool = pool.connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    exchange(CONNECT_TIMEOUT, listener.listen(CHANNEL)).await?;
    loop {
        match tokio::time::timeout(SILENCE_MAX, listener.try_recv()).await {
            Ok(Ok(Some(told))) => {
                if let Some(queue) = read(told.payload()) {
                    // Fails when nobody listens any more, which is no loss.
                    let _ = sender.send(queue);
                }
            }
            Ok(Ok(None)) => return Err(sqlx::Error::WorkerCrashed),
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                let ping = async { sqlx::query("SELECT 1").execute(&mut listener).await };
                exchange(CONNECT_TIMEOUT, ping).await?;
            }
        }
    }
}

/// A queue as the trigger names it. Neither name has a slash.
fn read(payload: &str) -> Option<(Namespace, QueueName)> {
    let (namespace, name) = payload.split_once('/')?;
    Some((namespace.parse().ok()?, name.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_reads_as_a_queue_or_is_dropped() {
        let (namespace, name) = read("default/mail:out.1").unwrap();
        assert_eq!((namespace.as_str(), name.as_str()), ("default", "mail:out.1"));
        for strange in ["", "default", "/q", "default/", "a/b/c", "Ä/q"] {
            assert!(read(strange).is_none(), "{strange}");
        }
    }
}
