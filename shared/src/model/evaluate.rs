//! Evaluation of results: what is looked at, the verdict, and what the next attempt is told of it.
//!
//! The formulas are in `shared/src/gate/evaluate.rs`, and in docs/evaluation.md.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::id::Fence;
use super::job::{Attempt, AttemptOutcome, JobError};

mod check;

/// Where there is no `threshold`.
pub const THRESHOLD: f64 = 0.95;
/// Most JSON pointers of `completeness`.
pub const REQUIRED_MAX: usize = 200;
/// Longest of them, in bytes.
pub const POINTER_BYTES_MAX: usize = 512;
/// Most rules.
pub const RULES_MAX: usize = 50;
/// Longest name of a rule, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// Longest recommendation, in bytes.
pub const RECOMMENDATION_BYTES_MAX: usize = 512;
/// Most failures, and most recommendations, in one verdict.
pub const LISTED_MAX: usize = 20;
/// Largest weight.
pub const WEIGHT_MAX: f64 = 1e6;

/// What is looked at. At least one dimension; each gives a score from 0 to 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluate {
    /// JSON Schema (draft 2020-12) that the value should satisfy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Json>,
    /// What must be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completeness: Option<Completeness>,
    /// What it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<Accuracy>,
    /// What should hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// How much each dimension counts.
    #[serde(default, skip_serializing_if = "Weights::is_default")]
    pub weights: Weights,
    /// Passed at this score and above; 0 to 1.
    #[serde(default = "threshold")]
    pub threshold: f64,
}

fn threshold() -> f64 {
    THRESHOLD
}

/// What must be there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Completeness {
    /// JSON pointers (RFC 6901) to places that should hold something.
    pub required: Vec<String>,
}

/// What the value should be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accuracy {
    /// The right value. Fields of an object that it does not name are not looked at.
    pub expected: Json,
    /// How far a number may be off, as a part of the expected one; of an expected 0, as it is.
    #[serde(default)]
    pub tolerance: f64,
}

/// What should hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// For people.
    pub name: String,
    /// CEL over `value` that should be true.
    pub expr: String,
    /// How much it counts among the rules.
    #[serde(default = "one")]
    pub weight: f64,
    /// What to do better where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recommendation: Option<String>,
}

fn one() -> f64 {
    1.0
}

/// How much each dimension counts. Those that are not looked at count nothing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// Of `schema`.
    #[serde(default = "one")]
    pub schema: f64,
    /// Of `completeness`.
    #[serde(default = "one")]
    pub completeness: f64,
    /// Of `accuracy`.
    #[serde(default = "one")]
    pub accuracy: f64,
    /// Of `rules`, all together.
    #[serde(default = "one")]
    pub rules: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { schema: 1.0, completeness: 1.0, accuracy: 1.0, rules: 1.0 }
    }
}

impl Weights {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Of one dimension.
    pub const fn of(&self, dimension: Dimension) -> f64 {
        match dimension {
            Dimension::Schema => self.schema,
            Dimension::Completeness => self.completeness,
            Dimension::Accuracy => self.accuracy,
            Dimension::Rules => self.rules,
        }
    }
}

/// One way to look at a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// How much of it satisfies the schema.
    Schema,
    /// How much of what must be there is.
    Completeness,
    /// How much of it is right.
    Accuracy,
    /// How many of the rules hold, by weight.
    Rules,
}

impl Dimension {
    /// The wire word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Schema => "schema",
            Self::Completeness => "completeness",
            Self::Accuracy => "accuracy",
            Self::Rules => "rules",
        }
    }
}

/// The verdict over a value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The weighted mean of `scores`, to six decimals.
    pub score: f64,
    /// Whether it reaches the threshold.
    pub passed: bool,
    /// What had to be reached.
    pub threshold: f64,
    /// By dimension, to six decimals; only what was looked at.
    pub scores: BTreeMap<Dimension, f64>,
    /// What lowers the score; at most [`LISTED_MAX`].
    pub failures: Vec<Failure>,
    /// What to do better; at most [`LISTED_MAX`].
    pub recommendations: Vec<String>,
}

/// One thing that lowers a score.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which score.
    pub dimension: Dimension,
    /// Where and why.
    pub message: String,
}

/// The name of an [`Evaluation`] among the notes of an attempt ([`Attempt::usage`]).
const NOTE: &str = "evaluation";

impl Evaluation {
    /// The verdict in words, with its failures and recommendations.
    pub fn in_words(&self) -> String {
        let mut text = format!("the score {} is below {}", self.score, self.threshold);
        let scores: Vec<String> =
            self.scores.iter().map(|(of, score)| format!("{} {score}", of.as_str())).collect();
        text.push_str(&format!(" ({})", scores.join(", ")));
        for failure in &self.failures {
            text.push_str(&format!("; {}: {}", failure.dimension.as_str(), failure.message));
        }
        if !self.recommendations.is_empty() {
            text.push_str(&format!("; to do better: {}", self.recommendations.join(" ")));
        }
        text
    }

    /// Beside what an attempt used, as one JSON object.
    pub fn noted(&self, usage: Option<Json>) -> Json {
        let mut notes = match usage {
            Some(Json::Object(notes)) => notes,
            _ => serde_json::Map::new(),
        };
        let note = serde_json::to_value(self).expect("an evaluation is made of what JSON has");
        notes.insert(NOTE.into(), note);
        Json::Object(notes)
    }

    /// What an attempt used, and its evaluation, out of its notes.
    pub fn apart(notes: &Bytes) -> (Option<Bytes>, Option<Self>) {
        let Ok(Json::Object(mut usage)) = serde_json::from_slice(notes) else {
            return (Some(notes.clone()), None);
        };
        let Some(note) = usage.remove(NOTE) else { return (Some(notes.clone()), None) };
        let Ok(evaluation) = serde_json::from_value(note) else {
            return (Some(notes.clone()), None);
        };
        let usage = (!usage.is_empty()).then(|| Bytes::from(Json::Object(usage).to_string()));
        (usage, Some(evaluation))
    }
}

/// What an attempt learns of the one before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Previous {
    /// Its number.
    pub attempt: u32,
    /// Why it did not succeed.
    pub error: JobError,
    /// What to do better; empty where its result was not evaluated.
    #[serde(default)]
    pub recommendations: Vec<String>,
    /// Its score, where its result was evaluated.
    #[serde(default)]
    pub score: Option<f64>,
}

impl Previous {
    /// Of the attempt `number`, under the lease `fence`: the failure or time-out that counted last before it, if that is
    /// on record. Lost leases, releases and snoozes are passed over: they say nothing of a result.
    pub fn of(attempts: &[Attempt], number: u32, fence: Fence) -> Option<Self> {
        let counted = |attempt: &&Attempt| {
            use AttemptOutcome::{Failed, TimedOut};
            attempt.fence < fence && matches!(attempt.outcome, Some(Failed | TimedOut))
        };
        let last = attempts.iter().filter(counted).max_by_key(|attempt| attempt.fence)?;
        // A redriven job begins anew at 1: the same number can stand for an earlier life, but not as the last.
        if number < 2 || last.attempt != number - 1 {
            return None;
        }
        let (_, evaluation) = last.usage.as_ref().map(Evaluation::apart).unwrap_or_default();
        Some(Self {
            attempt: last.attempt,
            error: last.error.clone()?,
            score: evaluation.as_ref().map(|evaluation| evaluation.score),
            recommendations: evaluation.map(|e| e.recommendations).unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn evaluation() -> Evaluation {
        Evaluation {
            score: 0.5,
            passed: false,
            threshold: THRESHOLD,
            scores: BTreeMap::from([(Dimension::Rules, 0.5)]),
            failures: vec![Failure { dimension: Dimension::Rules, message: "`a` is false".into() }],
            recommendations: vec!["Do a.".into()],
        }
    }

    #[test]
    fn an_evaluation_lies_beside_the_usage_and_comes_apart_again() {
        let usage = json!({"cpu_ms": 3});
        let notes = Bytes::from(evaluation().noted(Some(usage.clone())).to_string());
        let (rest, found) = Evaluation::apart(&notes);
        assert_eq!((rest, found), (Some(usage.to_string().into()), Some(evaluation())));
        let alone = Bytes::from(evaluation().noted(None).to_string());
        assert_eq!(Evaluation::apart(&alone), (None, Some(evaluation())));
        for other in [r#"{"cpu_ms":3}"#, r#"{"evaluation":7}"#, "nonsense"] {
            let other = Bytes::from(other);
            assert_eq!(Evaluation::apart(&other), (Some(other), None));
        }
        let words = evaluation().in_words();
        assert_eq!(
            words,
            "the score 0.5 is below 0.95 (rules 0.5); rules: `a` is false; to do better: Do a."
        );
    }

    #[test]
    fn the_next_attempt_learns_of_the_one_that_counted_last() {
        let attempt = |fence, attempt, outcome, evaluated: bool| Attempt {
            fence: Fence(fence),
            attempt,
            worker: None,
            started_at: None,
            finished_at: None,
            outcome: Some(outcome),
            error: Some(JobError { code: "c".into(), message: "m".into(), retryable: true }),
            usage: evaluated.then(|| evaluation().noted(None).to_string().into()),
        };
        use AttemptOutcome::{Failed, LeaseLost, TimedOut};
        let all = [
            attempt(1, 1, TimedOut, false),
            attempt(2, 2, Failed, true),
            attempt(3, 3, LeaseLost, false),
            attempt(9, 3, Failed, false),
        ];
        let of = |number, fence| Previous::of(&all, number, Fence(fence));
        let told = of(3, 4).unwrap();
        assert_eq!((told.attempt, told.score), (2, Some(0.5)));
        assert_eq!(told.recommendations, ["Do a."]);
        let told = of(2, 2).unwrap();
        assert_eq!((told.attempt, told.score, told.recommendations.len()), (1, None, 0));
        // The first attempt has none; nor has one whose predecessor is not on record yet.
        assert_eq!((of(1, 9), of(4, 4), of(2, 9)), (None, None, None));
    }
}
