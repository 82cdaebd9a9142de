//! Load checks on a fleet: the scheduler that carries one out is killed.

use std::process::Command;

use serde_json::Value;

use crate::harness::{Fleet, until};

/// A client command as an admin.
fn admin(fleet: &Fleet, key: &str, args: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_windlass"))
        .args(args)
        .args(["--output", "json"])
        .env_clear()
        .env("WINDLASS_URL", &fleet.url)
        .env("WINDLASS_API_KEY", key)
        .output()
        .expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "windlass {args:?}: {said}");
    serde_json::from_slice(&output.stdout).expect("JSON as asked")
}

/// Goal: what died with its scheduler has failed, whoever finds it, and the next check is sound. Method: the only scheduler
/// is killed while a check is under load; another one starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_died_with_its_scheduler_has_failed() {
    let mut fleet = Fleet::start().await;
    let key = fleet.make_key("admin");
    let start = |fleet: &Fleet, duration: &str| {
        let patient = ["--start-p99-max", "1m", "--end-p99-max", "1m"];
        let mut args = vec!["load-check", "run", "--rate", "1200", "--duration", duration];
        args.extend(patient);
        admin(fleet, &key, &args)["id"].as_str().expect("an id").to_owned()
    };
    let show = |fleet: &Fleet, id: &str| admin(fleet, &key, &["load-check", "show", id]);

    let id = start(&fleet, "5m");
    until("the check is under load", || async {
        let shadow = show(&fleet, &id)["shadow"].as_str()?.to_owned();
        let jobs = admin(&fleet, &key, &["job", "list", "--namespace", &shadow]);
        (jobs["items"].as_array()?.len() > 5).then_some(())
    })
    .await;
    fleet.kill_scheduler();
    let judged = until("the check has failed", || async {
        let check = show(&fleet, &id);
        (check["state"] == "failed").then_some(check)
    })
    .await;
    assert_eq!(judged["verdicts"][0]["name"], "interrupted", "{judged}");
    until("nothing is left", || async { (show(&fleet, &id)["is_clean"] == true).then_some(()) })
        .await;

    let id = start(&fleet, "3s");
    let ended = until("the next check has its verdict", || async {
        let check = show(&fleet, &id);
        check["ended_at"].is_string().then_some(check)
    })
    .await;
    assert_eq!(ended["accepted"], 60, "{ended}");
    for verdict in ended["verdicts"].as_array().expect("a list") {
        // Not how fast the machine is that many tests share.
        let is_speed =
            verdict["name"] == "rate_percent" || verdict["name"] == "memory_growth_percent";
        assert!(is_speed || verdict["holds"] == true, "{ended}");
    }
}
