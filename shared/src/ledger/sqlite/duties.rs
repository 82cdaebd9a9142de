//! What the scheduler does by itself.

use std::time::Duration;

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::fault::Fault;
use super::jobs::Columns;
use super::run_calls::change;
use super::statement::{Args, execute, rows};
use super::writer::Tx;
use super::{LedgerError, Result, Sqlite, read};
use crate::ledger::duties::{
    Declared, DutyNote, DutyRow, Ended, GONE_AFTER, KEPT_FOR, ROWS_MAX, Who, cut, micros,
};
use crate::ledger::unreadable::readable;
use crate::ledger::{Epoch, fit_text};
use crate::model::id::WorkerId;
use crate::model::time::Timestamp;

#[expect(missing_docs, reason = "said once, at the enum that dispatches to them")]
impl Sqlite {
    pub async fn note_duties(
        &self,
        replica: WorkerId,
        name: &str,
        notes: &[DutyNote],
    ) -> Result<Vec<WorkerId>> {
        let (name, notes) = (fit_text(name).into_owned(), notes.to_vec());
        change!(self, notes.len(), |tx| note(tx, replica, &name, &notes))
    }

    pub async fn duties(&self) -> Result<(Vec<DutyRow>, Timestamp)> {
        let rows: Result<Vec<DutyRow>> = read!(self, duties);
        Ok((rows?, self.clock.now()))
    }
}

async fn note(
    tx: &mut Tx<'_>,
    replica: WorkerId,
    name: &str,
    notes: &[DutyNote],
) -> Result<Vec<WorkerId>, Fault> {
    let now = tx.now.micros();
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let sql = "DELETE FROM duties WHERE seen_at < ? AND replica <> ?";
    let args = Args::default().with(now - micros(KEPT_FOR)).with(replica.as_bytes().as_slice());
    execute(tx.connection, sql, args).await?;
    for note in notes {
        let sql = "INSERT OR REPLACE INTO duties (replica, duty, seen_at, started_at, ended_at, epoch, \
                   interval_us, longest_us, took_us, done, ticks, failures, batch, name, what, who, outcome, error) \
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let args = Args::default()
            .with(replica.as_bytes().as_slice())
            .with(note.declared.duty.as_str())
            .with(now)
            .with(note.started.map(|age| now - micros(age)))
            .with(note.ended.map(|age| now - micros(age)))
            .with(note.epoch.map(|epoch| number(epoch.0)))
            .with(micros(note.declared.interval))
            .with(micros(note.declared.longest))
            .with(micros(note.took))
            .with(number(note.done))
            .with(number(note.ticks))
            .with(number(note.failures))
            .with(i64::from(note.declared.batch))
            .with(name)
            .with(note.declared.what.as_str())
            .with(note.declared.who.as_str())
            .with(note.outcome.as_str())
            .with(note.error.as_deref().map(cut));
        execute(tx.connection, sql, args).await?;
    }
    let sql = "SELECT DISTINCT replica FROM duties WHERE seen_at > ? AND replica <> ?";
    let args = Args::default().with(now - micros(GONE_AFTER)).with(replica.as_bytes().as_slice());
    let others = rows(tx.connection, sql, args).await?;
    // One that has nothing to tell yet has no row, and lives.
    let others = others.iter().map(|row| Ok(WorkerId::from_bytes(Columns::of(row).id()?)));
    std::iter::once(Ok(replica)).chain(others).collect()
}

async fn duties(connection: &mut SqliteConnection) -> Result<Vec<DutyRow>, Fault> {
    let sql = "SELECT replica, duty, seen_at, started_at, ended_at, epoch, interval_us, longest_us, took_us, \
               done, ticks, failures, batch, name, what, who, outcome, error \
               FROM duties ORDER BY duty, name, replica LIMIT ?";
    let found = rows(connection, sql, Args::default().with(ROWS_MAX)).await?;
    Ok(readable("a duty", &found, row_of))
}

fn row_of(row: &SqliteRow) -> Result<DutyRow, Fault> {
    let mut c = Columns::of(row);
    let (replica, duty) = (WorkerId::from_bytes(c.id()?), c.next()?);
    let seen_at = c.time()?;
    let times: [Option<i64>; 3] = [c.next()?, c.next()?, c.next()?];
    let [interval, longest, took, done, ticks, failures]: [u64; 6] =
        [c.count()?, c.count()?, c.count()?, c.count()?, c.count()?, c.count()?];
    let (batch, name, what) = (c.count()?, c.next()?, c.next()?);
    let (who, outcome): (&str, &str) = (c.next()?, c.next()?);
    let declared = Declared {
        duty,
        what,
        interval: Duration::from_micros(interval),
        batch,
        longest: Duration::from_micros(longest),
        who: Who::parse(who).ok_or_else(|| Fault::unreadable("who does a duty"))?,
    };
    Ok(DutyRow {
        replica,
        name,
        declared,
        started_at: times[0].map(Timestamp::from_micros),
        ended_at: times[1].map(Timestamp::from_micros),
        outcome: Ended::parse(outcome).ok_or_else(|| Fault::unreadable("a duty's outcome"))?,
        took: Duration::from_micros(took),
        done,
        ticks,
        failures,
        error: c.next()?,
        epoch: times[2].map(|n| Epoch(n.unsigned_abs())),
        seen_at,
    })
}
