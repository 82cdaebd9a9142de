//! The shape of every periodic duty: declared in its file, ticked here, each with its span, its metrics and its last
//! result.

use std::time::Duration;

use rand::Rng;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use windlass_shared::ledger::Epoch;
use windlass_shared::ledger::duties::Ended;

use crate::board::{Board, Duty};
use crate::leader::Lead;

/// How often a process that does not lead looks whether it does, for duties with longer intervals.
const STANDBY_LOOK: Duration = Duration::from_secs(1);

/// What ticks need of their process. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Ticks {
    pub(crate) lead: Lead,
    pub(crate) board: Board,
    pub(crate) shutdown: CancellationToken,
}

/// Runs `tick` every interval of the duty (spread by ±10 %, so that replicas don't move in step) until the shutdown.
///
/// A tick that fails, or is given up because it takes longer than it may, is logged once, counted, and repeated at its
/// next time; so it must be one that may be dropped. `tick` returns how many things it did.
pub(crate) async fn every<F, Fut>(duty: &'static Duty, ticks: &Ticks, mut tick: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = anyhow::Result<u64>>,
{
    let mut failing = false;
    while pause(duty.interval, ticks).await {
        failing = run(duty, ticks, None, failing, tick()).await;
    }
}

/// As [`every`], while this process leads: each tick gets the epoch, which its writes are to carry. The first tick of a
/// new leader does not wait for an interval.
pub(crate) async fn leading<F, Fut>(duty: &'static Duty, ticks: &Ticks, mut tick: F)
where
    F: FnMut(Epoch) -> Fut,
    Fut: Future<Output = anyhow::Result<u64>>,
{
    let (mut failing, mut led) = (false, false);
    loop {
        let interval = if led { duty.interval } else { duty.interval.min(STANDBY_LOOK) };
        if !pause(interval, ticks).await {
            return;
        }
        let Some((epoch, _ticking)) = ticks.lead.tick().await else {
            (failing, led) = (false, false);
            ticks.board.stands_by(duty);
            continue;
        };
        led = true;
        failing = run(duty, ticks, Some(epoch), failing, tick(epoch)).await;
    }
}

/// Waits for the next tick; `false`: there is none.
async fn pause(interval: Duration, ticks: &Ticks) -> bool {
    let spread = rand::rng().random_range(0.9..1.1);
    tokio::select! {
        biased;
        () = ticks.shutdown.cancelled() => false,
        () = tokio::time::sleep(interval.mul_f64(spread)) => true,
    }
}

/// One tick; whether it failed.
async fn run(
    duty: &'static Duty,
    ticks: &Ticks,
    epoch: Option<Epoch>,
    failing: bool,
    tick: impl Future<Output = anyhow::Result<u64>>,
) -> bool {
    let name = duty.name;
    let span = tracing::debug_span!("duty", duty = name, epoch = epoch.map(|epoch| epoch.0));
    ticks.board.begun(duty, epoch);
    let result = match tokio::time::timeout(duty.longest, tick.instrument(span)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err((Ended::Failed, format!("{error:#}"))),
        Err(_) => Err((Ended::GivenUp, format!("took longer than {:?}", duty.longest))),
    };
    let failed = result.is_err();
    match &result {
        Ok(_) if failing => tracing::info!(duty = name, "duty works again"),
        // Once per outage, not once per tick.
        Err((_, error)) if !failing => {
            tracing::warn!(duty = name, error, "duty failed; will repeat")
        }
        Ok(_) | Err(_) => {}
    }
    ticks.board.ended(duty, result);
    failed
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;
    use windlass_shared::ledger::duties::Who;

    use super::*;

    static SLOW: Duty = Duty {
        name: "slow",
        what: "never ends at its first tick",
        interval: Duration::from_millis(1),
        batch: 1,
        longest: Duration::from_millis(50),
        who: Who::Every,
    };

    /// Goal: a tick that hangs is given up at its bound, said, and followed by the next.
    #[tokio::test]
    async fn a_tick_that_takes_too_long_is_given_up() {
        let (lead, board) =
            (Lead::nobody(), Board::new(windlass_shared::model::id::WorkerId::generate()));
        let ticks = Ticks { lead, board, shutdown: CancellationToken::new() };
        let (mut n, started) = (0, Instant::now());
        let stop = ticks.shutdown.clone();
        every(&SLOW, &ticks, || {
            n += 1;
            let (first, stop) = (n == 1, stop.clone());
            async move {
                if first {
                    std::future::pending::<()>().await;
                }
                stop.cancel();
                Ok(3)
            }
        })
        .await;
        assert_eq!(n, 2);
        assert!(started.elapsed() >= SLOW.longest, "{:?}", started.elapsed());
        let going = ticks.board.one("slow").expect("it is on the board");
        assert_eq!((going.ticks, going.done, going.failures), (2, 3, 0));
        assert_eq!(going.outcome, Ended::Ok);
    }
}
