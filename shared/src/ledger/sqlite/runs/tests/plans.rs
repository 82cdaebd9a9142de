//! How statements find their rows.

use sqlx::Row;

use super::*;

/// Goal: the statements that run often find their rows by an index.
#[tokio::test]
async fn no_statement_of_runs_scans_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = ledger(&folder).await;
    let by_step = "USING PRIMARY KEY (workflow_id=? AND ord=?)";
    for (sql, index) in [
        (
            "SELECT json_group_array(json_array(s.ord, json(p.dependents))) FROM workflow_steps s \
             JOIN workflow_plans p ON p.workflow_id = s.workflow_id AND p.ord = s.ord \
             WHERE s.state = 1 AND (s.workflow_id, s.ord) IN (VALUES (x'00', 1), (x'01', 2))",
            format!("SEARCH s {by_step}"),
        ),
        (
            "WITH v (workflow_id, ord, n) AS (VALUES (x'00', 1, 2), (x'01', 3, 4)) \
             UPDATE workflow_steps AS s SET needs_left = v.n FROM v \
             WHERE s.workflow_id = v.workflow_id AND s.ord = v.ord AND s.state = 0",
            format!("SEARCH s {by_step}"),
        ),
        (
            "WITH v (id, now) AS (VALUES (x'00', 2), (x'01', 3)) UPDATE jobs SET state = 2 \
             FROM v WHERE jobs.id = v.id AND jobs.state = 0",
            "SEARCH jobs USING INDEX sqlite_autoindex_jobs_1 (id=?)".into(),
        ),
        (
            "SELECT s.ord FROM workflow_steps s WHERE s.workflow_id = x'00' AND s.ord IN (\
             SELECT ord FROM workflow_steps WHERE workflow_id = x'00' AND due > 0 \
             UNION SELECT ord FROM workflow_steps WHERE wake_at <= 5 AND +workflow_id = x'00')",
            "SEARCH workflow_steps USING COVERING INDEX workflow_steps_wake (wake_at<?)".into(),
        ),
        (
            "UPDATE jobs SET state = 12 WHERE state = 0 AND id IN (SELECT job_id FROM \
             workflow_steps WHERE workflow_id = x'00' AND state = 0 AND job_id IS NOT NULL)",
            "SEARCH jobs USING INDEX sqlite_autoindex_jobs_1 (id=?)".into(),
        ),
        (
            "SELECT count(*) FROM workflow_items i CROSS JOIN jobs j ON j.id = i.job_id \
             WHERE i.workflow_id = x'00' AND i.ord = 1 AND j.state < 10",
            format!("SEARCH i {by_step}"),
        ),
        (
            "DELETE FROM workflow_items WHERE (workflow_id, ord, item) IN (VALUES (x'00', 1, 2))",
            "SEARCH workflow_items USING PRIMARY KEY (workflow_id=? AND ord=? AND item=?)".into(),
        ),
        (
            "SELECT id FROM workflows WHERE parent_id = x'00' AND parent_ord = 1 AND parent_item \
             IS 2 AND (state < 10 OR created_at >= 3)",
            "SEARCH workflows USING INDEX workflows_parent (parent_id=? AND parent_ord=?)".into(),
        ),
        (
            "SELECT DISTINCT s.workflow_id FROM workflow_steps s CROSS JOIN workflows w \
             ON w.id = s.workflow_id WHERE s.due > 0 AND s.workflow_id > x'00' AND w.state < 10 \
             ORDER BY s.workflow_id LIMIT 10",
            "SEARCH s USING INDEX workflow_steps_due (workflow_id>?)".into(),
        ),
        (
            "SELECT id FROM workflows WHERE deadline <= 5 AND state < 10 AND state = 0 \
             AND ending IS NULL",
            "SEARCH workflows USING INDEX workflows_deadline (deadline<?)".into(),
        ),
        (
            "SELECT id FROM jobs WHERE workflow_id = x'00' AND id > x'00' AND state > 0 \
             AND state < 10 ORDER BY id LIMIT 10",
            "SEARCH jobs USING INDEX jobs_by_workflow (workflow_id=? AND id>?)".into(),
        ),
        (
            "SELECT w.id FROM workflows w WHERE w.namespace = 'a' AND w.id < x'ff' AND w.state \
             IN (0, 1) ORDER BY w.id DESC LIMIT 10",
            "SEARCH w USING INDEX workflows_by_namespace (namespace=? AND id<?)".into(),
        ),
        (
            "SELECT id FROM workflows WHERE output_blob = x'00'",
            "SEARCH workflows USING INDEX workflows_output_blob (output_blob=?)".into(),
        ),
        (
            "SELECT id, steps FROM workflows w WHERE state >= 10 AND finished_at < 5 AND NOT \
             EXISTS (SELECT 1 FROM workflows p WHERE p.id = w.parent_id AND p.state < 10) \
             ORDER BY finished_at LIMIT 10",
            "SEARCH w USING INDEX workflows_finished (finished_at<?)".into(),
        ),
    ] {
        let mut reader = ledger.reader().await.unwrap();
        let explain = format!("EXPLAIN QUERY PLAN {sql}");
        let plan = composed(&mut reader, explain, Args::default()).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|step| step.get("detail")).collect();
        assert!(plan.contains(&index), "{sql}\n{plan:#?}");
        let scans = |step: &&String| step.starts_with("SCAN w") || step.starts_with("SCAN jobs");
        assert_eq!(plan.iter().find(scans), None, "{sql}\n{plan:#?}");
    }
    ledger.close().await;
}
