//! Every role's admin listener: probes and metrics, there and nowhere else.

use serde_json::Value;
use windlass_shared::testkit::redis_server::process::free_port;

use crate::harness::{Fleet, until};

#[tokio::test(flavor = "multi_thread")]
async fn every_role_answers_probes_and_metrics_on_its_admin_listener() {
    let fleet = Fleet::start().await;
    let http = reqwest::Client::new();
    for role in ["api", "worker", "scheduler"] {
        let (public, admin) = (free_port(), free_port());
        let (public, admin) = (format!("127.0.0.1:{public}"), format!("127.0.0.1:{admin}"));
        let mut args = vec!["--admin-listen", admin.as_str()];
        if role == "api" {
            args.extend(["--listen", public.as_str()]);
        }
        let process = fleet.role(role, &args);
        let ask = async |address: &str, path: &str| {
            http.get(format!("http://{address}{path}")).send().await.ok()
        };
        until(&format!("the {role} is ready"), || async {
            ask(&admin, "/readiness").await?.status().is_success().then_some(())
        })
        .await;
        for path in ["/liveness", "/startup", "/health", "/metrics"] {
            let answer = ask(&admin, path).await.expect("it listens");
            assert_eq!(answer.status().as_u16(), 200, "{role} {path}");
            let text = answer.text().await.expect("text");
            match path {
                "/metrics" => assert!(text.contains("# TYPE"), "{role}: {text}"),
                "/health" => {
                    let health: Value = serde_json::from_str(&text).expect("JSON");
                    assert_eq!(health["status"], "ok", "{role}: {health}");
                    let components = health["components"].as_array().expect("a list");
                    let engine = components.iter().find(|one| one["name"] == "engine");
                    assert_eq!(engine.expect("it is listed")["status"], "ok", "{role}: {health}");
                }
                _ => {}
            }
        }
        // No other page is there.
        let jobs = ask(&admin, "/v1/jobs").await.expect("it listens");
        assert_eq!(jobs.status().as_u16(), 404, "{role}");
        if role == "api" {
            let metrics = ask(&public, "/metrics").await.expect("it listens");
            assert_eq!(metrics.status().as_u16(), 404, "metrics are on the admin listener alone");
            let probe = ask(&public, "/readiness").await.expect("it listens");
            assert_eq!(probe.status().as_u16(), 200);
        }
        assert_eq!(process.terminate(), 0, "{role}");
    }
}
