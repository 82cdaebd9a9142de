//! What a benchmark found, as a table and as JSON.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Times up to an hour, to three digits.
const HOUR_US: u64 = 3_600_000_000;

/// A gathering of times.
#[derive(Debug, Clone)]
pub struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, HOUR_US, 3).expect("the bounds are constant and legal"))
    }
}

impl Times {
    /// Adds one; what is longer than an hour counts as an hour.
    pub fn add(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(HOUR_US);
        self.0.saturating_record(us.clamp(1, HOUR_US));
    }
    /// Adds all of another.
    pub fn add_all(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all have the same bounds");
    }
    /// How many.
    pub fn count(&self) -> u64 {
        self.0.len()
    }
    /// The time that so many (0 to 1) do not exceed; 0 of none.
    pub fn at(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(quantile))
    }
    /// Its percentiles.
    pub fn percentiles(&self) -> Percentiles {
        let ms = |q: f64| self.0.value_at_quantile(q) as f64 / 1000.0;
        Percentiles { count: self.0.len(), p50_ms: ms(0.5), p99_ms: ms(0.99), max_ms: ms(1.0) }
    }
}

/// Of a gathering of times.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// How many times.
    pub count: u64,
    /// Half are no longer.
    pub p50_ms: f64,
    /// 99 of 100 are no longer.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

/// CPU of one process in a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CpuPerJob {
    /// Which process.
    pub process: String,
    /// Its CPU time per job of the run.
    pub us_per_job: f64,
}

impl CpuPerJob {
    /// From a process's CPU time before and after.
    pub fn between(process: &str, before: Duration, after: Duration, jobs: u64) -> Self {
        let us = after.saturating_sub(before).as_micros() as f64;
        Self { process: process.to_owned(), us_per_job: us / jobs.max(1) as f64 }
    }
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// Jobs in it.
    pub jobs: u64,
    /// From its start to the last job's end.
    pub seconds: f64,
    /// Jobs over seconds.
    pub jobs_per_second: f64,
    /// CPU of the processes that took part.
    pub cpu: Vec<CpuPerJob>,
    /// What [`Report::latency`] says.
    pub latency: Percentiles,
}

impl Run {
    /// Of this many jobs in this time.
    pub fn new(jobs: u64, took: Duration, cpu: Vec<CpuPerJob>, latency: Percentiles) -> Self {
        let seconds = took.as_secs_f64();
        Self { jobs, seconds, jobs_per_second: jobs as f64 / seconds.max(1e-9), cpu, latency }
    }
}

/// Several runs of one benchmark.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What was run.
    pub benchmark: String,
    /// What the latencies are of.
    pub latency: &'static str,
    /// Each run.
    pub runs: Vec<Run>,
    /// Of each figure the median over the runs.
    pub median: Run,
    /// What else a reader must know.
    pub notes: Vec<String>,
}

impl Report {
    /// Of at least one run; every run watches the same processes.
    pub fn new(benchmark: impl Into<String>, latency: &'static str, runs: Vec<Run>) -> Self {
        let of = |figure: &dyn Fn(&Run) -> f64| median(runs.iter().map(figure).collect());
        let processes = runs.first().map(|run| run.cpu.clone()).unwrap_or_default();
        let cpu = processes.iter().enumerate().map(|(i, cpu)| CpuPerJob {
            process: cpu.process.clone(),
            us_per_job: of(&|run| run.cpu.get(i).map_or(0.0, |c| c.us_per_job)),
        });
        let median = Run {
            jobs: runs.first().map_or(0, |run| run.jobs),
            seconds: of(&|run| run.seconds),
            jobs_per_second: of(&|run| run.jobs_per_second),
            cpu: cpu.collect(),
            latency: Percentiles {
                count: runs.iter().map(|run| run.latency.count).sum(),
                p50_ms: of(&|run| run.latency.p50_ms),
                p99_ms: of(&|run| run.latency.p99_ms),
                max_ms: of(&|run| run.latency.max_ms),
            },
        };
        Self { benchmark: benchmark.into(), latency, runs, median, notes: Vec::new() }
    }

    /// Headings of [`Self::rows`].
    pub fn headings(&self) -> Vec<String> {
        let mut headings: Vec<String> = vec!["run".into(), "jobs".into(), "jobs/s".into()];
        headings.extend(self.median.cpu.iter().map(|c| format!("{} us/job", c.process)));
        headings.extend(["p50 ms", "p99 ms", "max ms"].map(str::to_owned));
        headings
    }

    /// A row per run, and one of the medians.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let row = |name: String, run: &Run| {
            let mut cells = vec![name, run.jobs.to_string(), format!("{:.0}", run.jobs_per_second)];
            cells.extend(run.cpu.iter().map(|c| format!("{:.1}", c.us_per_job)));
            let l = run.latency;
            cells.extend([l.p50_ms, l.p99_ms, l.max_ms].map(|ms| format!("{ms:.2}")));
            cells
        };
        let runs = self.runs.iter().enumerate().map(|(i, run)| row((i + 1).to_string(), run));
        runs.chain([row("median".into(), &self.median)]).collect()
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => 0.0,
        n if n % 2 == 1 => figures[n / 2],
        n => f64::midpoint(figures[n / 2 - 1], figures[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_each_figure_is_taken_by_itself() {
        let run = |seconds: u64, redis: f64| {
            let mut times = Times::default();
            times.add(Duration::from_millis(seconds));
            let cpu = vec![CpuPerJob { process: "redis".into(), us_per_job: redis }];
            Run::new(100, Duration::from_secs(seconds), cpu, times.percentiles())
        };
        let report = Report::new("x", "y", vec![run(1, 9.0), run(4, 7.0), run(2, 8.0)]);
        assert_eq!(report.median.jobs_per_second, 50.0);
        assert_eq!(report.median.cpu[0].us_per_job, 8.0);
        assert!((report.median.latency.p50_ms - 2.0).abs() < 0.01);
        assert_eq!(report.rows().len(), 4);
        assert_eq!(report.rows()[3].len(), report.headings().len());
        assert_eq!(median(vec![1.0, 4.0, 2.0, 3.0]), 2.5);
    }
}
