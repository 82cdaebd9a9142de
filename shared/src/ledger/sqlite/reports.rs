//! What workers report: log lines, progress, beats.

use std::time::Duration;

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::fault::Fault;
use super::jobs::Columns;
use super::record::fence as number;
use super::statement::{Args, Bulk, execute, row, rows};
use super::writer::Tx;
use super::{JobProgress, LogLine, WorkerBeat, fit_text};
use crate::ledger::unreadable::readable;
use crate::limits::{LOG_LINE_BYTES_MAX, LOG_LINES_MAX};
use crate::model::id::{JobId, WorkerId};
use crate::model::name::Namespace;
use crate::model::time::Timestamp;

/// Most workers in one answer.
const WORKERS_MAX: i64 = 10_000;

/// Adds lines to a job's log as far as there is room; `false`: no such job.
pub(super) async fn append_logs(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    id: JobId,
    lines: &[LogLine],
) -> Result<bool, Fault> {
    static INSERT: Bulk = Bulk::new(
        "INSERT INTO job_logs (job_id, seq, at, attempt, namespace, level, message) VALUES",
        "(?, ?, ?, ?, ?, ?, ?)",
        "",
    );
    if !exists(tx.connection, namespace, id).await? {
        return Ok(false);
    }
    let sql = "INSERT INTO job_log_heads (job_id, namespace, lines) VALUES (?, ?, ?) \
               ON CONFLICT DO UPDATE SET lines = lines + excluded.lines RETURNING lines";
    let offered = i64::try_from(lines.len()).unwrap_or(i64::MAX);
    let args = key(id, namespace).with(offered);
    let head = row(tx.connection, sql, args).await?;
    let head = head.ok_or_else(|| Fault::unreadable("a log's head"))?;
    let before = Columns::of(&head).next::<i64>()? - offered;
    let room = i64::try_from(LOG_LINES_MAX).unwrap_or(i64::MAX).saturating_sub(before);
    let kept = usize::try_from(room).unwrap_or(0).min(lines.len());
    let numbered: Vec<(i64, &LogLine)> = (before + 1..).zip(&lines[..kept]).collect();
    INSERT
        .execute(tx.connection, &numbered, |args, (seq, line)| {
            args.add(id.as_bytes().as_slice())
                .add(*seq)
                .add(line.at.micros())
                .add(i64::from(line.attempt))
                .add(namespace.as_str())
                .add(fit_text(&line.level))
                .add(fit_text(cut(&line.message)));
        })
        .await?;
    Ok(true)
}

/// The text, cut between two characters where it is too long.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(LOG_LINE_BYTES_MAX)]
}

/// A job's log after a line; `None`: no such job.
pub(super) async fn logs(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    id: JobId,
    after: u64,
    limit: u32,
) -> Result<Option<Vec<LogLine>>, Fault> {
    if !exists(connection, namespace, id).await? {
        return Ok(None);
    }
    let sql = "SELECT seq, at, attempt, level, message FROM job_logs \
               WHERE job_id = ? AND seq > ? ORDER BY seq LIMIT ?";
    let args = Args::default()
        .with(id.as_bytes().as_slice())
        .with(i64::try_from(after).unwrap_or(i64::MAX))
        .with(i64::from(limit));
    let found = rows(connection, sql, args).await?;
    Ok(Some(readable("a log line", &found, line_of)))
}

fn line_of(row: &SqliteRow) -> Result<LogLine, Fault> {
    let mut c = Columns::of(row);
    Ok(LogLine {
        seq: c.count()?,
        at: c.time()?,
        attempt: c.count()?,
        level: c.next()?,
        message: c.next()?,
    })
}

async fn exists(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    id: JobId,
) -> Result<bool, Fault> {
    let sql = "SELECT 1 FROM jobs WHERE id = ? AND namespace = ?";
    Ok(row(connection, sql, key(id, namespace)).await?.is_some())
}

fn key(id: JobId, namespace: &Namespace) -> Args {
    Args::default().with(id.as_bytes().as_slice()).with(namespace.as_str())
}

/// Notes how far a job is, unless a later lease is on record or has reported.
pub(super) async fn set_progress(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    JobProgress { id, fence, progress }: &JobProgress,
) -> Result<(), Fault> {
    let sql = "INSERT INTO job_progress (job_id, namespace, fence, percent, message) \
               SELECT id, namespace, ?3, ?4, ?5 FROM jobs \
               WHERE id = ?1 AND namespace = ?2 AND fence <= ?3 \
               ON CONFLICT DO UPDATE SET fence = excluded.fence, percent = excluded.percent, \
               message = excluded.message WHERE job_progress.fence <= excluded.fence";
    let args = key(*id, namespace)
        .with(number(*fence))
        .with(progress.percent)
        .with(progress.message.as_deref().map(fit_text));
    execute(tx.connection, sql, args).await?;
    Ok(())
}

/// Notes that a worker lives; whether it is to drain.
pub(super) async fn beat(tx: &mut Tx<'_>, beat: &WorkerBeat) -> Result<bool, Fault> {
    let sql = "INSERT INTO workers (namespace, id, name, host, version, queues, kinds, concurrency, \
               running, draining, started_at, seen_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?) \
               ON CONFLICT DO UPDATE SET name = excluded.name, host = excluded.host, \
               version = excluded.version, queues = excluded.queues, kinds = excluded.kinds, \
               concurrency = excluded.concurrency, running = excluded.running, \
               started_at = excluded.started_at, seen_at = excluded.seen_at RETURNING draining";
    let words = |words: &[String]| serde_json::to_string(words).map_err(Fault::unreadable);
    let args = Args::default()
        .with(beat.namespace.as_str())
        .with(beat.id.as_bytes().as_slice())
        .with(beat.name.as_str())
        .with(beat.host.as_str())
        .with(beat.version.as_str())
        .with(words(&beat.queues)?)
        .with(words(&beat.kinds)?)
        .with(i64::from(beat.concurrency))
        .with(i64::from(beat.running))
        .with(beat.started_at.micros())
        .with(tx.now.micros());
    let found = row(tx.connection, sql, args).await?;
    let found = found.ok_or_else(|| Fault::unreadable("a worker that was just written"))?;
    Columns::of(&found).next()
}

/// `SELECT` of whole workers; what follows names them.
macro_rules! select_workers {
    ($tail:literal) => {
        concat!(
            "SELECT id, name, namespace, host, version, queues, kinds, concurrency, running, draining, ",
            "started_at, seen_at FROM workers ",
            $tail
        )
    };
}
pub(super) use select_workers;

/// Workers of a namespace seen after `since`, by name.
pub(super) async fn workers(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    now: Timestamp,
    within: Duration,
) -> Result<Vec<WorkerBeat>, Fault> {
    let sql = select_workers!("WHERE namespace = ? AND seen_at >= ? ORDER BY name, id LIMIT ?");
    let args =
        Args::default().with(namespace.as_str()).with(now.minus(within).micros()).with(WORKERS_MAX);
    let found = rows(connection, sql, args).await?;
    Ok(readable("a worker", &found, worker_of))
}

pub(super) fn worker_of(row: &SqliteRow) -> Result<WorkerBeat, Fault> {
    let mut c = Columns::of(row);
    Ok(WorkerBeat {
        id: WorkerId::from_bytes(c.id()?),
        name: c.next()?,
        namespace: c.parsed()?,
        host: c.next()?,
        version: c.next()?,
        queues: c.json()?,
        kinds: c.json()?,
        concurrency: c.count()?,
        running: c.count()?,
        draining: c.next()?,
        started_at: c.time()?,
        seen_at: c.time()?,
    })
}

/// Asks a worker to drain; `false`: no such worker.
pub(super) async fn drain(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    id: WorkerId,
) -> Result<bool, Fault> {
    let sql = "UPDATE workers SET draining = 1 WHERE namespace = ? AND id = ?";
    let args = Args::default().with(namespace.as_str()).with(id.as_bytes().as_slice());
    Ok(execute(tx.connection, sql, args).await? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = "é".repeat(LOG_LINE_BYTES_MAX);
        assert_eq!(cut(&long).len(), LOG_LINE_BYTES_MAX);
        let odd = format!("x{long}");
        assert_eq!(cut(&odd).len(), LOG_LINE_BYTES_MAX - 1);
    }
}
