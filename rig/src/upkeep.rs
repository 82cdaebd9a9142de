//! What the installation does to itself beside the load: backups of the ledger and load checks, again and again, and in
//! the end a restore drill of the newest backup. Promises I29 and, of the jobs of checks, I1 and I2.
//!
//! They are jobs of the schedulers, so that a fault may cut an attempt short. A backup has more attempts than any fault can
//! take from it, and may lose its scheduler more often than there are kills: one that ends in any other way than well has
//! met what no fault explains. Beside that, the newest can be restored, and no job of a check that was judged is lost, or
//! ran twice or too early.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::figure::{Figure, count};
use crate::load::client::Client;
use crate::until::until_seldom;

/// Where the installation's own jobs are, and their queue.
const SYSTEM: &str = "system";
/// Longest wait for what is under way when the load has ended, and for the drill. A backup waits two minutes for one whose
/// scheduler was killed.
const SETTLE_MAX: Duration = Duration::from_secs(300);
/// Tries of one call: the fleet may be young, or just healed.
const TRIES: usize = 20;
/// From one try to the next.
const PAUSE: Duration = Duration::from_millis(500);
/// What no job of a check may do.
const PROMISED: [&str; 4] = ["lost", "doubled", "early", "ran_though_refused"];

/// Settings of the roles: where backups go, and what signs them.
pub fn env(folder: &Path) -> BTreeMap<String, String> {
    // The key signs what is gone with the folder.
    let key = format!("wlbk_{}", "A".repeat(43));
    let store = folder.join("backups").display().to_string();
    [("WINDLASS_BACKUP__STORE", store), ("WINDLASS_BACKUP__KEY", key)]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
}

/// The upkeep of one run.
#[derive(Debug)]
pub struct Upkeep {
    client: Client,
}

impl Upkeep {
    /// Makes the schedules that keep it going.
    ///
    /// # Errors
    /// The fleet does not take them.
    pub async fn make(client: &Client) -> anyhow::Result<Self> {
        let upkeep = Self { client: client.in_namespace(SYSTEM) };
        let backup = json!({
            "kind": "backup.create", "queue": SYSTEM, "timeout": "10m", "max_attempts": 100, "max_crashes": 100,
            "retry": {"backoff": "fixed", "initial": "2s", "jitter": "none"},
        });
        let check = json!({"rate_per_minute": 120, "duration": "3s", "delay": "1s", "slots": 4});
        for (name, every, work) in [
            ("rig-backup", "10s", backup),
            (
                "rig-check",
                "15s",
                json!({"kind": "load_check.run", "queue": SYSTEM, "payload": check, "timeout": "5m"}),
            ),
        ] {
            let schedule = json!({"name": name, "every": every, "overlap": "skip", "job": work});
            upkeep.send("/v1/schedules", &schedule, name).await?;
            // A short run may end before it is due.
            let path = format!("/v1/schedules/{name}/trigger");
            upkeep.send(&path, &json!({}), &path).await?;
        }
        Ok(upkeep)
    }

    /// Lets what is under way end, has the newest backup proven, and says what became of all.
    ///
    /// # Errors
    /// The fleet does not answer.
    pub async fn figures(&self) -> anyhow::Result<Vec<Figure>> {
        for name in ["rig-backup", "rig-check"] {
            let path = format!("/v1/schedules/{name}/pause");
            self.send(&path, &json!({}), &path).await?;
        }
        let settled = until_seldom(SETTLE_MAX, || async { self.live().await.filter(|n| *n == 0) });
        settled.await.context("the installation's own jobs do not end")?;
        let drill = json!({"kind": "backup.drill", "queue": SYSTEM, "timeout": "5m"});
        let drill = self.send("/v1/jobs", &drill, "rig-drill").await?;
        let path = format!("/v1/jobs/{}", drill["id"].as_str().context("a job has an id")?);
        let ended = until_seldom(SETTLE_MAX, || async {
            let job = self.client.get(&path).await?;
            job["finished_at"].is_string().then_some(job)
        });
        let drill = ended.await.context("the drill does not end")?;

        let mut figures = backups(&self.backups().await?);
        figures.extend([Figure::at_least(
            "drills of the newest that passed",
            count(usize::from(drill["state"] == "succeeded")),
            "",
            1.0,
        )]);
        figures.extend(self.checks().await?);
        Ok(figures)
    }

    /// How many of the installation's own jobs have not ended.
    async fn live(&self) -> Option<usize> {
        let states = "state=scheduled&state=ready&state=running&state=retrying";
        let jobs = self.client.get(&format!("/v1/jobs?limit=500&{states}")).await?;
        Some(jobs["items"].as_array()?.len())
    }

    /// The jobs of backups; all have ended.
    async fn backups(&self) -> anyhow::Result<Vec<Value>> {
        let path = "/v1/jobs?limit=500&kind=backup.create";
        let jobs = self.client.get(path).await.context("jobs cannot be listed")?;
        Ok(jobs["items"].as_array().context("jobs come in a list")?.clone())
    }

    async fn checks(&self) -> anyhow::Result<Vec<Figure>> {
        let page = self.client.get("/v1/load-checks?limit=500").await;
        let page = page.context("load checks cannot be listed")?;
        let checks = page["items"].as_array().cloned().unwrap_or_default();
        let in_state = |state: &str| count(checks.iter().filter(|c| c["state"] == state).count());
        let judged: Vec<&Value> =
            checks.iter().filter(|check| measured(check, "lost").is_some()).collect();
        let mut figures = vec![
            Figure::at_least("load checks that ended", count(checks.len()), "", 1.0),
            Figure::at_most("load checks without an end", in_state("running"), "", 0.0),
            Figure::told("load checks that passed", in_state("passed"), ""),
        ];
        for promise in PROMISED {
            let found = judged.iter().filter_map(|check| measured(check, promise));
            let sum = found.fold(0.0, |sum, one| sum + one);
            figures.push(Figure::at_most(&format!("jobs of load checks: {promise}"), sum, "", 0.0));
        }
        Ok(figures)
    }

    async fn send(&self, path: &str, body: &Value, key: &str) -> anyhow::Result<Value> {
        let mut tries = 1;
        loop {
            match self.client.send(path, body, key).await {
                Ok(answer) => return Ok(answer),
                Err(error) if tries == TRIES => return Err(error),
                Err(_) => tries += 1,
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// What is demanded of backups.
fn backups(jobs: &[Value]) -> Vec<Figure> {
    let (made, failed): (Vec<&Value>, Vec<&Value>) =
        jobs.iter().partition(|job| job["state"] == "succeeded");
    for job in &failed {
        eprintln!("a backup failed: {} {}", job["state"], job["error"]);
    }
    vec![
        Figure::at_least("backups made", count(made.len()), "", 1.0),
        Figure::at_most("backups that failed", count(failed.len()), "", 0.0),
    ]
}

fn measured(check: &Value, verdict: &str) -> Option<f64> {
    let mut verdicts = check["verdicts"].as_array()?.iter();
    verdicts.find(|one| one["name"] == verdict)?["measured"].as_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_that_ends_in_any_other_way_than_well_fails_the_experiment() {
        let hold = |states: &[&str]| {
            let jobs: Vec<Value> = states.iter().map(|state| json!({ "state": state })).collect();
            backups(&jobs).iter().all(Figure::holds)
        };
        assert!(hold(&["succeeded", "succeeded"]));
        assert!(!hold(&[]), "none was made");
        for state in ["dead", "quarantined", "expired", "cancelled"] {
            assert!(!hold(&["succeeded", state]), "{state}");
        }
    }
}
