//! `evaluate`: scores the `value` of its payload; the rest of the payload says by what.
//!
//! The formulas are in `shared/src/gate/evaluate.rs`. The checks share the places and the time limit of result gates.

use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::Value as Json;
use windlass_shared::gate::GateError;
use windlass_shared::model::evaluate::Evaluate;

use crate::context::Context;
use crate::error::HandlerError;
use crate::handler::{Handler, Output, parse};

/// A job that finds no place for its check comes back after this long; the attempt does not count.
const NO_PLACE_DELAY: Duration = Duration::from_secs(5);

pub(super) struct Evaluator;

impl Handler for Evaluator {
    fn call(&self, ctx: Context) -> BoxFuture<'static, Result<Output, HandlerError>> {
        Box::pin(async move { evaluate(ctx).await })
    }
}

async fn evaluate(ctx: Context) -> Result<Output, HandlerError> {
    let (value, spec) = args(&ctx.payload())?;
    let evaluation = match ctx.gate().evaluate(spec, value).await {
        Ok(evaluation) => evaluation,
        Err(GateError::Busy) => return Err(HandlerError::snooze(NO_PLACE_DELAY)),
        Err(GateError::Refused(refusal)) => {
            let message = refusal.error.message;
            return Err(match refusal.error.retryable {
                true => HandlerError::retryable("evaluation_failed", message),
                false => HandlerError::permanent("invalid_payload", message),
            });
        }
    };
    if evaluation.passed {
        return Output::of(&evaluation);
    }
    let error = HandlerError::retryable("evaluation_failed", evaluation.in_words());
    ctx.set_evaluation(evaluation);
    Err(error)
}

/// The value, and what it is scored by.
fn args(payload: &[u8]) -> Result<(Json, Evaluate), HandlerError> {
    let mut fields: serde_json::Map<String, Json> = parse(payload)?;
    let wrong = |message: String| HandlerError::permanent("invalid_payload", message);
    let value = fields.remove("value").ok_or_else(|| wrong("missing field `value`".into()))?;
    let spec: Evaluate =
        serde_json::from_value(Json::Object(fields)).map_err(|e| wrong(e.to_string()))?;
    match spec.faults().into_iter().next() {
        None => Ok((value, spec)),
        Some((pointer, message)) => Err(wrong(format!("{pointer} {message}").trim().to_owned())),
    }
}
