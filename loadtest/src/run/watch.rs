//! Looks at processes and at the queue, once a second.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::figures::Figures;
use crate::cpu::{self, Processes, Watched};
use crate::http::Client;

/// Between two looks.
pub(super) const EVERY: Duration = Duration::from_secs(1);

/// Processes at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds from the beginning of the load.
    pub at: f64,
    /// Processor time so far, in seconds; by watched process.
    pub cpu: Vec<f64>,
    /// Bytes in memory.
    pub memory: Vec<u64>,
    /// Jobs that wait, run and finish in the queue; `None` where nobody knew.
    pub depth: Option<u64>,
    /// Names of processes that have ended; of them the last values stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<String>,
}

#[derive(Deserialize)]
struct Queue {
    depth: Option<Depth>,
}

#[derive(Deserialize)]
struct Depth {
    ready: u64,
    delayed: u64,
    running: u64,
    finishing: u64,
}

/// Whether these can be watched.
///
/// # Errors
/// There is no such process, or its name is taken or none.
pub(super) fn check(watched: &[Watched]) -> Result<()> {
    let mut names = BTreeSet::from([super::CLIENT]);
    for process in watched {
        let name = process.name.as_str();
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
        ensure!(
            !name.is_empty() && name.bytes().all(is_plain) && names.insert(name),
            "--pid {name}: each needs a name of its own, of letters, digits, - and _; `client` is the load itself"
        );
        cpu::of_tree(process.pid).with_context(|| format!("--pid {name}"))?;
    }
    Ok(())
}

/// Looks at all processes now, `last` being the look before. Reads much of `/proc`: not on the threads of the load.
pub(super) async fn look(began: Instant, watched: &[Watched], last: Option<&Sample>) -> Sample {
    let (watched, last) = (watched.to_vec(), last.cloned());
    let looked = tokio::task::spawn_blocking(move || look_now(began, &watched, last.as_ref()));
    looked.await.expect("looking does not panic")
}

fn look_now(began: Instant, watched: &[Watched], last: Option<&Sample>) -> Sample {
    let mut sample = Sample { at: began.elapsed().as_secs_f64(), ..Sample::default() };
    let all = Processes::now().ok();
    for (n, process) in watched.iter().enumerate() {
        let now = if process.name == super::CLIENT {
            Some(cpu::own_alone())
        } else {
            let of = |all: &Processes| {
                Some((all.cpu_of_tree(process.pid)?, all.memory_of_tree(process.pid)?))
            };
            all.as_ref().and_then(of)
        };
        let now = now.map(|(cpu, memory)| (cpu.as_secs_f64(), memory));
        let (cpu, memory) = now.unwrap_or_else(|| {
            sample.gone.push(process.name.clone());
            last.map_or((0.0, 0), |last| (last.cpu[n], last.memory[n]))
        });
        sample.cpu.push(cpu);
        sample.memory.push(memory);
    }
    sample
}

/// How many jobs are in the queue. Not part of the load: one try.
pub(super) async fn depth(client: &Client, queue: &str) -> Option<u64> {
    let crate::http::Answer::Good(bytes) = client.get(&format!("/v1/queues/{queue}")).await else {
        return None;
    };
    let depth = serde_json::from_slice::<Queue>(&bytes).ok()?.depth?;
    Some(depth.ready + depth.delayed + depth.running + depth.finishing)
}

/// Processor time between two moments, for so many jobs.
pub(super) fn note_cpu(
    figures: &mut Figures,
    stage: Option<&str>,
    watched: &[Watched],
    between: (&Sample, &Sample),
    jobs: u64,
) {
    if jobs == 0 {
        return;
    }
    let mut sum = 0.0;
    for (n, process) in watched.iter().enumerate() {
        let us = (between.1.cpu[n] - between.0.cpu[n]) * 1e6 / jobs as f64;
        figures.note(stage, &format!("{}_cpu_us_per_job", process.name), us);
        // The load's own is not what a job costs.
        sum += if process.name == super::CLIENT { 0.0 } else { us };
    }
    if watched.iter().any(|process| process.name != super::CLIENT) {
        figures.note(stage, "cpu_us_per_job", sum);
    }
}

/// The most memory of each process, and how much each grew: from the second tenth of the samples to the last.
pub(super) fn note_memory(figures: &mut Figures, watched: &[Watched], samples: &[Sample]) {
    let mut most_grown = f64::NAN;
    for (n, process) in watched.iter().enumerate() {
        let memory: Vec<f64> = samples.iter().map(|sample| sample.memory[n] as f64).collect();
        let most = memory.iter().copied().fold(0.0, f64::max);
        figures.note(None, &format!("{}_memory_mb", process.name), most / 1e6);
        // Caches and connections fill at first; fewer samples say nothing of growth.
        let tenth = memory.len() / 10;
        if tenth == 0 {
            continue;
        }
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        let (early, late) =
            (mean(&memory[tenth..2 * tenth]), mean(&memory[memory.len() - tenth..]));
        let grown = (late - early) * 100.0 / early.max(1.0);
        figures.note(None, &format!("{}_memory_growth_percent", process.name), grown);
        if process.name != super::CLIENT {
            most_grown = most_grown.max(grown);
        }
    }
    figures.note(None, "memory_growth_percent", most_grown);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_counts_from_when_caches_are_full() {
        let watched: Vec<Watched> = ["api=1", "client=2"].map(|text| text.parse().unwrap()).into();
        let memory = |n: u64| if n < 2 { 10 } else { 100 + n };
        let samples: Vec<Sample> = (0..20)
            .map(|n| Sample {
                at: n as f64,
                cpu: vec![n as f64, 0.0],
                memory: vec![memory(n) * 1_000_000, 1 << (n + 10)],
                ..Sample::default()
            })
            .collect();
        let mut figures = Figures::default();
        note_memory(&mut figures, &watched, &samples);
        note_cpu(&mut figures, Some("a"), &watched, (&samples[0], &samples[10]), 1_000_000);
        let grown = figures.get("api_memory_growth_percent").unwrap();
        assert!((grown - (118.5 - 102.5) / 102.5 * 100.0).abs() < 0.01, "{grown}");
        assert_eq!(figures.get("memory_growth_percent"), Some(grown), "not that of the load");
        assert_eq!(figures.get("api_memory_mb"), Some(119.0));
        assert_eq!(figures.get("a.cpu_us_per_job"), Some(10.0));
    }
}
