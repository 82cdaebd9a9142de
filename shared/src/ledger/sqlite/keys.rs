//! API keys, and the operations that run in the background.

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::fault::Fault;
use super::jobs::Columns;
use super::statement::{Args, execute, row, rows};
use super::writer::Tx;
use super::{ApiKey, Operation, Role, SILENT_OPERATION};
use crate::ledger::unreadable::readable;
use crate::model::id::{KeyId, OperationId};
use crate::model::name::Namespace;
use crate::model::time::Timestamp;

/// Most keys in one answer.
const KEYS_MAX: i64 = 10_000;

macro_rules! select_key {
    ($tail:literal) => {
        concat!(
            "SELECT id, public, secret_hash, name, role, namespace, created_at, expires_at, ",
            "revoked_at FROM api_keys ",
            $tail
        )
    };
}

/// Keeps a key.
pub(super) async fn create(tx: &mut Tx<'_>, key: &ApiKey) -> Result<(), Fault> {
    let sql = "INSERT INTO api_keys (id, public, secret_hash, name, role, namespace, created_at, \
               expires_at, revoked_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let args = Args::default()
        .with(key.id.as_bytes().as_slice())
        .with(key.public.as_str())
        .with(key.secret_hash.as_slice())
        .with(key.name.as_str())
        .with(role_word(key.role)?)
        .with(key.namespace.as_ref().map(Namespace::as_str))
        .with(key.created_at.micros())
        .with(key.expires_at.map(Timestamp::micros))
        .with(key.revoked_at.map(Timestamp::micros));
    execute(tx.connection, sql, args).await?;
    Ok(())
}

/// A key by its public part.
pub(super) async fn key(
    connection: &mut SqliteConnection,
    public: &str,
) -> Result<Option<ApiKey>, Fault> {
    let args = Args::default().with(public);
    let found = row(connection, select_key!("WHERE public = ?"), args).await?;
    found.as_ref().map(key_of).transpose()
}

/// Every key, newest first.
pub(super) async fn keys(connection: &mut SqliteConnection) -> Result<Vec<ApiKey>, Fault> {
    let sql = select_key!("ORDER BY created_at DESC, id DESC LIMIT ?");
    let found = rows(connection, sql, Args::default().with(KEYS_MAX)).await?;
    Ok(readable("a key", &found, key_of))
}

/// Refuses a key from now on; `false`: there is none, or it was refused already.
pub(super) async fn revoke(tx: &mut Tx<'_>, id: KeyId) -> Result<bool, Fault> {
    let sql = "UPDATE api_keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL";
    let args = Args::default().with(tx.now.micros()).with(id.as_bytes().as_slice());
    Ok(execute(tx.connection, sql, args).await? > 0)
}

fn key_of(row: &SqliteRow) -> Result<ApiKey, Fault> {
    let mut c = Columns::of(row);
    let id = KeyId::from_bytes(c.id()?);
    let public = c.next()?;
    let hash: &[u8] = c.next()?;
    Ok(ApiKey {
        id,
        public,
        secret_hash: hash.try_into().map_err(|_| Fault::unreadable("a key's hash"))?,
        name: c.next()?,
        role: role_of(c.next()?)?,
        namespace: c.next::<Option<&str>>()?.map(parse).transpose()?,
        created_at: c.time()?,
        expires_at: c.maybe_time()?,
        revoked_at: c.maybe_time()?,
    })
}

fn parse(name: &str) -> Result<Namespace, Fault> {
    name.parse().map_err(|_| Fault::unreadable("a namespace"))
}

/// A role's wire word.
fn role_word(role: Role) -> Result<String, Fault> {
    let word = serde_json::to_value(role).map_err(Fault::unreadable)?;
    word.as_str().map(str::to_owned).ok_or_else(|| Fault::unreadable("a role"))
}

fn role_of(word: &str) -> Result<Role, Fault> {
    serde_json::from_value(word.into()).map_err(Fault::unreadable)
}

/// Keeps or replaces an operation's state.
pub(super) async fn put_operation(tx: &mut Tx<'_>, operation: &Operation) -> Result<(), Fault> {
    let sql = "INSERT INTO operations (namespace, id, action, state, matched, changed, error, \
               created_at, finished_at, changed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
               ON CONFLICT DO UPDATE SET action = excluded.action, state = excluded.state, \
               matched = excluded.matched, changed = excluded.changed, error = excluded.error, \
               created_at = excluded.created_at, finished_at = excluded.finished_at, \
               changed_at = excluded.changed_at";
    let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let args = Args::default()
        .with(operation.namespace.as_str())
        .with(operation.id.as_bytes().as_slice())
        .with(operation.action.as_str())
        .with(operation.state.as_str())
        .with(count(operation.matched))
        .with(count(operation.changed))
        .with(operation.error.as_deref())
        .with(operation.created_at.micros())
        .with(operation.finished_at.map(Timestamp::micros))
        .with(tx.now.micros());
    execute(tx.connection, sql, args).await?;
    Ok(())
}

/// Ends operations that say `running` and were put last before this; how many.
pub(super) async fn fail_silent_operations(
    tx: &mut Tx<'_>,
    silent_since: Timestamp,
) -> Result<u64, Fault> {
    let sql = "UPDATE operations SET state = 'failed', error = ?, finished_at = ? \
               WHERE state = 'running' AND coalesce(changed_at, created_at) < ?";
    let args =
        Args::default().with(SILENT_OPERATION).with(tx.now.micros()).with(silent_since.micros());
    execute(tx.connection, sql, args).await
}

/// An operation of a namespace.
pub(super) async fn operation(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    id: OperationId,
) -> Result<Option<Operation>, Fault> {
    let sql = "SELECT id, namespace, action, state, matched, changed, error, created_at, \
               finished_at FROM operations WHERE namespace = ? AND id = ?";
    let args = Args::default().with(namespace.as_str()).with(id.as_bytes().as_slice());
    row(connection, sql, args).await?.as_ref().map(operation_of).transpose()
}

fn operation_of(row: &SqliteRow) -> Result<Operation, Fault> {
    let mut c = Columns::of(row);
    Ok(Operation {
        id: OperationId::from_bytes(c.id()?),
        namespace: c.parsed()?,
        action: c.next()?,
        state: c.next()?,
        matched: c.count()?,
        changed: c.count()?,
        error: c.next()?,
        created_at: c.time()?,
        finished_at: c.maybe_time()?,
    })
}
