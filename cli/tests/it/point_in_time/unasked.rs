//! A server that does not say what `adopt` must know.

use super::scene::{Scene, said};

/// Goal: where the timeline cannot be asked for, it is not told which ledgers were adopted: the server stays as it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_recovered_server_that_does_not_tell_its_timeline_is_not_opened() {
    let mut scene = Scene::new(false).await;
    let id = scene.base();
    assert_eq!(scene.restore(&id, "new", &["--to-latest"]).code, 0);
    scene.replace("new");
    let rename = |from: &str, to: &str| {
        let rename = format!("ALTER FUNCTION pg_catalog.{from}(pg_lsn) RENAME TO {to}");
        let sql = format!("BEGIN READ WRITE; {rename}; COMMIT");
        scene.server.sql(&scene.database, &sql);
    };
    let adopt = ["adopt", "--ledger", &scene.url()];
    rename("pg_walfile_name", "hidden");
    said(&scene.run(&adopt), 1, "pg_walfile_name");
    let is_set =
        "SELECT count(*) FROM pg_file_settings WHERE name = 'default_transaction_read_only'";
    assert_eq!(scene.server.sql("postgres", is_set), "1");
    rename("hidden", "pg_walfile_name");
    let adopted = scene.json(&adopt);
    assert!(adopted["was"].is_string() && adopted["timeline"] == 2, "{adopted}");
    assert_eq!(scene.server.sql("postgres", is_set), "0");
}
