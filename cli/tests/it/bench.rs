//! The benchmark refuses what is not on this machine.

use crate::binary::windlass;

#[test]
fn it_loads_this_machine_only() {
    for args in [
        &["loadtest", "bench", "engine", "--engine-url", "redis://10.0.0.1:6379"][..],
        &["loadtest", "bench", "path", "--ledger-url", "postgres://db/w"],
        &["loadtest", "bench", "ledger", "--ledger-url", "postgres://db/w"],
        &["loadtest", "bench", "start", "--url", "http://example.org"],
    ] {
        let said = windlass(args, &[]);
        assert_eq!(said.code, 1, "{args:?}: {said:?}");
        assert!(said.err.contains("on loopback"), "{args:?}: {said:?}");
    }
}

#[test]
fn the_embedded_engine_can_be_measured() {
    let args = [
        "loadtest",
        "bench",
        "engine",
        "--engine-url",
        "embedded",
        "--jobs",
        "2000",
        "--runs",
        "1",
        "--output",
        "json",
    ];
    let said = windlass(&args, &[]);
    assert_eq!(said.code, 0, "{said:?}");
    let report: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(report["median"]["jobs"], 2000);
    assert!(report["median"]["jobs_per_second"].as_f64().expect("a number") > 0.0);
}

#[test]
fn a_ledger_can_be_measured() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
    for (part, batch) in [("insert", "1"), ("insert", "1000"), ("record", "100")] {
        let mut args = vec!["loadtest", "bench", "ledger", "--ledger-url", &url, "--part", part];
        args.extend(["--batch", batch, "--jobs", "2500", "--clients", "4", "--runs", "1"]);
        args.extend(["--output", "json"]);
        let said = windlass(&args, &[]);
        assert_eq!(said.code, 0, "{said:?}");
        let report: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
        assert_eq!(report["median"]["jobs"], 2500);
        let calls = 2500_u64.div_ceil(batch.parse().expect("a number"));
        assert_eq!(report["median"]["latency"]["count"], calls);
    }
}
