//! Work that submitters shape, on threads of its own: bounded in processor time, in number and in stack.
//!
//! The time of a clock on the wall would blame the work for what others do on a busy machine, and a check that took too
//! long ends a step for good.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

mod processor;

/// Longest processor time of one piece of work. Where the system does not tell it (it is read on Linux), time passed
/// counts.
pub const TIME_MAX: Duration = Duration::from_secs(2);
/// Longest wait for a place.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(10);
/// A caller waits so many times the processor time that its work may use.
const BUSY_FACTOR: u32 = 10;
/// Shortest time between two looks at what a thread has used, of which the system counts hundredths of a second.
const LOOK: Duration = Duration::from_millis(10);
/// Expressions and schemas may nest; the default stack of a thread is too small for the deepest.
pub(super) const STACK_BYTES: usize = 16 << 20;

/// Why work yielded nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfinished {
    /// No place came free in time, no thread could be started, or the machine was too busy to give it its time: try again
    /// later.
    #[error("too many checks at once")]
    Crowded,
    /// It used more time than it may, and goes on without anybody listening.
    #[error("the check took too long")]
    TooSlow,
    /// It panicked.
    #[error("the check broke")]
    Broke,
}

/// Runs `work` on a thread of its own, for at most [`TIME_MAX`] of processor time. It holds the places until its end, which cannot be
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
    let thread = Arc::new(OnceLock::new());
    let own = Arc::clone(&thread);
    let spawned = std::thread::Builder::new()
        .name("windlass-check".into())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let _places = places;
            let _ = own.set(processor::this_thread());
            // Nobody waits any more when it took too long.
            let _ = answer_tx.send(work());
        });
    if let Err(error) = spawned {
        tracing::warn!(%error, "no thread for a check");
        return Err(Unfinished::Crowded);
    }
    wait(limit, answer, || match thread.get() {
        Some(thread) => processor::used_by(*thread),
        None => Some(Duration::ZERO),
    })
    .await
}

/// The answer, as long as the thread has `used` less than the limit; `None`: nobody knows.
async fn wait<T>(
    limit: Duration,
    mut answer: oneshot::Receiver<T>,
    used: impl Fn() -> Option<Duration>,
) -> Result<T, Unfinished> {
    let started = Instant::now();
    let mut left = limit;
    loop {
        match tokio::time::timeout(left, &mut answer).await {
            Ok(Ok(result)) => return Ok(result),
            Ok(Err(_)) => return Err(Unfinished::Broke),
            Err(_) => match used().and_then(|used| limit.checked_sub(used)) {
                // A thread that just ended has no times any more.
                None | Some(Duration::ZERO) => {
                    return answer.try_recv().map_err(|error| match error {
                        TryRecvError::Empty => Unfinished::TooSlow,
                        TryRecvError::Closed => Unfinished::Broke,
                    });
                }
                Some(_) if started.elapsed() >= limit * BUSY_FACTOR => {
                    return Err(Unfinished::Crowded);
                }
                Some(more) => left = more.max(LOOK),
            },
        }
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

    /// As [`Self::run`], with so much processor time instead of [`TIME_MAX`].
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
    async fn work_answers_or_breaks() {
        let bounded = Bounded::new(1);
        assert_eq!(bounded.run(|| 7).await, Ok(7));
        assert_eq!(bounded.run(|| panic!("planted")).await, Err::<(), _>(Unfinished::Broke));
        assert_eq!(bounded.run(|| 8).await, Ok(8));
    }

    #[tokio::test]
    async fn work_that_keeps_the_processor_is_given_up() {
        let bounded = Bounded::new(1);
        let (release, held) = std::sync::mpsc::channel::<()>();
        let spins = move || while held.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {};
        let slow = bounded.run_within(Duration::from_millis(50), spins).await;
        assert_eq!(slow, Err(Unfinished::TooSlow));
        // Its place is taken until it ends.
        assert_eq!(bounded.places.available_permits(), 0);
        release.send(()).expect("the work still listens");
        assert_eq!(bounded.run(|| 8).await, Ok(8));
    }

    /// As on a machine that is busy with others.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn work_that_does_not_get_the_processor_is_not_to_blame() {
        let bounded = Bounded::new(2);
        let limit = Duration::from_millis(500);
        let (release, held) = std::sync::mpsc::channel::<()>();
        let late = tokio::time::sleep(limit + limit / 5);
        let waits = bounded.run_within(limit, move || held.recv().is_ok());
        let (answer, ()) = tokio::join!(waits, async {
            late.await;
            release.send(()).expect("the work still listens");
        });
        assert_eq!(answer, Ok(true));
        let (_kept, held) = std::sync::mpsc::channel::<()>();
        let never = bounded.run_within(limit / 20, move || held.recv().is_ok()).await;
        assert_eq!(never, Err(Unfinished::Crowded));
    }
}
