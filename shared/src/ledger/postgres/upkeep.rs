//! See [`crate::ledger::upkeep`].

use super::Result;
use super::error::{after_write, unchanged};
use crate::ledger::upkeep::{LastUpkeep, Upkeep};
use crate::model::time::Timestamp;

#[allow(missing_docs, reason = "documented once, at `Ledger`")]
impl super::Postgres {
    pub async fn note_upkeep(&self, what: Upkeep, at: Option<Timestamp>) -> Result<()> {
        self.detached(move |inner| async move {
            let sql = "INSERT INTO upkeep AS u (name, at) \
                VALUES ($1, coalesce($2, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)) \
                ON CONFLICT (name) DO UPDATE SET at = EXCLUDED.at WHERE $2 IS NOT NULL AND u.at < EXCLUDED.at";
            let query = sqlx::query(sql).bind(what.as_str()).bind(at.map(Timestamp::micros));
            query.execute(&inner.pool).await.map_err(after_write)?;
            Ok(())
        })
        .await
    }

    pub async fn last_upkeep(&self) -> Result<LastUpkeep> {
        self.read(async {
            let query = sqlx::query_as("SELECT name, at FROM upkeep");
            let rows: Vec<(String, i64)> =
                query.fetch_all(&self.inner.pool).await.map_err(unchanged)?;
            // What a newer build notes is nothing to this one.
            let known = |(name, at): (String, i64)| {
                Some((Upkeep::parse(&name)?, Timestamp::from_micros(at)))
            };
            Ok(rows.into_iter().filter_map(known).collect())
        })
        .await
    }
}
