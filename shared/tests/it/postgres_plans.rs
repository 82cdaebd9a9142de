//! How PostgreSQL carries out the walks over what should be in the engine.

use windlass_shared::engine::flow::Group;
use windlass_shared::ledger::{Groups, Ledger, Unfinished};
use windlass_shared::model::job::NewJob;
use windlass_shared::model::time::Timestamp;
use windlass_shared::testkit::postgres_server::PostgresServer;

use crate::sqlite_scene::{accept, new_jobs};

/// A page that may pass over jobs looks at so many, at most.
const WINDOW: u32 = 5_000;
/// The server prepares a plan for all arguments after five calls of a statement.
const CALLS: usize = 7;

fn of_share(key: &str) -> NewJob {
    let mut job = new_jobs("default", 1).remove(0);
    job.spec.fairness_key = Some(key.into());
    job
}

fn group(key: &str) -> Group {
    let job = of_share(key);
    Group::of(job.spec.flow(&job.kind).as_ref())
}

/// Pages of each sort of walk, often enough for the plan that stays.
async fn walk(ledger: &Ledger) {
    let (namespace, queue) = ("default".parse().unwrap(), "q".parse().unwrap());
    let (large, small) = (group("large"), group("small"));
    let far = Timestamp::from_millis(4_000_000_000_000);
    for groups in [
        Groups::AllBut(&[]),
        Groups::AllBut(&[large]),
        Groups::Only(Group::UNKEYED),
        Groups::Only(small),
        Groups::Only(group("nobody")),
    ] {
        for _ in 0..CALLS {
            let wanted = Unfinished::new(&namespace, &queue, (far, far), 100);
            let wanted = Unfinished { groups, window: WINDOW, ..wanted };
            ledger.unfinished(wanted).await.unwrap();
        }
    }
}

/// Goal: whatever the server knows about the table, a page reads a bounded number of rows, in the order of its index.
#[tokio::test]
async fn walks_read_a_bounded_number_of_rows() {
    let server = PostgresServer::start_with(&[
        "session_preload_libraries=auto_explain",
        "auto_explain.log_min_duration=0",
        "auto_explain.log_analyze=on",
        "auto_explain.log_timing=off",
        "autovacuum=off",
        "lc_messages=C",
    ]);
    let database = server.database().await;
    let ledger = Ledger::open(&windlass_shared::config::LedgerSettings::new(server.url(&database)))
        .await
        .unwrap();
    let mut jobs = new_jobs("default", 1);
    jobs.extend([of_share("large"), of_share("small")]);
    accept(&ledger, jobs).await;
    accept(&ledger, new_jobs("another", 1)).await;
    // 30,000 of the one share before all others, and as many of another namespace between them.
    let copies = |of: &str, count: u32| {
        format!(
            "INSERT INTO jobs SELECT (jsonb_populate_record(j, jsonb_build_object('id', \
             substr(j.id::text, 1, 24) || substr(md5(n::text || j.id::text), 1, 12)))).* \
             FROM jobs j, generate_series(1, {count}) n WHERE {of};"
        )
    };
    let largest = format!("flow_group = {}", group("large").number());
    let smallest = format!("flow_group = {}", group("small").number());
    server.sql(
        &database,
        &[
            copies(&largest, 30_000),
            copies(&smallest, 1_000),
            copies("flow_group IS NULL AND namespace = 'default'", 1_000),
            copies("namespace = 'another'", 30_000),
        ]
        .concat(),
    );
    for known in ["", "ANALYZE jobs;"] {
        server.sql(&database, &format!("{known} SELECT 1;"));
        let before = server.log().len();
        walk(&ledger).await;
        let said = server.log().split_off(before);
        let about: Vec<&str> = said
            .split("duration:")
            .filter(|part| part.contains("plan:") && part.contains("AND changed_at <"))
            .collect();
        assert!(about.len() >= 5 * CALLS, "{} plans were logged:\n{said}", about.len());
        for plan in about {
            let passed_over = plan.lines().filter_map(|line| {
                line.trim().strip_prefix("Rows Removed by Filter: ")?.parse::<u32>().ok()
            });
            let most = passed_over.max().unwrap_or(0);
            let is_good = most <= WINDOW && plan.contains("_namespace_queue_");
            let is_sorted = !plan.contains("Sort Method") && !plan.contains("Seq Scan on jobs");
            assert!(is_good && is_sorted, "{known}: {plan}");
        }
    }
    ledger.close().await;
}
