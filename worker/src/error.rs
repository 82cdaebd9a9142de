//! What a handler may answer instead of an output.

use std::time::Duration;

use windlass_shared::engine::flow::Dependency;
use windlass_shared::limits::ERROR_MESSAGE_BYTES_MAX;
use windlass_shared::model::job::JobError;

/// Longest error code kept, in bytes.
const CODE_BYTES_MAX: usize = 64;

/// Why a handler did not return an output: a failure, or a wish.
///
/// `?` on any error type makes a retryable failure with the code `handler_error`.
#[derive(Debug)]
pub struct HandlerError(pub(crate) Cause);

/// The cases of [`HandlerError`], for the runtime.
#[derive(Debug)]
pub(crate) enum Cause {
    /// The attempt failed and counts.
    Failed {
        /// What is put on record.
        error: JobError,
        /// No earlier than after this.
        retry_after: Option<Duration>,
        /// How the job's dependency was, where the handler says so.
        dependency: Option<Dependency>,
    },
    /// Run later; the attempt does not count.
    Snooze(Duration),
    /// The handler gave up because it was asked to.
    Cancelled,
}

impl HandlerError {
    /// A failure that another attempt may mend. The code is stable and snake_case: retry rules match on it.
    pub fn retryable(code: &str, message: impl Into<String>) -> Self {
        Self::failed(code, message.into(), true)
    }

    /// A failure that every further attempt would meet again: the job is dead, unless a retry rule for
    /// the code says otherwise.
    pub fn permanent(code: &str, message: impl Into<String>) -> Self {
        Self::failed(code, message.into(), false)
    }

    /// Not a failure: run again after `delay`, without spending an attempt.
    pub const fn snooze(delay: Duration) -> Self {
        Self(Cause::Snooze(delay))
    }

    /// The handler stopped because [`Context::cancellation`](crate::context::Context::cancellation) said so.
    /// Without such a request the job ends as cancelled as well.
    pub const fn cancelled() -> Self {
        Self(Cause::Cancelled)
    }

    /// The next attempt starts no earlier than after `delay` (at most a day). No effect on what is not a
    /// failure.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        if let Cause::Failed { retry_after, .. } = &mut self.0 {
            *retry_after = Some(delay);
        }
        self
    }

    /// The job's dependency answered, and this error is not its doing: it does not count against its circuit, and closes
    /// one that is open. Without a word, errors that are retryable count, and those that are permanent are answers. No
    /// effect on what is not a failure.
    #[must_use]
    pub fn dependency_answered(self) -> Self {
        self.of_dependency(Dependency::Answered)
    }

    /// The job's dependency failed, although another attempt is not worth it: it counts against its circuit. No effect on
    /// what is not a failure.
    #[must_use]
    pub fn dependency_failed(self) -> Self {
        self.of_dependency(Dependency::Failed)
    }

    fn of_dependency(mut self, told: Dependency) -> Self {
        if let Cause::Failed { dependency, .. } = &mut self.0 {
            *dependency = Some(told);
        }
        self
    }

    /// What the result gate says of an output.
    pub(crate) const fn rejected(error: JobError) -> Self {
        Self(Cause::Failed { error, retry_after: None, dependency: None })
    }

    fn failed(code: &str, message: String, retryable: bool) -> Self {
        let error = JobError { code: clean_code(code), message: cut(message), retryable };
        Self(Cause::Failed { error, retry_after: None, dependency: None })
    }
}

impl<E: Into<anyhow::Error>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::retryable("handler_error", format!("{:#}", error.into()))
    }
}

/// Codes go into rules, metrics and lists: only letters, digits and `_ . : -`, and not too long.
fn clean_code(code: &str) -> String {
    let clean: String = code
        .chars()
        .take(CODE_BYTES_MAX)
        .map(|c| if c.is_ascii_alphanumeric() || "_.:-".contains(c) { c } else { '_' })
        .collect();
    if clean.is_empty() { "handler_error".into() } else { clean }
}

/// Cuts a message at the limit, between characters.
pub(crate) fn cut(mut message: String) -> String {
    if message.len() > ERROR_MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(ERROR_MESSAGE_BYTES_MAX));
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(error: HandlerError) -> (JobError, Option<Duration>) {
        match error.0 {
            Cause::Failed { error, retry_after, .. } => (error, retry_after),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn any_error_becomes_a_retryable_failure_with_its_causes() {
        fn fails() -> Result<(), HandlerError> {
            let cause = "x".parse::<u32>().map_err(anyhow::Error::from);
            cause.map_err(|e| e.context("no number"))?;
            Ok(())
        }
        let (error, after) = failed(fails().unwrap_err());
        assert_eq!(error.code, "handler_error");
        assert_eq!(error.message, "no number: invalid digit found in string");
        assert!(error.retryable && after.is_none());
    }

    #[test]
    fn codes_and_messages_are_kept_in_bounds() {
        let long = "ü".repeat(ERROR_MESSAGE_BYTES_MAX);
        let (error, _) = failed(HandlerError::permanent("bad code\r\n", long));
        assert_eq!(error.code, "bad_code__");
        assert_eq!(error.message.len(), ERROR_MESSAGE_BYTES_MAX);
        assert!(!error.retryable);
        assert_eq!(failed(HandlerError::permanent("", "m")).0.code, "handler_error");
    }

    #[test]
    fn a_pause_is_kept_by_failures_only() {
        let second = Duration::from_secs(1);
        assert_eq!(failed(HandlerError::retryable("e", "m").after(second)).1, Some(second));
        assert!(
            matches!(HandlerError::snooze(second).after(second).0, Cause::Snooze(d) if d == second)
        );
    }
}
