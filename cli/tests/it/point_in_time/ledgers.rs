//! A server that holds more than one ledger.

use serde_json::json;

use super::scene::{Scene, said};

/// Goal: nobody writes to a ledger under its old id because another one on its server was adopted; and what a role may do is
/// not taken for what the server allows.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_opened_with_the_last_of_its_ledgers() {
    let mut scene = Scene::new(false).await;
    let second = scene.server.database().await;
    // An older build's, in a schema of its own; and what a drill has left, which is nobody's.
    let third = scene.server.database().await;
    for sql in [
        "ALTER TABLE meta DROP COLUMN adopted_timeline",
        "CREATE SCHEMA elsewhere",
        "ALTER TABLE meta SET SCHEMA elsewhere",
    ] {
        scene.server.sql(&third, sql);
    }
    scene.server.sql("postgres", &format!("CREATE DATABASE windlass_drill_1 TEMPLATE {third}"));
    scene.server.sql("postgres", "ALTER ROLE windlass SET default_transaction_read_only = off");
    let id = scene.base();
    scene.archive();
    assert_eq!(scene.restore(&id, "new", &["--to-latest"]).code, 0);
    scene.replace("new");
    let is_set =
        "SELECT count(*) FROM pg_file_settings WHERE name = 'default_transaction_read_only'";
    let first = scene.json(&["adopt", "--ledger", &scene.url()]);
    assert_eq!(first["waits_for"], json!([second, third]), "{first}");
    assert_eq!(scene.server.sql("postgres", is_set), "1");
    // Repeated, it only looks again.
    let again = scene.json(&["adopt", "--ledger", &scene.url()]);
    assert_eq!((&again["was"], &again["ledger"]), (&json!(null), &first["ledger"]));

    let other = scene.server.url(&second);
    let adopted = scene.json(&["adopt", "--ledger", &other]);
    assert!(adopted["was"].is_string() && adopted["waits_for"] == json!([third]), "{adopted}");
    assert_eq!(scene.server.sql("postgres", is_set), "1");
    // Nobody needs it.
    scene.server.sql("postgres", &format!("DROP DATABASE {third}"));
    let opened = scene.json(&["adopt", "--ledger", &other]);
    assert!(opened["was"].is_null() && opened["waits_for"].is_null(), "{opened}");
    assert_eq!(scene.server.sql("postgres", is_set), "0");
    let new = adopted["ledger"].as_str().expect("an id");
    said(&scene.run(&["adopt", "--ledger", &other]), 1, &format!("it is {new} now"));
}
