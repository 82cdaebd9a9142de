//! Quotas of a namespace.

use serde::Deserialize;
use utoipa::ToSchema;
use windlass_shared::ledger::RateLimit;
use windlass_shared::ledger::quotas::Quotas;

use super::Faults;
use super::queue::{RateLimitDocs, check_rate};
use crate::error::ApiError;

const JOBS_MAX: u64 = 1_000_000_000;
const BYTES_MAX: u64 = 1 << 50;

/// What a namespace may bring in, all of it anew; what is absent is not limited. At least one.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QuotasRequest {
    /// Jobs submitted per time.
    #[serde(default)]
    #[schema(value_type = Option<RateLimitDocs>)]
    rate: Option<RateLimit>,
    /// Unfinished jobs.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    max_jobs: Option<u64>,
    /// Bytes of the payloads of unfinished jobs; at most 2^50.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1_125_899_906_842_624_u64)]
    max_bytes: Option<u64>,
}

impl QuotasRequest {
    /// # Errors
    /// 422 that lists what is out of range.
    pub fn check(self) -> Result<Quotas, ApiError> {
        let Self { rate, max_jobs, max_bytes } = self;
        let mut faults = Faults::default();
        if let Some(rate) = &rate {
            check_rate("/rate", rate, &mut faults);
        }
        if max_jobs.is_some_and(|n| !(1..=JOBS_MAX).contains(&n)) {
            faults.wrong("/max_jobs", "must be from 1 to 1000000000");
        }
        if max_bytes.is_some_and(|n| !(1..=BYTES_MAX).contains(&n)) {
            faults.wrong("/max_bytes", "must be from 1 to 2^50");
        }
        if rate.is_none() && max_jobs.is_none() && max_bytes.is_none() {
            faults
                .wrong("", "must have one of rate, max_jobs and max_bytes; DELETE takes them away");
        }
        faults.finish()?;
        Ok(Quotas { rate, max_jobs, max_bytes })
    }
}
