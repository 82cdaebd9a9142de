//! `windlass doctor`: what is wrong with this installation, and what to do.

use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use serde_json::json;
use windlass_shared::clock::Clock;
use windlass_shared::config::{Process, Profile, Settings};
use windlass_shared::engine::{Engine, ShardId};
use windlass_shared::ledger::Ledger;
use windlass_shared::limits::OUTBOX_ENTRIES_MAX;
use windlass_shared::model::name::Namespace;
use windlass_shared::model::time::Timestamp;

use crate::exit::{Failure, Outcome};
use crate::output::{self, Output};
use crate::setup::{self, SettingsArgs};

/// A store that takes longer than this to answer is slow.
const SLOW: Duration = Duration::from_millis(100);
/// Clocks that differ by more than this make times on records misleading.
const DRIFT_WARN: Duration = Duration::from_millis(500);
/// And by more than this, expiries and schedules wrong.
const DRIFT_FAIL: Duration = Duration::from_secs(5);
/// Workers that beat within this are alive.
const ALIVE: Duration = Duration::from_secs(30);
/// Most queues that are looked at.
const QUEUES_MAX: usize = 1_000;

/// What a look at the folder of a `windlass dev` needs.
const DEV: &str = "or, for a stopped `windlass dev`: WINDLASS_LEDGER__URL=sqlite://windlass-data/ledger.db WINDLASS_ENGINE__URL=embedded";

const EXAMPLES: &str = "\
Looks at the settings, the ledger, its schema, the engine, the clocks, the queues and the workers with the \
settings of this shell. Changes nothing. Exit 3 when something is wrong.";

/// Say what is wrong with this installation and what to do
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArgs {
    /// What to print
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// How one check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    /// What was seen.
    detail: String,
    /// What to do; empty when all is well.
    advice: String,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, check: &'static str, detail: impl Into<String>) {
        self.add(check, Verdict::Ok, detail, "");
    }
    fn warn(&mut self, check: &'static str, detail: impl Into<String>, advice: &str) {
        self.add(check, Verdict::Warn, detail, advice);
    }
    fn fail(&mut self, check: &'static str, detail: impl Into<String>, advice: &str) {
        self.add(check, Verdict::Fail, detail, advice);
    }
    fn add(
        &mut self,
        check: &'static str,
        verdict: Verdict,
        detail: impl Into<String>,
        advice: &str,
    ) {
        self.0.push(Finding { check, verdict, detail: detail.into(), advice: advice.into() });
    }
}

/// Runs the command.
pub async fn run(args: DoctorArgs) -> Outcome {
    let mut findings = Findings::default();
    match args.settings.load(Process::Tool, Vec::new()) {
        Ok(settings) => examine(&settings, &mut findings).await,
        Err(failure) => {
            findings.fail("settings", failure.to_string(), "see `windlass config show --help`")
        }
    }
    report(&findings, args.output)?;
    let wrong = findings.0.iter().filter(|f| f.verdict == Verdict::Fail).count();
    if wrong > 0 {
        return Err(Failure::Check(format!("{wrong} of {} checks failed", findings.0.len())));
    }
    Ok(())
}

async fn examine(settings: &Settings, findings: &mut Findings) {
    settings_themselves(settings, findings);
    open_files(findings);
    let ledger = ledger(settings, findings).await;
    let engine = engine(settings, findings).await;
    if let (Some(ledger), Some(engine)) = (&ledger, &engine) {
        queues(ledger, engine, findings).await;
    }
    if let Some(ledger) = ledger {
        workers(&ledger, findings).await;
        ledger.close().await;
    }
}

fn settings_themselves(settings: &Settings, findings: &mut Findings) {
    for note in &settings.notes {
        findings.warn("settings", note, "rename the variable, or unset it");
    }
    if settings.profile != Profile::Production {
        let detail = format!("profile {} does not refuse unsafe settings", settings.profile);
        findings.warn("profile", detail, "in production set WINDLASS_PROFILE=production");
    } else {
        findings.ok("settings", "profile production; nothing unsafe");
    }
}

/// Every connection is an open file.
fn open_files(findings: &mut Findings) {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let soft = limits.lines().find_map(|line| {
        let values = line.strip_prefix("Max open files")?;
        values.split_whitespace().next()?.parse::<u64>().ok()
    });
    match soft {
        Some(soft) if soft < 8192 => findings.warn(
            "open files",
            format!("a process may open {soft} files"),
            "raise it to 8192 or more: ulimit -n, LimitNOFILE= or the container's nofile",
        ),
        Some(soft) => findings.ok("open files", format!("a process may open {soft}")),
        None => {}
    }
}

async fn ledger(settings: &Settings, findings: &mut Findings) -> Option<Ledger> {
    let ledger = match setup::open_ledger(settings).await {
        Ok(ledger) => ledger,
        Err(failure) => {
            let advice = if settings.ledger.is_some() {
                "check that the server runs, the address (WINDLASS_LEDGER__URL) and `windlass migrate status`"
            } else {
                DEV
            };
            findings.fail("ledger", failure.to_string(), advice);
            return None;
        }
    };
    // The first call may open a connection; the second shows what a call costs.
    let _ = ledger.now().await;
    let before = Clock::System.now();
    let started = Instant::now();
    match ledger.now().await {
        Ok(now) => {
            let took = started.elapsed();
            latency(findings, "ledger", "opened; schema and durability are right", took);
            clock(findings, "clock: ledger", before, now, took);
        }
        Err(error) => findings.fail("ledger", error.to_string(), "see the server's log"),
    }
    Some(ledger)
}

async fn engine(settings: &Settings, findings: &mut Findings) -> Option<Engine> {
    let engine = match setup::open_engine(settings).await {
        Ok(engine) => engine,
        Err(failure) => {
            let advice = if settings.engine.is_some() {
                "check that the server runs, the address (WINDLASS_ENGINE__URL), and maxmemory-policy noeviction"
            } else {
                DEV
            };
            findings.fail("engine", failure.to_string(), advice);
            return None;
        }
    };
    let _ = engine.now().await;
    let before = Clock::System.now();
    let started = Instant::now();
    match engine.now().await {
        Ok(now) => {
            let took = started.elapsed();
            latency(findings, "engine", "opened; it evicts nothing", took);
            clock(findings, "clock: engine", before, now, took);
        }
        Err(error) => findings.fail("engine", error.to_string(), "see the server's log"),
    }
    Some(engine)
}

fn latency(findings: &mut Findings, check: &'static str, what: &str, took: Duration) {
    let detail = format!("{what}; answers in {:.1} ms", took.as_secs_f64() * 1000.0);
    if took > SLOW {
        let advice = "put it nearer: every batch waits for it once";
        findings.warn(check, detail, advice);
    } else {
        findings.ok(check, detail);
    }
}

/// `theirs` was read at some time within `took` after `before`.
fn clock(
    findings: &mut Findings,
    check: &'static str,
    before: Timestamp,
    theirs: Timestamp,
    took: Duration,
) {
    let ahead = theirs.since(before.plus(took));
    let behind = before.since(theirs);
    let drift = ahead.max(behind);
    let detail =
        format!("differs from this host's by about {:.1} ms", drift.as_secs_f64() * 1000.0);
    let advice = "run a time service (chrony, systemd-timesyncd) on every host";
    if drift > DRIFT_FAIL {
        findings.fail(check, detail, advice);
    } else if drift > DRIFT_WARN {
        findings.warn(check, detail, advice);
    } else {
        findings.ok(check, detail);
    }
}

async fn queues(ledger: &Ledger, engine: &Engine, findings: &mut Findings) {
    let queues = match ledger.queues(None).await {
        Ok(queues) => queues,
        Err(error) => return findings.fail("queues", error.to_string(), "see the server's log"),
    };
    let mut odd = false;
    for queue in queues.iter().take(QUEUES_MAX) {
        let shard = ShardId::first(queue.namespace.clone(), queue.name.clone());
        let Ok(stats) = engine.stats(&shard).await else { continue };
        let name = format!("{}/{}", queue.namespace, queue.name);
        if let Some(paused) = &queue.paused {
            odd = true;
            let detail = format!("{name} is paused since {} by {}", paused.since, paused.by);
            findings.warn("queues", detail, "windlass queue resume");
        }
        if stats.outbox > OUTBOX_ENTRIES_MAX / 10 {
            odd = true;
            let detail = format!("{name}: {} outcomes wait to be recorded", stats.outbox);
            findings.fail("queues", detail, "run `windlass scheduler`, and look at its log");
        }
        if stats.settings.is_none() && (stats.ready > 0 || stats.delayed > 0) {
            odd = true;
            let detail = format!("{name} gives out no jobs yet: the engine was wiped or is new");
            findings.fail("queues", detail, "run `windlass scheduler`: it fills the engine again");
        }
    }
    if !odd {
        findings.ok("queues", format!("{} on record", queues.len()));
    }
}

async fn workers(ledger: &Ledger, findings: &mut Findings) {
    // Keys and namespaces are set on workers; most installations have one namespace.
    match ledger.workers(&Namespace::default(), ALIVE).await {
        Ok(workers) if workers.is_empty() => findings.warn(
            "workers",
            "none has reported to namespace default for 30 s",
            "run `windlass worker`, with WINDLASS_WORKER__API_URL and WINDLASS_WORKER__API_KEY",
        ),
        Ok(workers) => {
            let slots: u32 = workers.iter().map(|worker| worker.concurrency).sum();
            findings.ok("workers", format!("{} alive, {slots} slots", workers.len()));
        }
        Err(error) => findings.fail("workers", error.to_string(), "see the server's log"),
    }
}

fn report(findings: &Findings, output: Output) -> Outcome {
    if output == Output::Json {
        return output::json(&json!({ "findings": findings.0 }));
    }
    for finding in &findings.0 {
        let mark = match finding.verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        output::line(&output::clean(&format!("{mark}  {}: {}", finding.check, finding.detail)))?;
        if !finding.advice.is_empty() {
            output::line(&format!("      {}", finding.advice))?;
        }
    }
    Ok(())
}
