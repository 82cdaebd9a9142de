//! Schedulers side by side: who leads, and that the lead passes on without a gap and without two at once.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use windlass_shared::model::time::Timestamp;

use crate::harness::{Fleet, Role, until};

/// Longest time that a duty may be overdue, in milliseconds.
const GAP_MAX_MS: i64 = 15_000;
/// How much later than its interval a tick may come without any trouble: it is spread by a tenth.
const SPREAD: f64 = 1.1;

/// A tick of a duty, as its process has logged it, in milliseconds. One that was under way when its process was killed
/// has ended with the process, as far as its log can tell.
#[derive(Debug, Clone, Copy)]
struct Tick {
    began: i64,
    ended: i64,
    epoch: Option<u64>,
}

fn ticks(logs: &[std::path::PathBuf]) -> BTreeMap<String, Vec<Tick>> {
    let mut ticks: BTreeMap<String, Vec<Tick>> = BTreeMap::new();
    for log in logs {
        let (mut open, mut last) = (BTreeMap::<String, Tick>::new(), 0);
        for line in std::fs::read_to_string(log).expect("its log").lines() {
            // The last line of a killed process may be cut.
            let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
            let of = |name: &str| line.get(name).or_else(|| line.get("fields")?.get(name));
            let at: Timestamp = of("timestamp").unwrap().as_str().unwrap().parse().unwrap();
            last = at.millis();
            let message = of("message").and_then(Value::as_str);
            let (Some("duty begins" | "duty ticked"), Some(duty)) = (message, of("duty")) else {
                continue;
            };
            let duty = duty.as_str().unwrap().to_owned();
            if message == Some("duty begins") {
                let epoch = of("epoch").and_then(Value::as_u64);
                open.insert(duty, Tick { began: last, ended: last, epoch });
            } else if let Some(tick) = open.remove(&duty) {
                ticks.entry(duty).or_default().push(Tick { ended: last, ..tick });
            }
        }
        for (duty, tick) in open {
            ticks.entry(duty).or_default().push(Tick { ended: last, ..tick });
        }
    }
    ticks.values_mut().for_each(|ticks| ticks.sort_by_key(|tick| tick.ended));
    ticks
}

struct Pair<'f> {
    fleet: &'f Fleet,
    folder: &'f Path,
    logs: Vec<std::path::PathBuf>,
    running: Vec<Role>,
}

impl Pair<'_> {
    fn start_one(&mut self) {
        let log = self.folder.join(format!("{}.log", self.logs.len()));
        let directives = "info,windlass_scheduler=debug";
        self.running.push(self.fleet.role_with_log("scheduler", directives, &log));
        self.logs.push(log);
    }

    /// Waits for a leader of a later turn; its epoch, and its place among those that run.
    async fn leader_after(&self, epoch: u64) -> (u64, usize) {
        until("a scheduler leads", || async {
            let leader = self.fleet.get("/v1/system/duties").await["leader"].clone();
            let (turn, name) = (leader["epoch"].as_u64()?, leader["name"].as_str()?.to_owned());
            let of = |role: &Role| name.ends_with(&format!("({})", role.pid()));
            let place = self.running.iter().position(of)?;
            (turn > epoch).then_some((turn, place))
        })
        .await
    }
}

/// Goal: with two schedulers and load, one stopped and started again after the other, and the leader killed at last, no
/// duty of the leader ticks in two turns at the same time, none is overdue by more than 15 s, every due time of a
/// schedule is fired once, and every job ends once. Method: the processes' own logs of their ticks.
#[tokio::test(flavor = "multi_thread")]
async fn the_lead_passes_on_without_gaps_and_without_doubles() {
    let mut fleet = Fleet::start().await;
    fleet.stop_scheduler();
    let folder = tempfile::tempdir().unwrap();
    let fleet = fleet;
    let mut pair =
        Pair { fleet: &fleet, folder: folder.path(), logs: Vec::new(), running: Vec::new() };
    let _worker = fleet.worker(8);
    let schedule =
        json!({"name": "tick", "every": "1s", "overlap": "allow", "job": {"kind": "noop"}});
    assert_eq!(fleet.post("/v1/schedules", schedule).await.0, 201);
    pair.start_one();
    pair.start_one();
    let stop = CancellationToken::new();
    let load = async {
        let mut ids = Vec::new();
        while !stop.is_cancelled() {
            ids.extend(fleet.submit(10, json!({ "kind": "noop" })).await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        ids
    };
    let roll = async {
        let (mut epoch, mut place) = pair.leader_after(0).await;
        let mut leads = 1;
        let duties_ticked = async |pair: &Pair<'_>| {
            let before = ticks(&pair.logs)["sweep"].len();
            until("the leader sweeps", || async {
                (ticks(&pair.logs)["sweep"].len() > before).then_some(())
            })
            .await;
        };
        for kill in [false, false, true] {
            until("a sweep", || async { ticks(&pair.logs).contains_key("sweep").then_some(()) })
                .await;
            duties_ticked(&pair).await;
            let mut role = pair.running.remove(place);
            if kill {
                role.kill_9();
            } else {
                // Other tasks go on meanwhile.
                let ended = tokio::task::spawn_blocking(move || role.terminate()).await;
                assert_eq!(ended.unwrap(), 0);
                pair.start_one();
            }
            (epoch, place) = pair.leader_after(epoch).await;
            leads += 1;
        }
        duties_ticked(&pair).await;
        stop.cancel();
        leads
    };
    let (ids, leads) = tokio::join!(load, roll);
    for job in fleet.all_in(&ids, "succeeded").await {
        assert_eq!(job["attempt"], 1, "{job}");
    }

    let all = ticks(&pair.logs);
    let answer = fleet.get("/v1/system/duties").await;
    let names: Vec<&str> =
        answer["items"].as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap()).collect();
    assert!(["gates", "leader", "recorder"].iter().all(|name| names.contains(name)), "{names:?}");
    let mut widest = (0, String::new());
    for duty in answer["items"].as_array().unwrap() {
        let name = duty["name"].as_str().unwrap();
        let ticks = all.get(name).unwrap_or_else(|| panic!("{name} has logged no tick"));
        // Of those whose time never came again nothing can be said.
        let interval: windlass_shared::model::time::Span =
            duty["interval"].as_str().unwrap().parse().unwrap();
        let most = (interval.0.as_secs_f64() * SPREAD * 1e3) as i64;
        for two in ticks.windows(2) {
            let overdue = two[1].began - two[0].ended - most;
            if overdue > widest.0 {
                widest = (overdue, name.to_owned());
            }
            assert!(overdue <= GAP_MAX_MS, "{name} was overdue by {overdue} ms: {two:?}");
        }
        if duty["who"] != "leader" {
            continue;
        }
        for (n, tick) in ticks.iter().enumerate() {
            assert!(tick.epoch.is_some(), "{name}: {tick:?}");
            for other in &ticks[n + 1..] {
                let apart = tick.ended <= other.began || other.ended <= tick.began;
                assert!(
                    apart || tick.epoch == other.epoch,
                    "{name} ticked in two turns at once: {tick:?} {other:?}"
                );
                assert!(tick.epoch <= other.epoch, "{name} of a past turn: {tick:?} {other:?}");
            }
        }
    }
    let sweeps: std::collections::BTreeSet<_> =
        all["sweep"].iter().map(|tick| tick.epoch).collect();
    assert_eq!((leads, sweeps.len()), (4, 4), "each leader has swept");

    let fires = fleet.get("/v1/schedules/tick/runs?limit=500").await;
    let due: Vec<i64> = fires["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fire| {
            assert_eq!(fire["outcome"], "fired", "{fire}");
            let due: Timestamp = fire["scheduled_at"].as_str().unwrap().parse().unwrap();
            due.millis()
        })
        .collect();
    assert!(due.windows(2).all(|two| two[0] - two[1] == 1_000), "each due time once: {due:?}");
    let total: usize = all.values().map(Vec::len).sum();
    println!(
        "{leads} leads, {} jobs, {} fires, {total} ticks of {} duties; most overdue: {} by {} ms",
        ids.len(),
        due.len(),
        all.len(),
        widest.1,
        widest.0
    );
    for id in ids.iter().step_by(50) {
        assert_eq!(fleet.attempts(id).await.len(), 1);
    }
}
