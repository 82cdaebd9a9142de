//! Memory that was freed goes back to the system in a process that rests, too.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often what was freed is looked through.
const PERIOD: Duration = Duration::from_secs(10);

/// Gives back what has long been free. By itself the allocator looks when it is asked for memory, which an idle process
/// hardly does: what its start, or a load that has ended, has used would stay.
pub fn spawn_upkeep(shutdown: CancellationToken, tasks: &TaskTracker) {
    tasks.spawn(async move {
        while shutdown.run_until_cancelled(tokio::time::sleep(PERIOD)).await.is_some() {
            collect();
        }
    });
}

#[expect(unsafe_code, reason = "the allocator's own call has no safe wrapper")]
fn collect() {
    // SAFETY: takes no pointers, and may be called from any thread at any time. Of what this thread has freed, and of what
    // the process has kept for reuse longer than its delay.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
