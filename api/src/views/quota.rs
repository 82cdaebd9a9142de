//! Quotas as callers see them.

use serde::Serialize;
use utoipa::ToSchema;
use windlass_shared::ledger::RateLimit;
use windlass_shared::ledger::quotas::QuotaRecord;
use windlass_shared::model::time::Timestamp;

use crate::requests::queue::RateLimitDocs;

/// What a namespace may bring in, and what it uses of that. `null` is no limit.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Quotas)]
pub struct QuotaView {
    namespace: String,
    /// Jobs submitted per time.
    #[schema(value_type = Option<RateLimitDocs>, required = true)]
    rate: Option<RateLimit>,
    /// Unfinished jobs.
    #[schema(required = true)]
    max_jobs: Option<u64>,
    /// Bytes of the payloads of unfinished jobs.
    #[schema(required = true)]
    max_bytes: Option<u64>,
    /// What is used of them; 0 where there is no limit.
    used: UsedView,
    /// When the unfinished jobs were counted last.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    counted_at: Option<Timestamp>,
    #[schema(value_type = String, format = DateTime)]
    changed_at: Timestamp,
    /// A key's name, or `local`.
    changed_by: String,
}

/// What is used of quotas.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = QuotasUsed)]
pub struct UsedView {
    /// Of what may come in at once.
    rate: u64,
    /// Those counted last, and what came in since.
    jobs: u64,
    /// The same of their payloads.
    bytes: u64,
}

impl From<QuotaRecord> for QuotaView {
    fn from(record: QuotaRecord) -> Self {
        Self {
            namespace: record.namespace.to_string(),
            rate: record.quotas.rate,
            max_jobs: record.quotas.max_jobs,
            max_bytes: record.quotas.max_bytes,
            used: UsedView {
                rate: record.used.rate,
                jobs: record.used.jobs,
                bytes: record.used.bytes,
            },
            counted_at: record.counted_at,
            changed_at: record.changed_at,
            changed_by: record.changed_by,
        }
    }
}
