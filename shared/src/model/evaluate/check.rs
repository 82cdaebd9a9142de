//! What an [`Evaluate`] may say.

use super::{
    Completeness, Dimension, Evaluate, NAME_BYTES_MAX, POINTER_BYTES_MAX, RECOMMENDATION_BYTES_MAX,
    REQUIRED_MAX, RULES_MAX, Rule, WEIGHT_MAX,
};
use crate::expr::EXPR_BYTES_MAX;

/// What is wrong: where, as a JSON pointer, and why.
type Faults = Vec<(String, String)>;

impl Evaluate {
    /// The dimensions that are looked at.
    pub fn dimensions(&self) -> impl Iterator<Item = Dimension> {
        let looked_at = [
            (Dimension::Schema, self.schema.is_some()),
            (Dimension::Completeness, self.completeness.is_some()),
            (Dimension::Accuracy, self.accuracy.is_some()),
            (Dimension::Rules, !self.rules.is_empty()),
        ];
        looked_at.into_iter().filter_map(|(dimension, given)| given.then_some(dimension))
    }

    /// Everything that is wrong with it, by JSON pointer; empty where nothing is. Expressions and the schema are not
    /// looked into: that takes bounds of its own.
    pub fn faults(&self) -> Faults {
        let mut faults = Faults::new();
        let mut wrong = |pointer: &str, message: String| faults.push((pointer.into(), message));
        let mut sum = 0.0;
        for dimension in self.dimensions() {
            let weight = self.weights.of(dimension);
            sum += weight;
            if !(0.0..=WEIGHT_MAX).contains(&weight) {
                wrong(&format!("/weights/{}", dimension.as_str()), "must be 0 to 1000000".into());
            }
        }
        if self.dimensions().next().is_none() {
            wrong("", "needs a schema, completeness, accuracy or rules".into());
        } else if sum <= 0.0 {
            wrong("/weights", "must not all be 0".into());
        }
        if !(0.0..=1.0).contains(&self.threshold) {
            wrong("/threshold", "must be from 0 to 1".into());
        }
        if let Some(schema) = &self.schema
            && !schema.is_object()
        {
            wrong("/schema", "must be an object".into());
        }
        if let Some(accuracy) = &self.accuracy
            && !(0.0..=WEIGHT_MAX).contains(&accuracy.tolerance)
        {
            wrong("/accuracy/tolerance", "must be 0 to 1000000".into());
        }
        if let Some(completeness) = &self.completeness {
            pointers(completeness, &mut faults);
        }
        rules(&self.rules, &mut faults);
        faults
    }
}

fn pointers(Completeness { required }: &Completeness, faults: &mut Faults) {
    if required.is_empty() || required.len() > REQUIRED_MAX {
        let message = format!("must be 1 to {REQUIRED_MAX} JSON pointers");
        faults.push(("/completeness/required".into(), message));
        return;
    }
    for (at, pointer) in required.iter().enumerate() {
        let fine = pointer.is_empty() || pointer.starts_with('/');
        if !fine || pointer.len() > POINTER_BYTES_MAX {
            let message =
                format!("must be a JSON pointer (/a/b) of at most {POINTER_BYTES_MAX} bytes");
            faults.push((format!("/completeness/required/{at}"), message));
        }
    }
}

fn rules(rules: &[Rule], faults: &mut Faults) {
    if rules.len() > RULES_MAX {
        faults.push(("/rules".into(), format!("must be at most {RULES_MAX}")));
        return;
    }
    for (at, rule) in rules.iter().enumerate() {
        let mut wrong = |field: &str, message: String| {
            faults.push((format!("/rules/{at}/{field}"), message));
        };
        if rule.name.is_empty() || rule.name.len() > NAME_BYTES_MAX {
            wrong("name", format!("must be 1 to {NAME_BYTES_MAX} bytes long"));
        }
        if rule.expr.is_empty() || rule.expr.len() > EXPR_BYTES_MAX {
            wrong("expr", format!("must be 1 to {EXPR_BYTES_MAX} bytes long"));
        }
        if !(0.0..=WEIGHT_MAX).contains(&rule.weight) {
            wrong("weight", "must be 0 to 1000000".into());
        }
        if rule.recommendation.as_ref().is_some_and(|text| text.len() > RECOMMENDATION_BYTES_MAX) {
            wrong("recommendation", format!("must be at most {RECOMMENDATION_BYTES_MAX} bytes"));
        }
    }
    if !rules.is_empty() && rules.iter().map(|rule| rule.weight).sum::<f64>() <= 0.0 {
        faults.push(("/rules".into(), "must have a weight above 0".into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_cannot_be_scored_is_named() {
        let rule = json!({"name": "r", "expr": "true"});
        for (spec, want) in [
            (json!({"rules": [rule]}), ""),
            (json!({"completeness": {"required": [""]}, "weights": {"schema": 0}}), ""),
            (json!({}), "/: needs"),
            (json!({"threshold": 0.5}), "/: needs"),
            (json!({"rules": [rule], "threshold": 1.1}), "/threshold"),
            (json!({"rules": [rule], "weights": {"rules": 0}}), "/weights: must not all"),
            (json!({"rules": [rule], "weights": {"rules": -1}}), "/weights/rules"),
            (json!({"rules": [{"name": "", "expr": "true"}]}), "/rules/0/name"),
            (json!({"rules": [{"name": "r", "expr": ""}]}), "/rules/0/expr"),
            (json!({"rules": [{"name": "r", "expr": "true", "weight": 0}]}), "/rules: must have"),
            (json!({"rules": vec![rule.clone(); 51]}), "/rules: must be at most"),
            (json!({"schema": 7}), "/schema"),
            (json!({"completeness": {"required": []}}), "/completeness/required: "),
            (json!({"completeness": {"required": ["a"]}}), "/completeness/required/0"),
            (json!({"accuracy": {"expected": 1, "tolerance": -0.1}}), "/accuracy/tolerance"),
        ] {
            let parsed: Evaluate = serde_json::from_value(spec.clone()).unwrap();
            let faults: Vec<String> = parsed
                .faults()
                .into_iter()
                .map(|(at, why)| format!("{}: {why}", if at.is_empty() { "/" } else { &at }))
                .collect();
            match want {
                "" => assert!(faults.is_empty(), "{spec}: {faults:?}"),
                want => assert!(faults.iter().any(|f| f.starts_with(want)), "{spec}: {faults:?}"),
            }
        }
        for unknown in [json!({"rule": []}), json!({"weights": {"x": 1}})] {
            assert!(serde_json::from_value::<Evaluate>(unknown).is_err());
        }
    }
}
