//! Leadership, and the gates of shards. Each write is one statement that names what it expects.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool};

use super::Result;
use super::error::{BadColumn, after_write, unchanged};
use super::row::{get, int8, time, unsigned};
use crate::engine::{ProcessId, ShardId};
use crate::ledger::gate_calls::term_micros;
use crate::ledger::{Epoch, Leader, ShardRecord, TERM_MAX, fit_text};
use crate::model::id::{LedgerId, WorkerId};

/// Ledger time, anew wherever it stands: a statement that has waited for a row does not go by the time before.
macro_rules! now {
    () => {
        "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    };
}

/// A condition of a statement: the epoch that is bound as this parameter leads; where NULL is bound, anybody may.
///
/// The leader's row stays locked until the commit, so that nobody takes the lead in between: what is written has been
/// written before the next epoch begins. The statement should be short; renewing the term waits for it.
macro_rules! leads {
    ($epoch:literal) => {
        concat!(
            "(",
            $epoch,
            "::bigint IS NULL OR EXISTS (SELECT 1 FROM leader WHERE epoch = ",
            $epoch,
            "::bigint AND expires_at > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint FOR SHARE))"
        )
    };
}
pub(super) use leads;

/// An epoch as it is bound for [`leads`].
pub(super) fn bound(lead: Option<Epoch>) -> Option<i64> {
    lead.map(|epoch| int8(epoch.0))
}

/// Whether what names this epoch was refused for that: for a statement that came to nothing.
pub(super) async fn is_past(pool: &PgPool, lead: Option<Epoch>) -> Result<bool> {
    let sql = concat!("SELECT NOT ", leads!("$1"));
    sqlx::query_scalar(sql).bind(bound(lead)).fetch_one(pool).await.map_err(unchanged)
}

#[allow(missing_docs, reason = "documented once, at `Ledger`")]
impl super::Postgres {
    pub fn id(&self) -> LedgerId {
        self.inner.id
    }

    pub async fn lead(
        &self,
        holder: WorkerId,
        name: &str,
        term: Duration,
    ) -> Result<Option<Epoch>> {
        let name = fit_text(name).into_owned();
        self.detached(move |inner| async move { lead(&inner.pool, holder, &name, term).await })
            .await
    }

    pub async fn resign(&self, epoch: Epoch) -> Result<()> {
        self.detached(move |inner| async move { resign(&inner.pool, epoch).await }).await
    }

    pub async fn leader(&self) -> Result<Option<Leader>> {
        self.read(leader(&self.inner.pool)).await
    }

    pub async fn shard(&self, shard: &ShardId) -> Result<ShardRecord> {
        self.read(record(&self.inner.pool, shard)).await
    }

    pub async fn first_generation(&self, shard: &ShardId) -> Result<bool> {
        let shard = shard.clone();
        self.detached(move |inner| async move { first_generation(&inner.pool, &shard).await }).await
    }

    pub async fn next_generation(&self, shard: &ShardId, epoch: Epoch) -> Result<Option<u64>> {
        let shard = shard.clone();
        self.detached(move |inner| async move { next_generation(&inner.pool, &shard, epoch).await })
            .await
    }

    pub async fn note_opened(
        &self,
        shard: &ShardId,
        generation: u64,
        process: ProcessId,
    ) -> Result<bool> {
        let shard = shard.clone();
        self.detached(move |inner| async move {
            note_opened(&inner.pool, &shard, generation, process).await
        })
        .await
    }
}

/// What this ledger is. For a schema that was checked.
pub(super) async fn ledger_id(connection: &mut PgConnection) -> Result<LedgerId> {
    let id = sqlx::query_scalar("SELECT ledger_id FROM meta").fetch_one(connection).await;
    Ok(LedgerId::from_uuid(id.map_err(unchanged)?))
}

/// The time is looked at twice, so the epoch stays only where both looks agree that the caller's term runs.
async fn lead(
    pool: &PgPool,
    holder: WorkerId,
    name: &str,
    term: Duration,
) -> Result<Option<Epoch>> {
    let sql = concat!(
        "INSERT INTO leader AS l (holder, name, epoch, expires_at) VALUES ($1, $2, 1, ",
        now!(),
        " + $3) ON CONFLICT (one) DO UPDATE SET holder = EXCLUDED.holder, name = EXCLUDED.name, \
         epoch = l.epoch + CASE WHEN l.holder = EXCLUDED.holder AND l.expires_at > ",
        now!(),
        " THEN 0 ELSE 1 END, expires_at = ",
        now!(),
        " + $3 WHERE l.holder = EXCLUDED.holder OR l.expires_at <= ",
        now!(),
        " OR l.expires_at > ",
        now!(),
        " + $4 RETURNING epoch"
    );
    let query = sqlx::query(sql).bind(holder.uuid()).bind(name).bind(term_micros(term));
    let query = query.bind(term_micros(TERM_MAX));
    epoch_or_none(query.fetch_optional(pool).await.map_err(after_write)?.as_ref())
}

fn epoch_or_none(row: Option<&PgRow>) -> Result<Option<Epoch>> {
    row.map(|row| Ok(Epoch(unsigned(row, 0, "epoch")?))).transpose()
}

async fn resign(pool: &PgPool, epoch: Epoch) -> Result<()> {
    let sql = concat!(
        "UPDATE leader SET expires_at = ",
        now!(),
        " WHERE epoch = $1 AND expires_at > ",
        now!()
    );
    sqlx::query(sql).bind(int8(epoch.0)).execute(pool).await.map_err(after_write)?;
    Ok(())
}

async fn leader(pool: &PgPool) -> Result<Option<Leader>> {
    let sql = "SELECT epoch, holder, name, expires_at FROM leader";
    let row = sqlx::query(sql).fetch_optional(pool).await.map_err(unchanged)?;
    let leader = |row: &PgRow| {
        Ok(Leader {
            epoch: Epoch(unsigned(row, 0, "epoch")?),
            holder: WorkerId::from_uuid(get(row, 1)?),
            name: get(row, 2)?,
            expires_at: time(row, 3)?,
        })
    };
    row.as_ref().map(leader).transpose()
}

async fn record(pool: &PgPool, shard: &ShardId) -> Result<ShardRecord> {
    let sql = "SELECT generation, process, changed_at FROM shards \
               WHERE namespace = $1 AND queue = $2 AND shard = $3";
    let query = sqlx::query(sql)
        .bind(shard.namespace.as_str())
        .bind(shard.queue.as_str())
        .bind(i32::from(shard.index));
    let row = query.fetch_optional(pool).await.map_err(unchanged)?;
    let Some(row) = row else { return Ok(ShardRecord::NEVER_OPENED) };
    let process = |text| ProcessId::parse(text).ok_or(BadColumn { column: "process" });
    Ok(ShardRecord {
        generation: unsigned(&row, 0, "generation")?,
        process: get::<Option<&str>>(&row, 1)?.map(process).transpose()?,
        changed_at: time(&row, 2)?,
    })
}

async fn first_generation(pool: &PgPool, shard: &ShardId) -> Result<bool> {
    let sql = concat!(
        "INSERT INTO shards (namespace, queue, shard, generation, changed_at) VALUES ($1, $2, $3, 1, ",
        now!(),
        ") ON CONFLICT DO NOTHING"
    );
    let query = sqlx::query(sql)
        .bind(shard.namespace.as_str())
        .bind(shard.queue.as_str())
        .bind(i32::from(shard.index));
    Ok(query.execute(pool).await.map_err(after_write)?.rows_affected() > 0)
}

/// The guard stands twice. While the statement waits for the shard's row the term may run out and somebody else may
/// lead; the statement still sees the old leader's row then, and tells by the time that the term is over.
async fn next_generation(pool: &PgPool, shard: &ShardId, epoch: Epoch) -> Result<Option<u64>> {
    let sql = concat!(
        "INSERT INTO shards AS s (namespace, queue, shard, generation, changed_at) \
         SELECT $1, $2, $3::integer, 1, ",
        now!(),
        " WHERE EXISTS (SELECT 1 FROM leader WHERE epoch = $4 AND expires_at > ",
        now!(),
        ") ON CONFLICT (namespace, queue, shard) DO UPDATE SET generation = s.generation + 1, \
         process = NULL, changed_at = ",
        now!(),
        " WHERE EXISTS (SELECT 1 FROM leader WHERE epoch = $4 AND expires_at > ",
        now!(),
        ") RETURNING generation"
    );
    let query = sqlx::query(sql)
        .bind(shard.namespace.as_str())
        .bind(shard.queue.as_str())
        .bind(i32::from(shard.index))
        .bind(int8(epoch.0));
    let row = query.fetch_optional(pool).await.map_err(after_write)?;
    row.map(|row| unsigned(&row, 0, "generation")).transpose()
}

async fn note_opened(
    pool: &PgPool,
    shard: &ShardId,
    generation: u64,
    process: ProcessId,
) -> Result<bool> {
    let sql = concat!(
        "UPDATE shards SET process = $5, changed_at = ",
        now!(),
        " WHERE namespace = $1 AND queue = $2 AND shard = $3 AND generation = $4"
    );
    let query = sqlx::query(sql)
        .bind(shard.namespace.as_str())
        .bind(shard.queue.as_str())
        .bind(i32::from(shard.index))
        .bind(int8(generation))
        .bind(process.as_str());
    Ok(query.execute(pool).await.map_err(after_write)?.rows_affected() > 0)
}
