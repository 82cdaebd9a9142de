//! Makes the bodies of submissions.

use bytes::Bytes;
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use windlass_shared::model::time::Span;

use super::book::Plan;
use crate::profile::{Graph, Jobs, Range};
use crate::wfformat;

/// The kind of jobs that do more than nothing.
const KIND: &str = "loadtest.job";
/// What surrounds the filling of a payload.
const FRAME_BYTES: u32 = "{\"filling\":\"\"}".len() as u32;

/// An attempt may take so much longer than planned.
const SLACK: std::time::Duration = std::time::Duration::from_secs(60);
/// Attempts beyond those that are to fail.
const SPARE: u32 = 4;

/// A workflow that is submitted.
pub(super) struct Document {
    pub(super) body: Bytes,
    /// Each step with those it needs.
    pub(super) steps: Vec<(String, Vec<String>)>,
}

pub(super) struct Shape {
    jobs: Jobs,
    tag: String,
    /// Where all jobs are the same: one, and a batch.
    same: Option<(Bytes, Bytes)>,
    documents: Vec<Document>,
}

impl Shape {
    /// `traces` are documents to submit in turn instead of the profile's graph.
    pub(super) fn new(jobs: &Jobs, tag: &str, traces: Vec<Value>) -> Self {
        let documents = if traces.is_empty() { vec![graph(jobs.graph)] } else { traces };
        let documents = documents.into_iter().map(|document| place(document, jobs, tag)).collect();
        let mut shape = Self { jobs: jobs.clone(), tag: tag.to_owned(), same: None, documents };
        if shape.is_same() {
            let mut rng = <StdRng as rand::SeedableRng>::seed_from_u64(0);
            let (one, _) = shape.draw(&mut rng, 0);
            let batch = vec![one.clone(); jobs.batch as usize];
            shape.same =
                Some((one.to_string().into(), json!({ "jobs": batch }).to_string().into()));
        }
        shape
    }

    fn is_same(&self) -> bool {
        let jobs = &self.jobs;
        let fixed = |range: Range<Span>| range.ends()[0] == range.ends()[1];
        let [least, most] = jobs.payload_bytes.ends();
        fixed(jobs.sleep)
            && fixed(jobs.burn)
            && least == most
            && jobs.failing_percent == 0.0
            && jobs.delayed_percent == 0.0
            && jobs.keys == 0
    }

    /// The body of a job, the `n`th of the load.
    pub(super) fn job(&self, rng: &mut StdRng, n: u64) -> (Bytes, Plan) {
        if let Some((one, _)) = &self.same {
            return (one.clone(), Plan::default());
        }
        let (job, plan) = self.draw(rng, n);
        (job.to_string().into(), plan)
    }

    /// The body of a batch; `n` is the number of its first job.
    pub(super) fn batch(&self, rng: &mut StdRng, n: u64) -> (Bytes, Vec<Plan>) {
        if let Some((_, batch)) = &self.same {
            return (batch.clone(), vec![Plan::default(); self.jobs.batch as usize]);
        }
        let drawn = (0..u64::from(self.jobs.batch)).map(|k| self.draw(rng, n + k));
        let (jobs, plans): (Vec<Value>, Vec<Plan>) = drawn.unzip();
        (json!({ "jobs": jobs }).to_string().into(), plans)
    }

    /// Where jobs go.
    pub(super) fn queue(&self) -> &str {
        self.jobs.queue.as_str()
    }

    /// Jobs of one batch.
    pub(super) const fn batch_size(&self) -> u32 {
        self.jobs.batch
    }

    /// The body of a workflow, and which of the documents it is.
    pub(super) fn workflow(&self, n: u64) -> (Bytes, usize) {
        let which = usize::try_from(n).unwrap_or(0) % self.documents.len();
        (self.documents[which].body.clone(), which)
    }

    /// The workflows that are submitted.
    pub(super) fn documents(&self) -> &[Document] {
        &self.documents
    }

    fn draw(&self, rng: &mut StdRng, n: u64) -> (Value, Plan) {
        let jobs = &self.jobs;
        let mut plan = Plan::default();
        let (sleep, burn) = (length(rng, jobs.sleep), length(rng, jobs.burn));
        if hits(rng, jobs.failing_percent) {
            plan.fails = u8::try_from(jobs.fails).unwrap_or(u8::MAX);
        }
        if hits(rng, jobs.delayed_percent) {
            plan.delay_ms = u32::try_from(length(rng, jobs.delay)).unwrap_or(u32::MAX);
        }
        let [least, most] = jobs.payload_bytes.ends();
        let filling = rng.random_range(least..=most).saturating_sub(FRAME_BYTES);
        let mut payload = json!({ "filling": "x".repeat(filling as usize) });
        let is_noop = sleep == 0 && burn == 0 && plan.fails == 0;
        if !is_noop {
            payload["sleep_ms"] = sleep.into();
            payload["burn_ms"] = burn.into();
            payload["fails"] = plan.fails.into();
        }
        let kind = if is_noop { "noop" } else { KIND };
        let mut job =
            json!({ "kind": kind, "queue": jobs.queue, "tags": [self.tag], "payload": payload });
        if plan.delay_ms > 0 {
            job["delay"] =
                Span(std::time::Duration::from_millis(plan.delay_ms.into())).to_string().into();
        }
        if !is_noop {
            // Whatever the queue's defaults are.
            job["timeout"] = json!(Span(std::time::Duration::from_millis(sleep + burn) + SLACK));
            job["max_attempts"] = json!(u32::from(plan.fails) + SPARE);
        }
        if plan.fails > 0 {
            job["retry"] = json!({ "backoff": "fixed", "initial": "100ms", "jitter": "none" });
        }
        if jobs.keys > 0 {
            let key: Value = format!("key-{}", n % u64::from(jobs.keys)).into();
            for field in ["fairness_key", "concurrency_key", "rate_limit_key"] {
                job[field] = key.clone();
            }
        }
        (job, plan)
    }
}

/// Whole ms.
fn length(rng: &mut StdRng, range: Range<Span>) -> u64 {
    let [least, most] =
        range.ends().map(|span| u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX));
    if least == most { least } else { rng.random_range(least..=most) }
}

fn hits(rng: &mut StdRng, percent: f64) -> bool {
    percent > 0.0 && rng.random::<f64>() * 100.0 < percent
}

/// Diamonds, one after the other.
fn graph(graph: Graph) -> Value {
    let mut steps = Vec::new();
    let mut step = |id: String, needs: Vec<String>| {
        steps.push(json!({ "id": id, "kind": "noop", "needs": needs }));
    };
    for diamond in 0..graph.diamonds {
        let before = diamond.checked_sub(1).map(|before| format!("d{before}-end"));
        let (begin, end) = (format!("d{diamond}-begin"), format!("d{diamond}-end"));
        step(begin.clone(), before.into_iter().collect());
        let middle: Vec<String> = (0..graph.wide).map(|n| format!("d{diamond}-{n}")).collect();
        middle.iter().for_each(|id| step(id.clone(), vec![begin.clone()]));
        step(end, middle);
    }
    json!({ "name": "loadtest", "steps": steps })
}

/// A document in the queue and with the tag of the load.
fn place(mut document: Value, jobs: &Jobs, tag: &str) -> Document {
    document["tags"] = json!([tag]);
    let mut steps = Vec::new();
    for step in document["steps"].as_array_mut().into_iter().flatten() {
        step["queue"] = json!(jobs.queue);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let needs = step["needs"].as_array().map(|needs| needs.iter().map(text).collect());
        steps.push((text(&step["id"]), needs.unwrap_or_default()));
    }
    Document { body: document.to_string().into(), steps }
}

/// A trace of a workflow (WfFormat) as a document whose steps sleep.
///
/// # Errors
/// What is wrong with it.
pub fn trace(text: &str, time_factor: f64) -> Result<Value, wfformat::Fault> {
    wfformat::convert(text, wfformat::Options { time_factor, work: wfformat::Work::Sleep })
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn read(bytes: &Bytes) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn jobs_that_are_all_the_same_are_made_once_and_have_the_size_that_was_asked_for() {
        let shape = Shape::new(&Jobs::default(), "t", Vec::new());
        let mut rng = StdRng::seed_from_u64(1);
        let (one, plan) = shape.job(&mut rng, 0);
        assert_eq!((shape.job(&mut rng, 1).0.as_ptr(), plan), (one.as_ptr(), Plan::default()));
        let job = read(&one);
        assert_eq!((job["kind"].as_str(), job["payload"].to_string().len()), (Some("noop"), 200));
        let (batch, plans) = shape.batch(&mut rng, 0);
        assert_eq!(read(&batch)["jobs"].as_array().map(Vec::len), Some(plans.len()));
    }

    #[test]
    fn what_is_drawn_is_in_the_job_and_in_its_plan() {
        let jobs = Jobs {
            sleep: Range::Between([10, 20].map(|ms| Span(std::time::Duration::from_millis(ms)))),
            failing_percent: 50.0,
            fails: 2,
            delayed_percent: 50.0,
            keys: 3,
            ..Jobs::default()
        };
        let shape = Shape::new(&jobs, "t", Vec::new());
        let mut rng = StdRng::seed_from_u64(1);
        let mut seen = [0; 2];
        for n in 0..1_000 {
            let (body, plan) = shape.job(&mut rng, n);
            let job = read(&body);
            assert_eq!(job["kind"], KIND);
            assert_eq!(job["payload"]["fails"], plan.fails);
            assert!((10..=20).contains(&job["payload"]["sleep_ms"].as_u64().unwrap()));
            assert_eq!(job.get("delay").is_some(), plan.delay_ms == 1_000);
            assert_eq!(job["fairness_key"], format!("key-{}", n % 3));
            seen[0] += u32::from(plan.fails == 2);
            seen[1] += u32::from(plan.delay_ms > 0);
        }
        assert!(seen.iter().all(|n| (400..600).contains(n)), "{seen:?}");
    }

    #[test]
    fn diamonds_follow_each_other() {
        let jobs = Jobs { graph: Graph { diamonds: 2, wide: 3 }, ..Jobs::default() };
        let shape = Shape::new(&jobs, "t", Vec::new());
        let steps = &shape.documents()[0].steps;
        assert_eq!(steps.len(), jobs.graph.steps() as usize);
        let needs = |id: &str| &steps.iter().find(|(step, _)| step == id).unwrap().1;
        assert_eq!(needs("d1-begin"), &["d0-end"]);
        assert_eq!(needs("d1-end").len(), 3);
        assert_eq!(read(&shape.workflow(5).0)["steps"][0]["queue"], "default");
    }
}
