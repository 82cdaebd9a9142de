//! Circuits and what is set of them.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::fault::Fault;
use super::jobs::Columns;
use super::run_calls::change;
use super::statement::{Args, execute, row, rows};
use super::writer::Tx;
use super::{LedgerError, Queue, Result, Sqlite, read};
use crate::ledger::circuits::{
    CIRCUITS_KNOWN_MAX, CIRCUITS_SET_MAX, Circuit, CircuitPage, CircuitSet, CircuitSettings,
    ShardCircuits, SharedCircuits,
};
use crate::ledger::unreadable::{note, readable};
use crate::model::name::{CircuitName, Namespace};

#[expect(missing_docs, reason = "said once, at the enum that dispatches to them")]
impl Sqlite {
    pub async fn note_circuits(&self, namespace: &Namespace, names: &[CircuitName]) -> Result<()> {
        let (namespace, names) = (namespace.clone(), names.to_vec());
        change!(self, |tx| keep(tx, &namespace, &names))
    }

    pub async fn circuit(
        &self,
        namespace: &Namespace,
        name: &CircuitName,
    ) -> Result<Option<Circuit>> {
        read!(self, one, namespace, name)
    }

    pub async fn circuits(
        &self,
        namespace: &Namespace,
        after: &str,
        limit: u32,
    ) -> Result<CircuitPage> {
        read!(self, page, namespace, after, limit)
    }

    pub async fn set_circuit(
        &self,
        namespace: &Namespace,
        name: &CircuitName,
        seen: u64,
        settings: &CircuitSettings,
    ) -> Result<CircuitSet> {
        let (namespace, name, settings) = (namespace.clone(), name.clone(), settings.clone());
        change!(self, |tx| set(tx, &namespace, &name, seen, &settings))
    }
}

fn circuit_of(row: &SqliteRow) -> Result<Circuit, Fault> {
    let mut c = Columns::of(row);
    Ok(Circuit { name: c.parsed()?, settings: c.json()?, version: c.count()?, noted_at: c.time()? })
}

async fn keep(tx: &mut Tx<'_>, namespace: &Namespace, names: &[CircuitName]) -> Result<(), Fault> {
    // Counted once for all of them: it is a walk over the whole namespace.
    let sql = "SELECT count(*) FROM (SELECT 1 FROM circuits WHERE namespace = ? LIMIT ?)";
    let args = Args::default().with(namespace.as_str()).with(most(CIRCUITS_KNOWN_MAX));
    let known = row(tx.connection, sql, args).await?;
    let known: u64 = known.map_or(Ok(0), |row| Columns::of(&row).count())?;
    let mut room = CIRCUITS_KNOWN_MAX.saturating_sub(known);
    for name in names {
        if room == 0 {
            break;
        }
        room -= note_one(tx, namespace, name).await?;
    }
    Ok(())
}

/// 1 if it was not known.
async fn note_one(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    name: &CircuitName,
) -> Result<u64, Fault> {
    let sql =
        "INSERT INTO circuits (namespace, name, noted_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING";
    let args = Args::default().with(namespace.as_str()).with(name.as_str());
    execute(tx.connection, sql, args.with(tx.now.micros())).await
}

fn most(bound: u64) -> i64 {
    i64::try_from(bound).unwrap_or(i64::MAX)
}

async fn one(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    name: &CircuitName,
) -> Result<Option<Circuit>, Fault> {
    let sql =
        "SELECT name, settings, version, noted_at FROM circuits WHERE namespace = ? AND name = ?";
    let args = Args::default().with(namespace.as_str()).with(name.as_str());
    row(connection, sql, args).await?.as_ref().map(circuit_of).transpose()
}

async fn page(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    after: &str,
    limit: u32,
) -> Result<CircuitPage, Fault> {
    let sql = "SELECT name, settings, version, noted_at FROM circuits \
               WHERE namespace = ? AND name > ? ORDER BY name LIMIT ?";
    let args = Args::default().with(namespace.as_str()).with(after).with(i64::from(limit));
    let found = rows(connection, sql, args).await?;
    let is_full = u32::try_from(found.len()).is_ok_and(|len| len >= limit);
    let next = found.last().filter(|_| is_full).map(|row| Columns::of(row).next()).transpose()?;
    Ok(CircuitPage { circuits: readable("a circuit", &found, circuit_of), next })
}

async fn set(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    name: &CircuitName,
    seen: u64,
    settings: &CircuitSettings,
) -> Result<CircuitSet, Fault> {
    if *settings != CircuitSettings::default() && !has_room(tx, namespace, name).await? {
        return Ok(CircuitSet::Full);
    }
    // However many are known from jobs: an operator's word has a bound of its own.
    note_one(tx, namespace, name).await?;
    let settings = serde_json::to_string(settings).map_err(Fault::unreadable)?;
    let sql = "UPDATE circuits SET settings = ?, version = version + 1 \
               WHERE namespace = ? AND name = ? AND version = ?";
    let args = Args::default().with(settings).with(namespace.as_str()).with(name.as_str());
    let changed = execute(tx.connection, sql, args.with(most(seen))).await?;
    Ok(match one(tx.connection, namespace, name).await? {
        Some(circuit) if changed > 0 => CircuitSet::Done(circuit),
        _ => CircuitSet::Changed,
    })
}

async fn has_room(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    name: &CircuitName,
) -> Result<bool, Fault> {
    let sql = "SELECT count(*) FROM circuits \
               WHERE namespace = ? AND version > 0 AND settings <> '{}' AND name <> ?";
    let args = Args::default().with(namespace.as_str()).with(name.as_str());
    let found = row(tx.connection, sql, args).await?;
    let found = found.ok_or_else(|| Fault::unreadable("a count"))?;
    Ok(Columns::of(&found).count::<u64>()? < CIRCUITS_SET_MAX)
}

/// Gives queues what is set of the circuits of their namespaces; whether anything is.
pub(super) async fn give(
    connection: &mut SqliteConnection,
    queues: &mut [Queue],
) -> Result<bool, Fault> {
    let mut found: HashMap<Namespace, SharedCircuits> = HashMap::new();
    for queue in queues {
        if !found.contains_key(&queue.namespace) {
            let circuits = Arc::new(changed(connection, &queue.namespace).await?);
            found.insert(queue.namespace.clone(), circuits);
        }
        queue.circuits = Arc::clone(&found[&queue.namespace]);
    }
    Ok(found.values().any(|circuits| circuits.revision > 0))
}

async fn changed(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
) -> Result<ShardCircuits, Fault> {
    let sql = "SELECT name, settings, version FROM circuits WHERE namespace = ? AND version > 0";
    let mut circuits = ShardCircuits::default();
    for row in rows(connection, sql, Args::default().with(namespace.as_str())).await? {
        let mut c = Columns::of(&row);
        let name: String = c.next()?;
        let settings: Result<CircuitSettings, Fault> = c.json();
        if let Err(error) = &settings {
            note("a circuit", error);
        }
        circuits.add(&name, settings.ok().as_ref(), c.count()?);
    }
    Ok(circuits)
}
