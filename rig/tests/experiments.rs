//! The short forms of the fault experiments, each with a fleet of its own. One after the other (`.config/nextest.toml`).
//! They need the `windlass` binary beside this crate's: `cargo build -p windlass` makes it, and so does a test of the
//! whole workspace.

use std::path::{Path, PathBuf};

use windlass_rig::dev;
use windlass_rig::experiments::{self, Experiment, Form};
use windlass_rig::runner::{self, Settings};
use windlass_rig::target::Target;

/// Whether the machine's owner says that it can make no disks, as for the tests of power cuts. Else it must.
fn is_without_disks() -> bool {
    std::env::var("WINDLASS_RIG_NO_POWER_CUT").is_ok_and(|value| value == "1")
}

/// Runs the short form on a fleet and demands that every promise and every figure holds.
async fn holds(id: &str) {
    holds_among(&experiments::all(), id).await;
}

/// The same on a `dev`.
async fn holds_on_dev(id: &str) {
    holds_among(&dev::experiments::all(), id).await;
}

async fn holds_among<T: Target>(among: &[&'static dyn Experiment<T>], id: &str) {
    // Chosen once for the process; a second call finds it chosen.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let rig = PathBuf::from(env!("CARGO_BIN_EXE_windlass-rig"));
    let windlass = rig.with_file_name("windlass");
    assert!(windlass.is_file(), "{} is not there: cargo build -p windlass", windlass.display());
    let experiment = experiments::find(among, id).expect("it is in the list");
    // In memory where there is such a folder: the disk is shared, and a cut takes as much of a disk in memory.
    let memory = Path::new("/dev/shm");
    let within = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let settings =
        Settings { windlass, rig, form: Form::Short, seed: 1, keep: false, progress: true, within };
    let report = runner::run(experiment, &settings).await.expect("the rig works");
    println!("{}", report.row());
    assert!(report.passed, "\n{}", report.faults());
}

#[tokio::test(flavor = "multi_thread")]
async fn e1_a_killed_worker() {
    holds("E1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e2_all_workers_killed() {
    holds("E2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e3_api_processes_killed_while_they_commit() {
    holds("E3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e4_redis_killed() {
    holds("E4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e5_redis_wiped() {
    holds("E5").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e6_redis_wiped_and_workers_killed() {
    holds("E6").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e7_redis_loses_a_part() {
    holds("E7").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e8_a_stopped_worker() {
    holds("E8").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e9_handlers_that_block_the_executor() {
    holds("E9").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e10_a_replica_that_was_cut_off_is_promoted() {
    holds("E10").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e11_sentinels_replace_the_primary() {
    holds("E11").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e12_a_cluster_loses_a_primary_and_moves_slots() {
    holds("E12").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e13_redis_full_of_foreign_keys() {
    holds("E13").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e14_redis_far_away() {
    holds("E14").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e15_a_worker_cut_off_without_a_word() {
    holds("E15").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e16_lost_replies() {
    holds("E16").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e17_postgresql_restarted() {
    holds("E17").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e18_postgresql_stands_still() {
    holds("E18").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e19_the_ledgers_disk_is_full() {
    if !is_without_disks() {
        holds("E19").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e20_clocks_of_api_hosts() {
    holds("E20").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e21_clocks_of_workers() {
    holds("E21").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e22_the_clock_of_redis() {
    holds("E22").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e23_the_leader_hurt_before_every_edge() {
    holds("E23").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e24_poison_jobs() {
    holds("E24").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e25_shared_keys() {
    holds("E25").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e26_overload() {
    holds("E26").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e27_a_dependency_that_is_down() {
    holds("E27").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e30_commands_that_try_to_escape() {
    holds("E30").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e31_limits_while_redis_is_wiped() {
    holds("E31").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e32_a_tenant_with_very_many_jobs_and_one_with_long_ones() {
    holds("E32").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pc_power_cuts_of_redis_and_the_ledger() {
    if !is_without_disks() {
        holds("PC").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_e2_a_killed_dev() {
    holds_on_dev("E2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_e8_a_stopped_dev() {
    holds_on_dev("E8").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_e18_the_ledger_of_dev_is_locked() {
    holds_on_dev("E18").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_e19_the_disk_of_dev_is_full() {
    if !is_without_disks() {
        holds_on_dev("E19").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_e22_the_clock_of_dev() {
    holds_on_dev("E22").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_e25_shared_keys_on_dev() {
    holds_on_dev("E25").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_e30_commands_of_dev_that_try_to_escape() {
    holds_on_dev("E30").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_pc_power_cuts_of_dev() {
    if !is_without_disks() {
        holds_on_dev("PC").await;
    }
}

/// A load of a profile, while a worker dies, Redis stands still, and a worker is cut off.
#[test]
fn a_profile_hurts_its_fleet_and_finds_every_job() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name);
    let profile = r#"
        about = "hurt"
        jobs = { sleep = "500ms" }
        stages = [{ name = "hurt", rate = 30, for = "20s" }]
        faults = [
            { at = "3s", what = "kill-worker" },
            { at = "6s", what = "stall-redis", for = "2s" },
            { at = "10s", what = "cut-link", for = "6s" },
        ]
        [thresholds]
        lost = { max = 0 }
        wrong = { max = 0 }
        early = { max = 0 }
        ghosts = { max = 0 }
        errors_percent = { max = 0 }
        accepted = { min = 600 }
        # Those that ran on the worker that was killed.
        repeated = { min = 1 }
    "#;
    std::fs::write(file("hurt.toml"), profile).expect("a file");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_windlass-rig"))
        .arg("load")
        .arg(file("hurt.toml"))
        .arg("--json-file")
        .arg(file("result.json"))
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stdout));
    for fault in ["KillWorker begins", "StallRedis ends", "CutLink ends"] {
        assert!(said.contains(fault), "{said}");
    }
    let text = std::fs::read_to_string(file("result.json")).expect("a result");
    let result: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(result["figures"]["accepted"], 600.0, "{}", result["figures"]);
}
