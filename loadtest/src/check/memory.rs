//! Whether this process grows under load.

use std::time::Duration;

use anyhow::Context as _;
use tokio_util::task::AbortOnDropHandle;

/// Caches and connections fill in the first part of a load; growth counts from its end.
const WARM_PART: f64 = 0.2;

/// Resident bytes before and after.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Grown {
    before: u64,
    after: u64,
}

impl Grown {
    /// By how many percent; not less than 0.
    pub(super) fn percent(self) -> f64 {
        self.after.saturating_sub(self.before) as f64 * 100.0 / self.before.max(1) as f64
    }
}

/// Looks once when a load is warm, and once at its end.
pub(super) struct Watch {
    at_start: u64,
    warm: AbortOnDropHandle<anyhow::Result<u64>>,
}

impl Watch {
    /// At the beginning of a load.
    pub(super) fn start(load: Duration) -> anyhow::Result<Self> {
        let at_start = resident()?;
        let warm = tokio::spawn(async move {
            tokio::time::sleep(load.mul_f64(WARM_PART)).await;
            resident()
        });
        Ok(Self { at_start, warm: AbortOnDropHandle::new(warm) })
    }

    /// At its end.
    pub(super) fn end(self) -> anyhow::Result<Grown> {
        let after = resident()?;
        // A load that ended before it was warm is held against its beginning.
        let before = match futures::FutureExt::now_or_never(self.warm) {
            Some(Ok(warm)) => warm?,
            Some(Err(_)) | None => self.at_start,
        };
        Ok(Grown { before, after })
    }
}

/// Bytes of this process that are in memory.
fn resident() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status").context("cannot read /proc")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.context("/proc says nothing of memory")? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_counts_from_before_and_shrinking_is_none() {
        assert_eq!(Grown { before: 100, after: 151 }.percent(), 51.0);
        assert_eq!(Grown { before: 100, after: 90 }.percent(), 0.0);
        assert!(resident().unwrap() > 1 << 20);
    }
}
