//! Results of load tests.

use sqlx::PgPool;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::error::{after_write, unchanged};
use super::row::{get, time};
use super::{Postgres, Result};
use crate::ledger::load_results::{KEPT, PAGE_MAX, ResultFilter, StoredResult};
use crate::ledger::unreadable::readable;

macro_rules! select_results {
    ($tail:literal) => {
        concat!("SELECT id, profile, machine, passed, began_at, result FROM load_results ", $tail)
    };
}

#[allow(missing_docs, reason = "the contract is on `Ledger`")]
impl Postgres {
    pub async fn add_load_result(&self, new: &StoredResult) -> Result<()> {
        let new = new.clone();
        self.detached(|inner| async move { add(&inner.pool, &new).await }).await
    }

    pub async fn load_result(&self, id: Uuid) -> Result<Option<StoredResult>> {
        self.read(async {
            let query = sqlx::query(select_results!("WHERE id = $1")).bind(id);
            let found = query.fetch_optional(&self.inner.pool).await.map_err(unchanged)?;
            found.as_ref().map(result_of).transpose()
        })
        .await
    }

    pub async fn load_results(
        &self,
        filter: &ResultFilter,
        limit: u32,
    ) -> Result<Vec<StoredResult>> {
        self.read(async {
            let sql = select_results!(
                "WHERE ($1::text IS NULL OR profile = $1) AND ($2::text IS NULL OR machine = $2) \
                 AND ($3::boolean IS NULL OR passed = $3) AND id < $4 ORDER BY id DESC LIMIT $5"
            );
            let query = sqlx::query(sql)
                .bind(&filter.profile)
                .bind(&filter.machine)
                .bind(filter.passed)
                .bind(filter.before.unwrap_or(Uuid::max()))
                .bind(i64::from(limit.min(PAGE_MAX)));
            let found = query.fetch_all(&self.inner.pool).await.map_err(unchanged)?;
            Ok(readable("a result", &found, result_of))
        })
        .await
    }
}

async fn add(pool: &PgPool, new: &StoredResult) -> Result<()> {
    let mut tx = pool.begin().await.map_err(unchanged)?;
    let sql = "INSERT INTO load_results (id, profile, machine, passed, began_at, result) \
               VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING";
    let query = sqlx::query(sql)
        .bind(new.id)
        .bind(&new.profile)
        .bind(&new.machine)
        .bind(new.passed)
        .bind(new.began_at.micros())
        .bind(&new.result);
    query.execute(&mut *tx).await.map_err(unchanged)?;
    let sql = "DELETE FROM load_results WHERE profile = $1 AND machine = $2 AND id NOT IN \
               (SELECT id FROM load_results WHERE profile = $1 AND machine = $2 \
                ORDER BY id DESC LIMIT $3)";
    let query = sqlx::query(sql).bind(&new.profile).bind(&new.machine).bind(i64::from(KEPT));
    query.execute(&mut *tx).await.map_err(unchanged)?;
    tx.commit().await.map_err(after_write)
}

fn result_of(row: &PgRow) -> Result<StoredResult> {
    Ok(StoredResult {
        id: get(row, 0)?,
        profile: get(row, 1)?,
        machine: get(row, 2)?,
        passed: get(row, 3)?,
        began_at: time(row, 4)?,
        result: get(row, 5)?,
    })
}
