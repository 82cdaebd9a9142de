//! Results of load tests as callers see them, and as they send them.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use windlass_shared::ledger::load_results::StoredResult;
use windlass_shared::model::time::Timestamp;

use super::Raw;

/// A result to be kept.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LoadResultRequest)]
pub struct LoadResultRequest<'a> {
    /// The profile's name.
    #[schema(pattern = "^[A-Za-z0-9._:-]{1,128}$")]
    pub profile: String,
    /// Where the load was made.
    #[schema(min_length = 1, max_length = 256)]
    pub machine: String,
    /// Whether every threshold held.
    pub passed: bool,
    /// By the clock of that machine.
    #[schema(value_type = String, format = DateTime)]
    pub began_at: Timestamp,
    /// All of it: an object, of which `figures` is shown in lists.
    #[serde(borrow)]
    #[schema(value_type = Object)]
    pub result: &'a RawValue,
}

/// A result of a load test.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LoadResult)]
pub struct LoadResultView {
    #[schema(format = Uuid)]
    id: String,
    profile: String,
    machine: String,
    passed: bool,
    #[schema(value_type = String, format = DateTime)]
    began_at: Timestamp,
    /// What was measured, by name.
    #[schema(value_type = Option<Object>, required = true)]
    figures: Option<Raw>,
    /// All of it; not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, nullable = false, required = false)]
    result: Option<Raw>,
}

#[derive(Deserialize)]
struct Shown<'a> {
    #[serde(borrow)]
    figures: Option<&'a RawValue>,
}

impl LoadResultView {
    /// As a list shows it.
    pub fn brief(stored: &StoredResult) -> Self {
        let raw = |raw: &RawValue| Raw(Bytes::copy_from_slice(raw.get().as_bytes()));
        let shown = serde_json::from_str::<Shown<'_>>(&stored.result).ok();
        Self {
            id: stored.id.to_string(),
            profile: stored.profile.clone(),
            machine: stored.machine.clone(),
            passed: stored.passed,
            began_at: stored.began_at,
            figures: shown.and_then(|shown| shown.figures).map(raw),
            result: None,
        }
    }

    /// All of it.
    pub fn whole(stored: StoredResult) -> Self {
        let brief = Self::brief(&stored);
        Self { result: Some(Raw(stored.result.into())), ..brief }
    }
}
