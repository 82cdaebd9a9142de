//! Circuits and what is set of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, PgPool};

use super::error::{after_write, unchanged};
use super::row::{get, int8, json, parse, time, to_json, unsigned};
use super::{Postgres, Result};
use crate::ledger::Queue;
use crate::ledger::circuits::{
    CIRCUITS_KNOWN_MAX, CIRCUITS_SET_MAX, Circuit, CircuitPage, CircuitSet, CircuitSettings,
    ShardCircuits, SharedCircuits,
};
use crate::ledger::unreadable::{note, readable};
use crate::model::name::{CircuitName, Namespace};

#[allow(missing_docs, reason = "the contract is on `Ledger`")]
impl Postgres {
    pub async fn note_circuits(&self, namespace: &Namespace, names: &[CircuitName]) -> Result<()> {
        let (namespace, names) = (namespace.clone(), names.to_vec());
        self.detached(move |inner| async move { keep(&inner.pool, &namespace, &names).await }).await
    }

    pub async fn circuit(
        &self,
        namespace: &Namespace,
        name: &CircuitName,
    ) -> Result<Option<Circuit>> {
        self.read(one(&self.inner.pool, namespace, name)).await
    }

    pub async fn circuits(
        &self,
        namespace: &Namespace,
        after: &str,
        limit: u32,
    ) -> Result<CircuitPage> {
        self.read(page(&self.inner.pool, namespace, after, limit)).await
    }

    pub async fn set_circuit(
        &self,
        namespace: &Namespace,
        name: &CircuitName,
        seen: u64,
        settings: &CircuitSettings,
    ) -> Result<CircuitSet> {
        let (namespace, name, settings) = (namespace.clone(), name.clone(), settings.clone());
        self.detached(move |inner| async move {
            set(&inner.pool, &namespace, &name, seen, &settings).await
        })
        .await
    }
}

fn circuit_of(row: &PgRow) -> Result<Circuit> {
    Ok(Circuit {
        name: parse(row, 0, "name")?,
        settings: json(get(row, 1)?, "settings")?,
        version: unsigned(row, 2, "version")?,
        noted_at: time(row, 3)?,
    })
}

async fn keep(pool: &PgPool, namespace: &Namespace, names: &[CircuitName]) -> Result<()> {
    let names: Vec<&str> = names.iter().map(CircuitName::as_str).collect();
    let sql = "INSERT INTO circuits (namespace, name, noted_at) \
               SELECT $1, w.name, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint \
               FROM (SELECT DISTINCT name FROM unnest($2::text[]) AS n(name) WHERE NOT EXISTS \
                        (SELECT FROM circuits c WHERE c.namespace = $1 AND c.name = n.name) \
                     ORDER BY name LIMIT greatest(0, $3 - (SELECT count(*) FROM \
                        (SELECT FROM circuits WHERE namespace = $1 LIMIT $3) k))) w \
               ON CONFLICT (namespace, name) DO NOTHING";
    let query = sqlx::query(sql).bind(namespace.as_str()).bind(names);
    query.bind(int8(CIRCUITS_KNOWN_MAX)).execute(pool).await.map_err(after_write)?;
    Ok(())
}

async fn one(pool: &PgPool, namespace: &Namespace, name: &CircuitName) -> Result<Option<Circuit>> {
    let sql = "SELECT name, settings, version, noted_at FROM circuits \
               WHERE namespace = $1 AND name = $2";
    let query = sqlx::query(sql).bind(namespace.as_str()).bind(name.as_str());
    let row = query.fetch_optional(pool).await.map_err(unchanged)?;
    row.as_ref().map(circuit_of).transpose()
}

async fn page(
    pool: &PgPool,
    namespace: &Namespace,
    after: &str,
    limit: u32,
) -> Result<CircuitPage> {
    let sql = "SELECT name, settings, version, noted_at FROM circuits \
               WHERE namespace = $1 AND name > $2 ORDER BY name LIMIT $3";
    let query = sqlx::query(sql).bind(namespace.as_str()).bind(after).bind(i64::from(limit));
    let rows = query.fetch_all(pool).await.map_err(unchanged)?;
    let is_full = u32::try_from(rows.len()).is_ok_and(|len| len >= limit);
    let next = rows.last().filter(|_| is_full).map(|row| get(row, 0)).transpose()?;
    Ok(CircuitPage { circuits: readable("a circuit", &rows, circuit_of), next })
}

async fn set(
    pool: &PgPool,
    namespace: &Namespace,
    name: &CircuitName,
    seen: u64,
    settings: &CircuitSettings,
) -> Result<CircuitSet> {
    if *settings != CircuitSettings::default() && !has_room(pool, namespace, name).await? {
        return Ok(CircuitSet::Full);
    }
    // However many are known from jobs: an operator's word has a bound of its own.
    let sql = "INSERT INTO circuits (namespace, name, noted_at) \
               VALUES ($1, $2, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) \
               ON CONFLICT (namespace, name) DO NOTHING";
    let query = sqlx::query(sql).bind(namespace.as_str()).bind(name.as_str());
    query.execute(pool).await.map_err(after_write)?;
    let sql = "UPDATE circuits SET settings = $3, version = version + 1 \
               WHERE namespace = $1 AND name = $2 AND version = $4 \
               RETURNING name, settings, version, noted_at";
    let query = sqlx::query(sql).bind(namespace.as_str()).bind(name.as_str());
    let query = query.bind(to_json(settings)?).bind(int8(seen));
    let row = query.fetch_optional(pool).await.map_err(after_write)?;
    Ok(match row {
        Some(row) => CircuitSet::Done(circuit_of(&row)?),
        None => CircuitSet::Changed,
    })
}

async fn has_room(pool: &PgPool, namespace: &Namespace, name: &CircuitName) -> Result<bool> {
    let sql = "SELECT count(*) FROM circuits \
               WHERE namespace = $1 AND version > 0 AND settings <> '{}' AND name <> $2";
    let query = sqlx::query_scalar(sql).bind(namespace.as_str()).bind(name.as_str());
    let others: i64 = query.fetch_one(pool).await.map_err(unchanged)?;
    Ok(others < int8(CIRCUITS_SET_MAX))
}

/// What is set of the circuits of these queues' namespaces; `None`: nothing.
pub(super) async fn set_for(
    executor: impl PgExecutor<'_>,
    queues: &[Queue],
) -> Result<Option<HashMap<Namespace, SharedCircuits>>> {
    let namespaces: BTreeSet<&str> = queues.iter().map(|queue| queue.namespace.as_str()).collect();
    let namespaces: Vec<&str> = namespaces.into_iter().collect();
    let sql = "SELECT namespace, name, settings, version FROM circuits \
               WHERE namespace = ANY($1) AND version > 0";
    let rows = sqlx::query(sql).bind(namespaces).fetch_all(executor).await.map_err(unchanged)?;
    let mut found: HashMap<Namespace, ShardCircuits> = HashMap::new();
    for row in &rows {
        let settings: Result<CircuitSettings> = json(get(row, 2)?, "settings");
        if let Err(error) = &settings {
            note("a circuit", error);
        }
        let version = unsigned(row, 3, "version")?;
        let of = found.entry(parse(row, 0, "namespace")?).or_default();
        of.add(get(row, 1)?, settings.ok().as_ref(), version);
    }
    let shared = found.into_iter().map(|(of, set)| (of, Arc::new(set)));
    Ok(Some(shared.collect()).filter(|found: &HashMap<_, _>| !found.is_empty()))
}
