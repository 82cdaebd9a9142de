//! The way of an output through its gate. That the gate is busy is not the output's fault.

use std::time::Duration;

use windlass_shared::gate::{GateError, Refusal};

use crate::attempt::Stop;
use crate::pause::Pause;

/// What became of an output at its gate.
#[derive(Debug, PartialEq)]
pub(crate) enum Passage {
    Passed,
    Refused(Refusal),
    /// The attempt was told to stop while the gate was busy.
    Stopped,
    /// The gate was busy for the whole time.
    NoPlace,
}

/// Asks the gate until it decides, the attempt is told to stop, or the time is over. A check that has begun
/// is waited for: the gate bounds its time.
pub(crate) async fn pass<F>(stop: &Stop, limit: Duration, mut check: impl FnMut() -> F) -> Passage
where
    F: Future<Output = Result<(), GateError>>,
{
    let deadline = tokio::time::Instant::now() + limit;
    let mut pause = Pause::default();
    loop {
        match check().await {
            Ok(()) => return Passage::Passed,
            Err(GateError::Refused(refusal)) => return Passage::Refused(*refusal),
            Err(GateError::Busy) => {}
        }
        let pause = pause.next();
        if tokio::time::Instant::now() + pause >= deadline {
            return Passage::NoPlace;
        }
        tokio::select! {
            biased;
            () = stop.stopped() => return Passage::Stopped,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::StopReason;

    const LONG: Duration = Duration::from_secs(60);

    /// A gate that is busy so many times.
    fn gate(
        busy: u32,
        end: Result<(), GateError>,
    ) -> impl FnMut() -> std::future::Ready<Result<(), GateError>> {
        let mut left = busy;
        move || {
            std::future::ready(match left.checked_sub(1) {
                Some(fewer) => {
                    left = fewer;
                    Err(GateError::Busy)
                }
                None => end.clone(),
            })
        }
    }

    #[tokio::test]
    async fn a_busy_gate_is_asked_again_until_it_decides() {
        let stop = Stop::default();
        assert_eq!(pass(&stop, LONG, gate(2, Ok(()))).await, Passage::Passed);
        let refusal = Refusal::from(crate::outcome::error("result_rejected", "m", true));
        let refuse = gate(1, Err(GateError::Refused(Box::new(refusal.clone()))));
        assert_eq!(pass(&stop, LONG, refuse).await, Passage::Refused(refusal));
    }

    #[tokio::test]
    async fn a_gate_that_stays_busy_ends_in_neither_success_nor_failure() {
        let stop = Stop::default();
        let limit = Duration::from_millis(120);
        assert_eq!(pass(&stop, limit, gate(u32::MAX, Ok(()))).await, Passage::NoPlace);
        stop.stop(StopReason::Drain);
        assert_eq!(pass(&stop, LONG, gate(u32::MAX, Ok(()))).await, Passage::Stopped);
        // What decides at once decides, stopped or not.
        assert_eq!(pass(&stop, LONG, gate(0, Ok(()))).await, Passage::Passed);
    }
}
