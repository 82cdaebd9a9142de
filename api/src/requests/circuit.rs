//! Changes of circuits.

use std::time::Duration;

use serde::Deserialize;
use utoipa::ToSchema;
use windlass_shared::ledger::circuits::CircuitSettings;
use windlass_shared::model::time::Span;

use super::docs::{ObjectiveText, ProbeText};
use super::{Change, Faults};
use crate::error::ApiError;

const FAILURES_MAX: u32 = 1_000;
const CALLS_MAX: u32 = 1_000_000;
const WINDOW_MIN: Duration = Duration::from_secs(1);
const WINDOW_MAX: Duration = Duration::from_secs(24 * 3600);
const PROBE_MIN: Duration = Duration::from_millis(100);
const PROBE_MAX: Duration = Duration::from_secs(3600);

/// Changes of a circuit's rule. Absent fields stay; `null` brings the default back.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CircuitPatch {
    /// So many failures one after the other open it; 0: they do not. Default 5.
    #[serde(default)]
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 1000)]
    failures: Change<u32>,
    /// Counts begin anew after this long. Default 1 minute.
    #[serde(default)]
    #[schema(value_type = Option<ObjectiveText>)]
    window: Change<Span>,
    /// So many failures among a hundred calls of a window open it; 0: they do not. Default 50.
    #[serde(default)]
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 100)]
    percent: Change<u32>,
    /// … from so many calls on. Default 20.
    #[serde(default)]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1_000_000)]
    calls_min: Change<u32>,
    /// While it is open one job starts after each such time. Default 5 s.
    #[serde(default)]
    #[schema(value_type = Option<ProbeText>)]
    probe: Change<Span>,
}

impl CircuitPatch {
    /// # Errors
    /// 422 that lists what is out of range.
    pub fn check(&self) -> Result<(), ApiError> {
        let mut faults = Faults::default();
        if self.failures.value().is_some_and(|n| *n > FAILURES_MAX) {
            faults.wrong("/failures", "must be from 0 to 1000");
        }
        if self.window.value().is_some_and(|span| !(WINDOW_MIN..=WINDOW_MAX).contains(&span.0)) {
            faults.wrong("/window", "must be from 1s to 1 day");
        }
        if self.percent.value().is_some_and(|n| *n > 100) {
            faults.wrong("/percent", "must be from 0 to 100");
        }
        if self.calls_min.value().is_some_and(|n| !(1..=CALLS_MAX).contains(n)) {
            faults.wrong("/calls_min", "must be from 1 to 1000000");
        }
        if self.probe.value().is_some_and(|span| !(PROBE_MIN..=PROBE_MAX).contains(&span.0)) {
            faults.wrong("/probe", "must be from 100ms to 1h");
        }
        faults.finish()
    }

    /// Carries the changes out.
    pub fn apply(self, settings: &mut CircuitSettings) {
        self.failures.apply(&mut settings.failures);
        self.window.apply(&mut settings.window);
        self.percent.apply(&mut settings.percent);
        self.calls_min.apply(&mut settings.calls_min);
        self.probe.apply(&mut settings.probe);
    }
}
