//! Calls to the receiver of reports that are worth repeating.

use std::time::Duration;

use tokio::time::Instant;

use crate::pause::Pause;
use crate::reporter::ReportError;

/// Tries until it works, is refused, or `limit` is over. May be dropped.
///
/// # Errors
/// The last one.
pub(crate) async fn persistently<T, F>(
    limit: Duration,
    mut call: impl FnMut() -> F,
) -> Result<T, ReportError>
where
    F: Future<Output = Result<T, ReportError>>,
{
    let deadline = Instant::now() + limit;
    let mut pause = Pause::default();
    loop {
        match call().await {
            Err(error) if error.is_transient() && Instant::now() < deadline => {
                tracing::debug!(%error, "trying again to reach the receiver of reports");
                tokio::time::sleep(pause.next()).await;
            }
            result => return result,
        }
    }
}
