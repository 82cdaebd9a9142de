//! Leadership, and the gates of shards. Each write is one statement that names what it expects.

use std::time::Duration;

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::fault::Fault;
use super::jobs::Columns;
use super::run_calls::change;
use super::statement::{Args, execute, row};
use super::writer::Tx;
use super::{LedgerError, Result, read};
use crate::engine::{ProcessId, ShardId};
use crate::ledger::gate_calls::term_micros;
use crate::ledger::{Epoch, Leader, ShardRecord, TERM_MAX, fit_text};
use crate::model::id::{LedgerId, WorkerId};

#[expect(missing_docs, reason = "said once, at the enum that dispatches to them")]
impl super::Sqlite {
    pub fn id(&self) -> LedgerId {
        self.id
    }

    pub async fn lead(
        &self,
        holder: WorkerId,
        name: &str,
        term: Duration,
    ) -> Result<Option<Epoch>> {
        let name = fit_text(name).into_owned();
        change!(self, |tx| lead(tx, holder, &name, term))
    }

    pub async fn resign(&self, epoch: Epoch) -> Result<()> {
        change!(self, |tx| resign(tx, epoch))
    }

    pub async fn leader(&self) -> Result<Option<Leader>> {
        read!(self, leader)
    }

    pub async fn shard(&self, shard: &ShardId) -> Result<ShardRecord> {
        read!(self, record, shard)
    }

    pub async fn first_generation(&self, shard: &ShardId) -> Result<bool> {
        let shard = shard.clone();
        change!(self, |tx| first_generation(tx, &shard))
    }

    pub async fn next_generation(&self, shard: &ShardId, epoch: Epoch) -> Result<Option<u64>> {
        let shard = shard.clone();
        change!(self, |tx| next_generation(tx, &shard, epoch))
    }

    pub async fn note_opened(
        &self,
        shard: &ShardId,
        generation: u64,
        process: ProcessId,
    ) -> Result<bool> {
        let shard = shard.clone();
        change!(self, |tx| note_opened(tx, &shard, generation, process))
    }
}

/// What this ledger is. For a schema that was checked.
pub(super) async fn ledger_id(connection: &mut SqliteConnection) -> Result<LedgerId, Fault> {
    let found = row(connection, "SELECT ledger_id FROM meta", Args::default()).await?;
    let found = found.ok_or_else(|| Fault::unreadable("the ledger's id"))?;
    Ok(LedgerId::from_bytes(Columns::of(&found).id()?))
}

/// A number that the ledger counted; one that is too large (none is) becomes the largest.
fn counted(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

async fn lead(
    tx: &mut Tx<'_>,
    holder: WorkerId,
    name: &str,
    term: Duration,
) -> Result<Option<Epoch>, Fault> {
    let sql = "INSERT INTO leader (one, holder, name, epoch, expires_at) VALUES (1, ?1, ?2, 1, ?3 + ?4) \
               ON CONFLICT (one) DO UPDATE SET holder = excluded.holder, name = excluded.name, \
               epoch = epoch + (leader.expires_at <= ?3 OR leader.holder <> excluded.holder), \
               expires_at = excluded.expires_at \
               WHERE leader.holder = excluded.holder OR leader.expires_at <= ?3 \
               OR leader.expires_at > ?3 + ?5 RETURNING epoch";
    let args = Args::default()
        .with(holder.as_bytes().as_slice())
        .with(name)
        .with(tx.now.micros())
        .with(term_micros(term))
        .with(term_micros(TERM_MAX));
    let found = row(tx.connection, sql, args).await?;
    found.map(|row| Ok(Epoch(Columns::of(&row).count()?))).transpose()
}

/// Ends the term on record, whoever's it is: for a process that has just become the only one of its ledger.
pub(super) async fn nobody_leads(connection: &mut SqliteConnection) -> Result<(), Fault> {
    execute(connection, "UPDATE leader SET expires_at = 0", Args::default()).await?;
    Ok(())
}

async fn resign(tx: &mut Tx<'_>, epoch: Epoch) -> Result<(), Fault> {
    let sql = "UPDATE leader SET expires_at = ?2 WHERE epoch = ?1 AND expires_at > ?2";
    let args = Args::default().with(counted(epoch.0)).with(tx.now.micros());
    execute(tx.connection, sql, args).await?;
    Ok(())
}

async fn leader(connection: &mut SqliteConnection) -> Result<Option<Leader>, Fault> {
    let sql = "SELECT holder, name, epoch, expires_at FROM leader";
    let leader = |row: SqliteRow| {
        let mut c = Columns::of(&row);
        Ok(Leader {
            holder: WorkerId::from_bytes(c.id()?),
            name: c.next()?,
            epoch: Epoch(c.count()?),
            expires_at: c.time()?,
        })
    };
    row(connection, sql, Args::default()).await?.map(leader).transpose()
}

/// Whether that epoch leads, for the rest of the transaction; without one, anybody may.
pub(super) async fn leads(tx: &mut Tx<'_>, lead: Option<Epoch>) -> Result<bool, Fault> {
    let Some(epoch) = lead else { return Ok(true) };
    let sql = "SELECT 1 FROM leader WHERE epoch = ?1 AND expires_at > ?2";
    let args = Args::default().with(counted(epoch.0)).with(tx.now.micros());
    Ok(row(tx.connection, sql, args).await?.is_some())
}

/// The three parts of a shard's key.
fn key(shard: &ShardId) -> Args {
    Args::default()
        .with(shard.namespace.as_str())
        .with(shard.queue.as_str())
        .with(i64::from(shard.index))
}

pub(super) async fn record(
    connection: &mut SqliteConnection,
    shard: &ShardId,
) -> Result<ShardRecord, Fault> {
    let sql = "SELECT generation, process, changed_at FROM shards \
               WHERE namespace = ? AND queue = ? AND shard = ?";
    let Some(found) = row(connection, sql, key(shard)).await? else {
        return Ok(ShardRecord::NEVER_OPENED);
    };
    let mut c = Columns::of(&found);
    let process =
        |text| ProcessId::parse(text).ok_or_else(|| Fault::unreadable("a shard's process"));
    Ok(ShardRecord {
        generation: c.count()?,
        process: c.next::<Option<&str>>()?.map(process).transpose()?,
        changed_at: c.time()?,
    })
}

async fn first_generation(tx: &mut Tx<'_>, shard: &ShardId) -> Result<bool, Fault> {
    let sql = "INSERT INTO shards (namespace, queue, shard, generation, changed_at) \
               VALUES (?, ?, ?, 1, ?) ON CONFLICT DO NOTHING";
    Ok(execute(tx.connection, sql, key(shard).with(tx.now.micros())).await? > 0)
}

async fn next_generation(
    tx: &mut Tx<'_>,
    shard: &ShardId,
    epoch: Epoch,
) -> Result<Option<u64>, Fault> {
    let sql = "INSERT INTO shards (namespace, queue, shard, generation, changed_at) \
               SELECT ?1, ?2, ?3, 1, ?4 \
               WHERE EXISTS (SELECT 1 FROM leader WHERE epoch = ?5 AND expires_at > ?4) \
               ON CONFLICT DO UPDATE SET generation = generation + 1, process = NULL, \
               changed_at = excluded.changed_at RETURNING generation";
    let args = key(shard).with(tx.now.micros()).with(counted(epoch.0));
    let found = row(tx.connection, sql, args).await?;
    found.map(|row| Columns::of(&row).count()).transpose()
}

async fn note_opened(
    tx: &mut Tx<'_>,
    shard: &ShardId,
    generation: u64,
    process: ProcessId,
) -> Result<bool, Fault> {
    let sql = "UPDATE shards SET process = ?5, changed_at = ?6 \
               WHERE namespace = ?1 AND queue = ?2 AND shard = ?3 AND generation = ?4";
    let args = key(shard).with(counted(generation)).with(process.as_str()).with(tx.now.micros());
    Ok(execute(tx.connection, sql, args).await? > 0)
}
