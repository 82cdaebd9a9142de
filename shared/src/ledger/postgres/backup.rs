//! See [`crate::ledger::backup`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::error::{after_write, is_lost, unchanged};
use super::{LedgerError, Result, connect, gates, schema};
use crate::config::LedgerSettings;
use crate::ledger::backup::{Contents, Origin, SAMPLES_EACH, TableSum, Target};
use crate::model::id::LedgerId;
use crate::model::job::JobState;
use crate::model::time::Timestamp;

/// A process that showed itself this lately is alive, in microseconds.
const FRESH_US: i64 = 60_000_000;
/// A connection that was closed is gone from the server within this.
const CLOSED_MAX: Duration = Duration::from_secs(2);
const CLOSED_PAUSE: Duration = Duration::from_millis(50);
/// It is asked so often, with this pause, what became of a restored ledger.
const ASKED_MAX: u32 = 30;
const ASKED_PAUSE: Duration = Duration::from_secs(1);
/// How far generations of shards jump: further than verifications can have counted since the backup.
const GENERATIONS: i64 = 1_000_000;

/// An open transaction that sees the ledger at one instant, for `pg_dump` and for sums. It ends with its connection.
pub struct Snapshot {
    connection: PgConnection,
    name: String,
    origin: Origin,
}

impl Snapshot {
    /// Opens one.
    ///
    /// # Errors
    /// [`LedgerError::Schema`] unless the schema is this build's.
    pub async fn open(settings: &LedgerSettings) -> Result<Self> {
        let mut connection = connect(settings).await?;
        connect::check_fitness(&mut connection).await?;
        schema::check(&mut connection).await?;
        let at = now(&mut connection).await?;
        let version = server_version(&mut connection).await?;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        sqlx::query(begin).execute(&mut connection).await.map_err(unchanged)?;
        let name = sqlx::query_scalar("SELECT pg_export_snapshot()");
        let name: String = name.fetch_one(&mut connection).await.map_err(unchanged)?;
        let ledger = gates::ledger_id(&mut connection).await?;
        let schema = schema_version();
        let origin = Origin { ledger, schema, database: "postgres".into(), version, at };
        Ok(Self { connection, name, origin })
    }

    /// By which `pg_dump --snapshot` sees the same.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Of which ledger, and when.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What the ledger held. Reads every row once.
    pub async fn contents(&mut self) -> Result<Contents> {
        read_contents(&mut self.connection).await
    }

    /// Ends the transaction.
    pub async fn end(self) {
        // It changed nothing, so that it does not matter how it ends.
        let _ = self.connection.close().await;
    }
}

/// A connection for statements that take as long as they take.
pub(super) async fn connect(settings: &LedgerSettings) -> Result<PgConnection> {
    connect_with(connect::options(settings)?).await
}

/// One to another database of its server.
pub(super) async fn connect_to(settings: &LedgerSettings, database: &str) -> Result<PgConnection> {
    connect_with(connect::options(settings)?.database(database)).await
}

async fn connect_with(options: PgConnectOptions) -> Result<PgConnection> {
    let options = options.options([
        ("statement_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
        ("lock_timeout", "10s"),
        ("enable_seqscan", "on"),
        // What the text of a row depends on.
        ("bytea_output", "hex"),
        ("DateStyle", "ISO"),
        ("TimeZone", "UTC"),
        ("extra_float_digits", "1"),
    ]);
    connect::connect(&options).await.map_err(unchanged)
}

pub(in crate::ledger) fn schema_version() -> i64 {
    schema::latest()
}

/// Ledger time.
pub(super) async fn now(connection: &mut PgConnection) -> Result<Timestamp> {
    let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let micros = sqlx::query_scalar(sql).fetch_one(connection).await.map_err(unchanged)?;
    Ok(Timestamp::from_micros(micros))
}

async fn server_version(connection: &mut PgConnection) -> Result<i32> {
    let sql = "SELECT current_setting('server_version_num')::int / 10000";
    sqlx::query_scalar(sql).fetch_one(connection).await.map_err(unchanged)
}

pub(in crate::ledger) async fn contents(settings: &LedgerSettings) -> Result<Contents> {
    let mut connection = connect(settings).await?;
    let found = read_contents(&mut connection).await;
    // Failing to say goodbye changes nothing.
    let _ = connection.close().await;
    found
}

async fn read_contents(connection: &mut PgConnection) -> Result<Contents> {
    // Partitions are read through their parent: which there are is no matter of what is in them.
    let tables = "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
        WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p') AND NOT c.relispartition \
        AND c.relname <> 'meta' ORDER BY 1";
    let names: Vec<String> =
        sqlx::query_scalar(tables).fetch_all(&mut *connection).await.map_err(unchanged)?;
    let mut tables = BTreeMap::new();
    for name in names {
        let quoted = name.replace('"', "\"\"");
        let sql = format!(
            "SELECT count(*), coalesce(sum(('x' || substr(md5(whole_row::text), 1, 15))::bit(60)::bigint), 0)::text \
             FROM \"{quoted}\" AS whole_row"
        );
        let (rows, sum): (i64, String) = sqlx::query_as(AssertSqlSafe(sql))
            .persistent(false)
            .fetch_one(&mut *connection)
            .await
            .map_err(unchanged)?;
        tables.insert(name, TableSum { rows: rows.unsigned_abs(), sum });
    }
    if !tables.contains_key("jobs") {
        return Ok(Contents { tables, ..Contents::default() });
    }
    let counts: Vec<(i16, i64)> = sqlx::query_as("SELECT state, count(*) FROM jobs GROUP BY state")
        .fetch_all(&mut *connection)
        .await
        .map_err(unchanged)?;
    let jobs = counts.into_iter().map(|(state, n)| (state_word(state), n.unsigned_abs())).collect();
    let samples = "(SELECT id::text, md5(whole_row::text) FROM jobs whole_row ORDER BY id LIMIT $1) \
        UNION (SELECT id::text, md5(whole_row::text) FROM jobs whole_row ORDER BY id DESC LIMIT $1)";
    let samples: Vec<(String, String)> = sqlx::query_as(samples)
        .bind(i64::from(SAMPLES_EACH))
        .fetch_all(connection)
        .await
        .map_err(unchanged)?;
    Ok(Contents { tables, jobs, samples: samples.into_iter().collect() })
}

fn state_word(number: i16) -> String {
    JobState::from_number(number).map_or_else(|| number.to_string(), |state| state.as_str().into())
}

pub(in crate::ledger) async fn target(settings: &LedgerSettings) -> Result<Target> {
    let mut connection = connect(settings).await?;
    connect::check_fitness(&mut connection).await?;
    let user = match others(&mut connection).await? {
        None => alive(&mut connection).await?,
        user => user,
    };
    if let Some(who) = user {
        return Ok(Target::Live(who));
    }
    // Everything that somebody made, in whatever schema; what extensions brought along is none of it.
    let things = "SELECT kind FROM ( \
        SELECT 'relation ' || relname AS kind, oid, relnamespace AS space FROM pg_class \
        UNION ALL SELECT 'function ' || proname, oid, pronamespace FROM pg_proc \
        UNION ALL SELECT 'type ' || typname, oid, typnamespace FROM pg_type WHERE typrelid = 0 AND typelem = 0) AS made \
        JOIN pg_namespace n ON n.oid = made.space \
        WHERE n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' \
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = made.oid AND d.deptype = 'e') \
        ORDER BY 1 LIMIT 1";
    let thing: Option<String> =
        sqlx::query_scalar(things).fetch_optional(&mut connection).await.map_err(unchanged)?;
    // Failing to say goodbye changes nothing.
    let _ = connection.close().await;
    Ok(thing.map_or(Target::Empty, Target::NotEmpty))
}

/// Connections of Windlass processes to this database but this one, in words. The server forgets those that were closed a
/// moment ago, as by an earlier look, only after a moment.
pub(super) async fn others(connection: &mut PgConnection) -> Result<Option<String>> {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND application_name = 'windlass' AND pid <> pg_backend_pid()";
    let until = Instant::now() + CLOSED_MAX;
    loop {
        let found: i64 =
            sqlx::query_scalar(sql).fetch_one(&mut *connection).await.map_err(unchanged)?;
        if found == 0 {
            return Ok(None);
        }
        if Instant::now() >= until {
            return Ok(Some(format!("{found} connections of Windlass processes are open")));
        }
        tokio::time::sleep(CLOSED_PAUSE).await;
    }
}

/// A leader whose term runs, or a worker that was seen lately.
pub(super) async fn alive(connection: &mut PgConnection) -> Result<Option<String>> {
    let sql = "SELECT to_regclass('leader') IS NOT NULL AND to_regclass('workers') IS NOT NULL";
    let has: bool = sqlx::query_scalar(sql).fetch_one(&mut *connection).await.map_err(unchanged)?;
    if !has {
        return Ok(None);
    }
    let now = now(&mut *connection).await?.micros();
    let sql = "SELECT 'scheduler ' || name || ' leads' FROM leader WHERE expires_at > $1 \
        UNION ALL SELECT 'worker ' || name || ' is at work' FROM workers WHERE seen_at > $1 - $2 LIMIT 1";
    let query = sqlx::query_scalar(sql).bind(now).bind(FRESH_US);
    query.fetch_optional(connection).await.map_err(unchanged)
}

/// Major version of a server.
pub(in crate::ledger) async fn major_version(settings: &LedgerSettings) -> Result<i32> {
    let mut connection = connect(settings).await?;
    server_version(&mut connection).await
}

pub(in crate::ledger) async fn finish(settings: &LedgerSettings) -> Result<LedgerId> {
    let mut connection = connect(settings).await?;
    schema::check(&mut connection).await?;
    let mut tx = connection.begin().await.map_err(unchanged)?;
    let held: i64 = sqlx::query_scalar("SELECT count(*) FROM meta")
        .fetch_one(&mut *tx)
        .await
        .map_err(unchanged)?;
    if held > 0 {
        return Err(LedgerError::Unfit("the database is a ledger already".into()));
    }
    outdate(&mut tx).await?;
    let id = sqlx::query_scalar("INSERT INTO meta DEFAULT VALUES RETURNING ledger_id");
    let id = id.fetch_one(&mut *tx).await.map_err(unchanged)?;
    let id = LedgerId::from_uuid(id);
    if let Err(error) = tx.commit().await
        && (!is_lost(&error) || !became(settings, id).await?)
    {
        return Err(unchanged(error));
    }
    // There is a ledger by now. Without this its first plans are worse, until the server does it by itself.
    if let Err(error) = analyse(settings).await {
        tracing::warn!(%error, "the restored ledger could not be analysed");
    }
    Ok(id)
}

async fn analyse(settings: &LedgerSettings) -> Result<()> {
    let mut connection = connect(settings).await?;
    sqlx::query("ANALYZE").execute(&mut connection).await.map_err(unchanged)?;
    // Failing to say goodbye changes nothing.
    let _ = connection.close().await;
    Ok(())
}

/// Whether a commit whose answer was lost has made the database this ledger.
///
/// # Errors
/// [`LedgerError::OutcomeUnknown`]: that cannot be found out either.
async fn became(settings: &LedgerSettings, id: LedgerId) -> Result<bool> {
    for _ in 0..ASKED_MAX {
        let Ok(mut connection) = connect(settings).await else {
            tokio::time::sleep(ASKED_PAUSE).await;
            continue;
        };
        // The lost backend may still be at it: this waits for its end.
        let sql = "LOCK TABLE meta IN SHARE MODE";
        let Ok(mut tx) = connection.begin().await else { continue };
        let locked = sqlx::query(sql).execute(&mut *tx).await;
        let found = sqlx::query_scalar("SELECT ledger_id FROM meta").fetch_optional(&mut *tx).await;
        if let (Ok(_), Ok(found)) = (locked, found) {
            return Ok(found.map(LedgerId::from_uuid) == Some(id));
        }
        tokio::time::sleep(ASKED_PAUSE).await;
    }
    Err(LedgerError::OutcomeUnknown)
}

/// Makes everything stale that the ledger gave out before: nobody leads, no shard is open, no worker is known.
pub(super) async fn outdate(tx: &mut PgConnection) -> Result<()> {
    let now = now(&mut *tx).await?.micros();
    // Epochs and fences are made to rise by as much as time has: the old ledger's rose by one each, or with time.
    let statements = [
        "UPDATE leader SET epoch = greatest(epoch + 1, $1), expires_at = 0",
        "UPDATE jobs SET fence = greatest(fence + 1, $1) WHERE state < 10",
        "DELETE FROM workers WHERE $1 > 0",
    ];
    for sql in statements {
        sqlx::query(sql).bind(now).execute(&mut *tx).await.map_err(unchanged)?;
    }
    sqlx::query("UPDATE shards SET generation = generation + $2, process = NULL, changed_at = $1")
        .bind(now)
        .bind(GENERATIONS)
        .execute(&mut *tx)
        .await
        .map_err(unchanged)?;
    Ok(())
}

/// Makes an empty database beside that of `settings`.
pub(in crate::ledger) async fn create_database(
    settings: &LedgerSettings,
    name: &str,
) -> Result<()> {
    let mut connection = connect(settings).await?;
    let sql =
        format!("CREATE DATABASE \"{}\" TEMPLATE template0 ENCODING 'UTF8'", name.replace('"', ""));
    sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.map_err(after_write)?;
    let _ = connection.close().await;
    Ok(())
}

/// Drops a database with whoever is connected to it, where it is there.
pub(in crate::ledger) async fn drop_database(settings: &LedgerSettings, name: &str) -> Result<()> {
    let mut connection = connect(settings).await?;
    let sql = format!("DROP DATABASE IF EXISTS \"{}\" WITH (FORCE)", name.replace('"', ""));
    sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.map_err(after_write)?;
    let _ = connection.close().await;
    Ok(())
}

/// Databases of the server whose names begin with `prefix`.
pub(in crate::ledger) async fn databases(
    settings: &LedgerSettings,
    prefix: &str,
) -> Result<Vec<String>> {
    let mut connection = connect(settings).await?;
    let sql = "SELECT datname::text FROM pg_database WHERE starts_with(datname::text, $1)";
    let names = sqlx::query_scalar(sql).bind(prefix).fetch_all(&mut connection).await;
    let _ = connection.close().await;
    names.map_err(unchanged)
}

#[allow(missing_docs, reason = "documented once, at `Ledger`")]
impl super::Postgres {
    /// On a connection of its own: the pool makes none to another ledger.
    pub async fn present_id(&self) -> Result<LedgerId> {
        self.read(async {
            let connecting = connect::connect(&self.inner.options).await;
            let mut connection = connecting.map_err(unchanged)?;
            let id = gates::ledger_id(&mut connection).await;
            // Failing to say goodbye changes nothing.
            let _ = connection.close().await;
            id
        })
        .await
    }

    pub async fn has_default(&self, name: &str) -> Result<bool> {
        self.read(async {
            let query = sqlx::query_scalar("SELECT EXISTS (SELECT FROM defaults WHERE name = $1)");
            query.bind(name).fetch_one(&self.inner.pool).await.map_err(unchanged)
        })
        .await
    }

    pub async fn note_default(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.detached(move |inner| async move {
            let sql = "INSERT INTO defaults (name, made_at) \
                VALUES ($1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) ON CONFLICT DO NOTHING";
            sqlx::query(sql).bind(name).execute(&inner.pool).await.map_err(after_write)?;
            Ok(())
        })
        .await
    }
}
