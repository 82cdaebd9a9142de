//! Work that submitters shape, on threads of its own: bounded in time, in number and in stack.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Longest time that a caller waits for one piece of work.
pub const TIME_MAX: Duration = Duration::from_secs(2);
/// Longest wait for a place.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(10);
/// Expressions and schemas may nest; the default stack of a thread is too small for the deepest.
pub(super) const STACK_BYTES: usize = 16 << 20;

/// Why work yielded nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfinished {
    /// No place came free in time, or no thread could be started: nothing was done.
    #[error("too many checks at once")]
    Crowded,
    /// It took longer than it may, and goes on without anybody listening.
    #[error("the check took too long")]
    TooSlow,
    /// It panicked.
    #[error("the check broke")]
    Broke,
}

/// Runs `work` on a thread of its own, for at most [`TIME_MAX`]. It holds the places until its end, which cannot be
/// brought about from outside. May be dropped; the work then runs on.
///
/// # Errors
/// It was not started, or is not finished.
pub(crate) async fn on_thread<T, F>(
    places: Vec<OwnedSemaphorePermit>,
    work: F,
) -> Result<T, Unfinished>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    on_thread_within(TIME_MAX, places, work).await
}

async fn on_thread_within<T, F>(
    limit: Duration,
    places: Vec<OwnedSemaphorePermit>,
    work: F,
) -> Result<T, Unfinished>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    if crate::tap::simulated() {
        let work = std::panic::AssertUnwindSafe(work);
        return std::panic::catch_unwind(work).map_err(|_| Unfinished::Broke);
    }
    let (answer_tx, answer) = oneshot::channel();
    let spawned = std::thread::Builder::new()
        .name("windlass-check".into())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let _places = places;
            // Nobody waits any more when it took too long.
            let _ = answer_tx.send(work());
        });
    if let Err(error) = spawned {
        tracing::warn!(%error, "no thread for a check");
        return Err(Unfinished::Crowded);
    }
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(_)) => Err(Unfinished::Broke),
        Err(_) => Err(Unfinished::TooSlow),
    }
}

/// A place, as soon as one is free. May be dropped.
pub(crate) async fn place(places: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed")
}

/// A few places for such work. What does not end holds its place until it does; it cannot be stopped from
/// outside.
#[derive(Clone)]
pub struct Bounded {
    places: Arc<Semaphore>,
}

impl Bounded {
    /// With so many places.
    pub fn new(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)) }
    }

    /// Runs `work` on a thread of its own. May be dropped; the work then runs on to its end.
    ///
    /// # Errors
    /// It was not started, or is not finished.
    pub async fn run<T, F>(&self, work: F) -> Result<T, Unfinished>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        self.run_within(TIME_MAX, work).await
    }

    /// As [`Self::run`], waiting so long instead of [`TIME_MAX`].
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_within<T, F>(&self, limit: Duration, work: F) -> Result<T, Unfinished>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let place = tokio::time::timeout(WAIT_MAX, place(&self.places)).await;
        let place = place.map_err(|_| Unfinished::Crowded)?;
        on_thread_within(limit, vec![place], work).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_answers_breaks_or_is_given_up() {
        let bounded = Bounded::new(1);
        assert_eq!(bounded.run(|| 7).await, Ok(7));
        assert_eq!(bounded.run(|| panic!("planted")).await, Err::<(), _>(Unfinished::Broke));
        let (release, held) = std::sync::mpsc::channel::<()>();
        let slow = bounded.run(move || held.recv().is_ok()).await;
        assert_eq!(slow, Err(Unfinished::TooSlow));
        // Its place is taken until it ends.
        assert_eq!(bounded.places.available_permits(), 0);
        release.send(()).expect("the work still listens");
        assert_eq!(bounded.run(|| 8).await, Ok(8));
    }
}
