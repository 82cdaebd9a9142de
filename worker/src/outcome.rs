//! From the end of an attempt to its settle: a pure table.

use std::time::Duration;

use windlass_shared::backoff::{self, is_wanted};
use windlass_shared::engine::Verdict;
use windlass_shared::engine::envelope::{Detail, DetailHead};
use windlass_shared::engine::flow::Dependency;
use windlass_shared::limits::HORIZON_MAX;
use windlass_shared::model::job::{JobError, JobSpec, Value};

use crate::attempt::StopReason;
use crate::error::{Cause, HandlerError, cut};
use crate::metrics::OutcomeLabel;

/// How a handler's run ended.
#[derive(Debug)]
pub(crate) enum RunEnd {
    /// It returned, and what it returned passed its gate and is stored.
    Output(Value),
    /// It returned an error, or its output was refused.
    Error(HandlerError),
    /// It panicked, with this message.
    Panicked(String),
    /// It was dropped before its end.
    Dropped,
}

/// What becomes of the job, and what is put on record.
#[derive(Debug)]
pub(crate) struct Conclusion {
    pub(crate) verdict: Verdict,
    pub(crate) detail: Detail,
    pub(crate) label: OutcomeLabel,
    /// How the job's dependency was, where somebody says so.
    pub(crate) told: Option<Dependency>,
}

/// Concludes an attempt, the `number`th that counts, that was told to stop for `reason`, if it was.
pub(crate) fn conclude(
    spec: &JobSpec,
    number: u32,
    reason: Option<StopReason>,
    end: RunEnd,
    random: f64,
) -> Conclusion {
    match (reason, end) {
        // Over the limit is over the limit, whatever came late.
        (Some(StopReason::TimedOut), _) => timed_out(spec, number, random),
        (_, RunEnd::Output(output)) => Conclusion {
            verdict: Verdict::Succeeded,
            detail: Detail { output: Some(output), ..Detail::default() },
            label: OutcomeLabel::Succeeded,
            told: None,
        },
        (Some(StopReason::Cancelled), _) => plain(Verdict::Cancelled, OutcomeLabel::Cancelled),
        (_, RunEnd::Error(HandlerError(Cause::Snooze(delay)))) => {
            let delay = delay.min(HORIZON_MAX);
            plain(Verdict::Snooze { delay }, OutcomeLabel::Snoozed)
        }
        // Told to stop by the worker, it has no say in the job's fate: any error may come from stopping.
        (Some(StopReason::Drain), _) => plain(Verdict::Release, OutcomeLabel::Released),
        (Some(StopReason::LeaseLost), _) => {
            let error = error("lease_lost", "stopped before the lease could pass on", true);
            with_error(Verdict::Release, OutcomeLabel::Released, error)
        }
        (None, RunEnd::Error(HandlerError(Cause::Cancelled))) => {
            plain(Verdict::Cancelled, OutcomeLabel::Cancelled)
        }
        (None, RunEnd::Error(HandlerError(Cause::Failed { error, retry_after, dependency }))) => {
            let told = dependency;
            Conclusion { told, ..failed(spec, number, error, retry_after, random) }
        }
        (None, RunEnd::Panicked(message)) => {
            let error = error("panic", &format!("the handler panicked: {message}"), true);
            failed(spec, number, error, None, random)
        }
        (None, RunEnd::Dropped) => plain(Verdict::Release, OutcomeLabel::Released),
    }
}

/// Errors of before a call, or of what became of its result: they say nothing of what a job depends on.
const OWN: [&str; 9] = [
    "no_handler",
    "payload_missing",
    "payload_unavailable",
    "invalid_payload",
    "http_blocked_address",
    "result_rejected",
    "output_too_large",
    "output_not_stored",
    "panic",
];

impl Conclusion {
    /// How the job's dependency was, for its circuit. `None`: it has none, or the attempt does not tell. An error that is
    /// not worth another try is an answer.
    pub(crate) fn dependency(&self, spec: &JobSpec) -> Option<Dependency> {
        match (self.said(spec)?, self.verdict, &self.detail.head.error) {
            // Were it not for their number, there would be another attempt.
            (Dependency::Failed, Verdict::Dead, Some(error)) if is_wanted(spec, error) => {
                Some(Dependency::Exhausted)
            }
            (told, ..) => Some(told),
        }
    }

    fn said(&self, spec: &JobSpec) -> Option<Dependency> {
        spec.circuit.as_ref()?;
        if self.told.is_some() {
            return self.told;
        }
        match (self.label, &self.detail.head.error) {
            (OutcomeLabel::Succeeded, _) => Some(Dependency::Answered),
            (OutcomeLabel::TimedOut, _) => Some(Dependency::Failed),
            (OutcomeLabel::Failed, Some(error)) if OWN.contains(&error.code.as_str()) => None,
            (OutcomeLabel::Failed, Some(error)) if error.retryable => Some(Dependency::Failed),
            (OutcomeLabel::Failed, _) => Some(Dependency::Answered),
            _ => None,
        }
    }
}

fn timed_out(spec: &JobSpec, number: u32, random: f64) -> Conclusion {
    let error = error("timeout", &format!("over its limit of {}", spec.timeout), true);
    let mut conclusion = failed(spec, number, error, None, random);
    conclusion.detail.head.timed_out = true;
    conclusion.label = OutcomeLabel::TimedOut;
    conclusion
}

fn failed(
    spec: &JobSpec,
    number: u32,
    error: JobError,
    retry_after: Option<Duration>,
    random: f64,
) -> Conclusion {
    let verdict = backoff::decide(spec, &error, number, retry_after, random);
    with_error(verdict, OutcomeLabel::Failed, error)
}

fn plain(verdict: Verdict, label: OutcomeLabel) -> Conclusion {
    Conclusion { verdict, detail: Detail::default(), label, told: None }
}

pub(crate) fn with_error(verdict: Verdict, label: OutcomeLabel, error: JobError) -> Conclusion {
    let head = DetailHead { error: Some(error), ..DetailHead::default() };
    Conclusion { verdict, detail: Detail { head, output: None }, label, told: None }
}

/// An error of the worker's own.
pub(crate) fn error(code: &str, message: &str, retryable: bool) -> JobError {
    JobError { code: code.into(), message: cut(message.to_owned()), retryable }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn output() -> RunEnd {
        RunEnd::Output(Value::null())
    }
    fn failure() -> RunEnd {
        RunEnd::Error(HandlerError::retryable("e", "m"))
    }

    fn verdict(reason: Option<StopReason>, end: RunEnd) -> Verdict {
        conclude(&JobSpec::default(), 1, reason, end, 0.5).verdict
    }

    #[test]
    fn every_end_has_its_verdict() {
        use StopReason as R;
        let retry = Verdict::Retry { delay: SECOND / 2 };
        let snooze = || RunEnd::Error(HandlerError::snooze(SECOND));
        let cancelled = || RunEnd::Error(HandlerError::cancelled());
        let permanent = || RunEnd::Error(HandlerError::permanent("e", "m"));
        for (reason, end, want) in [
            (None, output(), Verdict::Succeeded),
            (None, failure(), retry),
            (None, permanent(), Verdict::Dead),
            (None, snooze(), Verdict::Snooze { delay: SECOND }),
            (None, cancelled(), Verdict::Cancelled),
            (None, RunEnd::Panicked("p".into()), retry),
            (None, RunEnd::Dropped, Verdict::Release),
            (Some(R::Cancelled), output(), Verdict::Succeeded),
            (Some(R::Cancelled), failure(), Verdict::Cancelled),
            (Some(R::Cancelled), snooze(), Verdict::Cancelled),
            (Some(R::Cancelled), RunEnd::Dropped, Verdict::Cancelled),
            (Some(R::TimedOut), output(), retry),
            (Some(R::TimedOut), RunEnd::Dropped, retry),
            (Some(R::Drain), output(), Verdict::Succeeded),
            (Some(R::Drain), failure(), Verdict::Release),
            (Some(R::Drain), cancelled(), Verdict::Release),
            (Some(R::Drain), RunEnd::Dropped, Verdict::Release),
            (Some(R::LeaseLost), output(), Verdict::Succeeded),
            (Some(R::LeaseLost), RunEnd::Dropped, Verdict::Release),
        ] {
            let what = format!("{reason:?} {end:?}");
            assert_eq!(verdict(reason, end), want, "{what}");
        }
    }

    /// Goal: failures of the dependency count, answers do not, and what is neither says nothing.
    #[test]
    fn the_end_tells_how_the_dependency_was() {
        use Dependency::{Answered, Failed};
        let spec = JobSpec { circuit: Some("c".into()), ..JobSpec::default() };
        let own = |code: &str| RunEnd::Error(HandlerError::retryable(code, "m"));
        let permanent = || HandlerError::permanent("http_status_404", "m");
        for (reason, end, told) in [
            (None, output(), Some(Answered)),
            (None, failure(), Some(Failed)),
            (None, own("http_status_429"), Some(Failed)),
            (None, RunEnd::Error(permanent()), Some(Answered)),
            (None, RunEnd::Error(permanent().dependency_failed()), Some(Failed)),
            (
                None,
                RunEnd::Error(HandlerError::retryable("e", "m").dependency_answered()),
                Some(Answered),
            ),
            (None, own("invalid_payload"), None),
            (None, own("output_not_stored"), None),
            (None, RunEnd::Panicked("p".into()), None),
            (None, RunEnd::Error(HandlerError::snooze(SECOND)), None),
            (Some(StopReason::TimedOut), RunEnd::Dropped, Some(Failed)),
            (Some(StopReason::Drain), failure(), None),
        ] {
            let what = format!("{reason:?} {end:?}");
            let conclusion = conclude(&spec, 1, reason, end, 0.5);
            assert_eq!(conclusion.dependency(&spec), told, "{what}");
            assert_eq!(conclusion.dependency(&JobSpec::default()), None, "it has none");
        }
        let last = JobSpec { max_attempts: 1, ..spec.clone() };
        let dies = |end| conclude(&last, 1, None, end, 0.5).dependency(&last);
        assert_eq!(dies(failure()), Some(Dependency::Exhausted), "for want of attempts");
        let permanent = RunEnd::Error(permanent().dependency_failed());
        assert_eq!(dies(permanent), Some(Failed), "whatever it has left");
    }

    #[test]
    fn the_record_says_what_happened() {
        let spec = JobSpec { max_attempts: 2, ..JobSpec::default() };
        let at = |number| conclude(&spec, number, Some(StopReason::TimedOut), RunEnd::Dropped, 0.0);
        assert!(matches!(at(1).verdict, Verdict::Retry { .. }));
        let last = at(2);
        assert_eq!(last.verdict, Verdict::Dead);
        assert!(last.detail.head.timed_out);
        assert_eq!(last.detail.head.error.unwrap().code, "timeout");
        let panic = conclude(&spec, 1, None, RunEnd::Panicked("boo".into()), 0.0);
        let error = panic.detail.head.error.unwrap();
        assert_eq!((error.code.as_str(), error.message.contains("boo")), ("panic", true));
    }
}
