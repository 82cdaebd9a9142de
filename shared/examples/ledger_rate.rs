//! How many jobs a ledger takes and records per second, on this machine.
//!
//! `cargo run --release --example ledger_rate -- sqlite:///tmp/x/ledger.db [JOBS] [BATCH] [CLIENTS]`
//! migrates the ledger, submits JOBS jobs of 300 bytes in batches from CLIENTS callers at once, records a success
//! for each, and prints both rates.

use std::time::{Duration, Instant};

use anyhow::Context;
use futures::StreamExt;
use windlass_shared::config::LedgerSettings;
use windlass_shared::engine::Ended;
use windlass_shared::ledger::{Ledger, LedgerError, Record, Recorded, Submission, SubmitOutcome};
use windlass_shared::model::id::{Fence, JobId};
use windlass_shared::model::job::{JobSpec, NewJob, Priority, Value};
use windlass_shared::model::name::{Namespace, QueueName};
use windlass_shared::model::time::Timestamp;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let url = args.next().context("the ledger's URL")?;
    let jobs: usize = args.next().map_or(Ok(200_000), |n| n.parse())?;
    let batch: usize = args.next().map_or(Ok(500), |n| n.parse())?;
    let clients: usize = args.next().map_or(Ok(8), |n| n.parse())?;
    let settings = LedgerSettings::new(url);
    Ledger::migrate(&settings).await?;
    let ledger = Ledger::open(&settings).await?;

    let batches: Vec<Vec<NewJob>> =
        (0..jobs.div_ceil(batch)).map(|_| (0..batch).map(|_| new_job()).collect()).collect();
    let records: Vec<Vec<Record>> =
        batches.iter().map(|jobs| jobs.iter().map(|job| success(job.id)).collect()).collect();
    let total = batches.len() * batch;

    let phase = Phase::begin();
    let submits = batches.into_iter().map(|jobs| submit(&ledger, jobs));
    let mut submits = futures::stream::iter(submits).buffer_unordered(clients);
    while let Some(result) = submits.next().await {
        result?;
    }
    phase.report("submitted", total);

    let phase = Phase::begin();
    let writes = records.into_iter().map(|records| ledger.record(records));
    let mut writes = futures::stream::iter(writes).buffer_unordered(clients);
    while let Some(replies) = writes.next().await {
        anyhow::ensure!(
            replies?.iter().all(|r| *r == Recorded::Applied),
            "an outcome was not applied"
        );
    }
    phase.report("recorded", total);
    ledger.close().await;
    Ok(())
}

async fn submit(ledger: &Ledger, jobs: Vec<NewJob>) -> anyhow::Result<()> {
    let expected = jobs.len();
    let submission = Submission { jobs, atomic: false, idempotency: None };
    let outcome = loop {
        match ledger.submit(submission.clone()).await {
            Err(LedgerError::Overloaded) => tokio::task::yield_now().await,
            outcome => break outcome?,
        }
    };
    let SubmitOutcome::Done(results) = outcome else { anyhow::bail!("not a first answer") };
    anyhow::ensure!(results.iter().filter(|r| r.is_ok()).count() == expected, "a job was refused");
    Ok(())
}

/// A phase that is timed. CPU time tells more than the clock where the machine is busy with other work.
struct Phase {
    begun: Instant,
    cpu: Duration,
}

impl Phase {
    fn begin() -> Self {
        Self { begun: Instant::now(), cpu: cpu_time() }
    }

    fn report(&self, what: &str, total: usize) {
        let (took, cpu) = (self.begun.elapsed(), cpu_time() - self.cpu);
        let rate = total as f64 / took.as_secs_f64();
        let each = cpu.as_secs_f64() * 1e6 / total as f64;
        println!(
            "{what}: {total} jobs in {took:.2?}: {rate:.0} per second, {each:.2} us of CPU each"
        );
    }
}

/// CPU time of this process so far (Linux; ticks are hundredths of a second there), else zero.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2);
    Duration::from_millis(10 * ticks.filter_map(|n| n.parse::<u64>().ok()).sum::<u64>())
}

fn new_job() -> NewJob {
    let payload = format!("{{\"text\":\"{}\"}}", "x".repeat(289));
    NewJob {
        id: JobId::generate(),
        namespace: Namespace::default(),
        queue: QueueName::default(),
        kind: "sleep".parse().expect("a legal kind"),
        priority: Priority::default(),
        payload: Value::Inline(payload.into_bytes().into()),
        run_at: None,
        expires_at: None,
        spec: JobSpec::default(),
        unique: None,
        tags: Vec::new(),
        meta: None,
        request_id: Some("0192d8f0-0000-7000-8000-000000000000".into()),
        traceparent: None,
    }
}

fn success(id: JobId) -> Record {
    let at = Timestamp::from_millis(1_700_000_000_000);
    Record {
        namespace: Namespace::default(),
        id,
        fence: Fence(1_700_000_000_000_000),
        ended: Ended::Succeeded,
        at: at.plus(Duration::from_millis(5)),
        claimed_at: Some(at),
        attempt: 1,
        crashes: 0,
        worker: Some("worker-1 (0192d8f0-0000-7000-8000-000000000000)".into()),
        output: Some(Value::null()),
        error: None,
        timed_out: false,
        usage: None,
    }
}
