//! A queue's settings as stored, read leniently: a newer build may have written fields that this one does not
//! know, and what it does know still holds. The same types are read strictly where callers send them.

use std::collections::BTreeMap;

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{KindLimits, RateLimit, RetryBudgetSettings};
use crate::model::name::Kind;
use crate::model::retry::RetryPolicy;

const BUDGET: [&str; 2] = ["percent", "min"];
const KIND: [&str; 2] = ["max_concurrency", "rate_limit"];
const RATE: [&str; 3] = ["limit", "per", "burst"];
const RETRY: [&str; 6] = ["backoff", "initial", "max", "multiplier", "jitter", "rules"];
const RULE: [&str; 4] = ["code", "retry", "delay", "max_attempts"];

pub(super) fn rate<'de, D: Deserializer<'de>>(d: D) -> Result<Option<RateLimit>, D::Error> {
    known(d, |value| keep(value, &RATE))
}

pub(super) fn retry_budget<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<RetryBudgetSettings>, D::Error> {
    known(d, |value| {
        keep(value, &BUDGET);
        value.get_mut("min").into_iter().for_each(|rate| keep(rate, &RATE));
    })
}

pub(super) fn kinds<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<BTreeMap<Kind, KindLimits>>, D::Error> {
    known(d, |value| {
        for limits in value.as_object_mut().into_iter().flatten().map(|(_, limits)| limits) {
            keep(limits, &KIND);
            limits.get_mut("rate_limit").into_iter().for_each(|rate| keep(rate, &RATE));
        }
    })
}

pub(super) fn retry<'de, D: Deserializer<'de>>(d: D) -> Result<Option<RetryPolicy>, D::Error> {
    known(d, |value| {
        keep(value, &RETRY);
        let rules = value.get_mut("rules").and_then(Value::as_array_mut);
        rules.into_iter().flatten().for_each(|rule| keep(rule, &RULE));
    })
}

fn known<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    d: D,
    strip: impl FnOnce(&mut Value),
) -> Result<Option<T>, D::Error> {
    let Some(mut value) = Option::<Value>::deserialize(d)? else { return Ok(None) };
    strip(&mut value);
    serde_json::from_value(value).map(Some).map_err(D::Error::custom)
}

fn keep(value: &mut Value, fields: &[&str]) {
    if let Some(object) = value.as_object_mut() {
        object.retain(|name, _| fields.contains(&name.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use crate::ledger::QueueSettings;

    #[test]
    fn fields_of_a_newer_build_are_passed_over_at_every_depth() {
        let known = r#"{"max_depth":5,"rate_limit":{"limit":2,"per":"1m","burst":3},
            "retry_budget":{"percent":5,"min":{"limit":2,"per":"1m"}},
            "kinds":{"a.b":{"max_concurrency":3,"rate_limit":{"limit":2,"per":"1m"}}},
            "default_retry":{"backoff":"linear","initial":"2s","max":"9s","multiplier":3.0,
            "jitter":"none","rules":[{"code":"x","retry":false,"delay":"1s","max_attempts":2}]}}"#;
        let expected: QueueSettings = serde_json::from_str(known).unwrap();
        assert!(expected.default_retry.as_ref().is_some_and(|retry| retry.rules.len() == 1));
        let newer = known
            .replace("\"limit\"", "\"new\":1,\"limit\"")
            .replace("\"max_concurrency\"", "\"new\":{},\"max_concurrency\"")
            .replace("\"percent\"", "\"new\":0,\"percent\"")
            .replace("\"backoff\"", "\"new\":{},\"backoff\"")
            .replace("\"code\"", "\"new\":[],\"code\"")
            .replace("\"max_depth\"", "\"new\":null,\"max_depth\"");
        assert_eq!(serde_json::from_str::<QueueSettings>(&newer).unwrap(), expected);
    }
}
