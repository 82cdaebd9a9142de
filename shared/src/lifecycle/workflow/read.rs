//! Reads what a decision wants.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use serde_json::{Value as Json, json};

use super::release;
use super::wants::{Facts, Wants};
use crate::ledger::runs::{END, Run, Step, StepJob};
use crate::ledger::{Ledger, LedgerError};
use crate::model::job::{JobError, JobState, Value};
use crate::model::workflow::{StepState, code, limits, permanent};

/// Steps of one read.
const PAGE: u32 = 2_000;
/// Steps whose outputs make up the answer of a run that names none; with more, there is none.
const LAST_MAX: usize = 1_000;

/// Reads it.
pub(super) async fn facts(ledger: &Ledger, run: &Run, wants: &Wants) -> Result<Facts, LedgerError> {
    let mut facts = Facts::default();
    let mut jobs = wants.jobs.clone();
    for ord in &wants.items {
        // Of very large outputs none is read for the reason of a failure; it is on its job.
        if fits(ledger, run, &[*ord]).await? {
            jobs.push(*ord);
        }
    }
    if !jobs.is_empty() {
        for job in ledger.step_jobs(run.id, &jobs).await? {
            facts.jobs.entry(job.ord).or_default().push(job);
        }
    }
    if wants.given {
        facts.given = ledger.given(run.id).await?;
    }
    if !wants.children.is_empty() {
        for (ord, child) in ledger.children(run.id, &wants.children).await? {
            facts.children.entry(ord).or_default().push(child);
        }
    }
    for (ord, name, version) in &wants.definitions {
        let Some(found) = ledger.definition(&run.namespace, name, *version).await? else {
            continue;
        };
        // One that cannot be read, of a newer build perhaps, is as good as none.
        if let Ok(spec) = serde_json::from_str(&found.document) {
            facts.definitions.insert(*ord, (found.version, spec));
        }
    }
    if wants.all {
        facts.all = all_steps(ledger, run).await?;
        facts.has_all = true;
    }
    let mut names: HashSet<String> = wants.steps.iter().cloned().collect();
    if wants.last {
        let last: Vec<&Step> = release::last(&facts.all).collect();
        if last.len() <= LAST_MAX {
            names.extend(last.into_iter().map(|step| step.id.clone()));
        }
    }
    if !names.is_empty() || wants.evaluates {
        let mut values = Values { ledger, run, budget: limits::SCOPE_BYTES_MAX };
        match values.scope(names.into_iter().collect(), wants.evaluates).await? {
            Ok((input, steps)) => (facts.input, facts.steps) = (input, steps),
            Err(error) => facts.spoiled = Some(error),
        }
    }
    Ok(facts)
}

/// Whether the outputs of these steps may be read together.
async fn fits(ledger: &Ledger, run: &Run, ords: &[i32]) -> Result<bool, LedgerError> {
    let bytes = ledger.step_output_bytes(run.id, ords).await?;
    Ok(bytes <= limits::SCOPE_BYTES_MAX as u64)
}

/// Every step of a run but the end, in order; without lists and outputs, of which a run may have very large ones
/// ([`Ledger::step_heads`]).
pub(super) async fn all_steps(ledger: &Ledger, run: &Run) -> Result<Vec<Step>, LedgerError> {
    let mut all: Vec<Step> = Vec::new();
    loop {
        let after = all.last().map_or(END, |step| step.ord);
        let page = ledger.step_heads(run.id, after, PAGE).await?;
        let is_last = page.len() < PAGE as usize;
        all.extend(page);
        if is_last {
            return Ok(all);
        }
    }
}

/// Values on their way into expressions, bounded together.
struct Values<'a> {
    ledger: &'a Ledger,
    run: &'a Run,
    budget: usize,
}

type Scoped = (Json, HashMap<String, Json>);

impl Values<'_> {
    /// What `input` and `steps` are; or why they cannot be had.
    async fn scope(
        &mut self,
        mut names: Vec<String>,
        with_input: bool,
    ) -> Result<Result<Scoped, JobError>, LedgerError> {
        names.sort();
        let mut input = Json::Null;
        if with_input {
            match self.value(&self.run.input.clone()).await? {
                Ok(value) => input = value,
                Err(error) => return Ok(Err(error)),
            }
        }
        let mut seen = HashMap::with_capacity(names.len());
        if names.is_empty() {
            return Ok(Ok((input, seen)));
        }
        let steps = self.ledger.steps_named(self.run.id, &names).await?;
        let with_jobs: Vec<i32> = steps
            .iter()
            .filter(|step| step.state == StepState::Succeeded)
            .filter(|step| step.job_id.is_some() || step.many)
            .chain(steps.iter().filter(|step| step.many && step.state == StepState::Failed))
            .map(|step| step.ord)
            .collect();
        if !fits(self.ledger, self.run, &with_jobs).await? {
            return Ok(Err(too_large()));
        }
        let mut jobs: HashMap<i32, Vec<StepJob>> = HashMap::new();
        for job in self.ledger.step_jobs(self.run.id, &with_jobs).await? {
            jobs.entry(job.ord).or_default().push(job);
        }
        for step in steps {
            let output =
                match self.output(&step, jobs.remove(&step.ord).unwrap_or_default()).await? {
                    Ok(output) => output,
                    Err(error) => return Ok(Err(error)),
                };
            let mut about = json!({"state": step.state, "output": output});
            if let Some(error) = &step.error {
                about["error"] = json!({"code": error.code, "message": error.message});
            }
            seen.insert(step.id, about);
        }
        Ok(Ok((input, seen)))
    }

    /// What a step has returned. A `for_each` has a list, `null` for items that failed; a step that did not succeed
    /// has `null`.
    async fn output(
        &mut self,
        step: &Step,
        jobs: Vec<StepJob>,
    ) -> Result<Result<Json, JobError>, LedgerError> {
        if step.many && step.output.is_none() {
            let mut list = Vec::with_capacity(jobs.len());
            for job in jobs {
                let output = job.output.filter(|_| job.state == JobState::Succeeded);
                match self.maybe(output).await? {
                    Ok(value) => list.push(value),
                    Err(error) => return Ok(Err(error)),
                }
            }
            return Ok(Ok(Json::Array(list)));
        }
        if step.job_id.is_some() {
            return self.maybe(jobs.into_iter().next().and_then(|job| job.output)).await;
        }
        self.maybe(step.output.clone().map(Value::Inline)).await
    }

    async fn maybe(&mut self, value: Option<Value>) -> Result<Result<Json, JobError>, LedgerError> {
        match value {
            Some(value) => self.value(&value).await,
            None => Ok(Ok(Json::Null)),
        }
    }

    async fn value(&mut self, value: &Value) -> Result<Result<Json, JobError>, LedgerError> {
        let bytes: Bytes = match value {
            Value::Inline(bytes) => bytes.clone(),
            Value::Blob(id) => match self.ledger.blob(&self.run.namespace, *id).await? {
                Some(bytes) => bytes,
                None => return Ok(Err(permanent(code::EXPRESSION_FAILED, "a value is gone"))),
            },
        };
        let Some(left) = self.budget.checked_sub(bytes.len()) else {
            return Ok(Err(too_large()));
        };
        self.budget = left;
        Ok(serde_json::from_slice(&bytes)
            .map_err(|_| permanent(code::EXPRESSION_FAILED, "a value is not JSON")))
    }
}

fn too_large() -> JobError {
    let text = "the values that its expressions read are larger than 8 MiB together";
    permanent(code::EXPRESSION_FAILED, text)
}
