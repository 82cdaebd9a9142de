//! Statements: one at a time, and many rows at once.
//!
//! Each call of the driver crosses to the connection's own thread and back, which costs more than SQLite
//! takes for a row. Rows therefore travel in statements of a few fixed sizes, prepared once each.

use std::sync::{Arc, OnceLock};

use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{Arguments, AssertSqlSafe, Encode, Sqlite, Type};

use super::fault::Fault;

/// Arguments of a statement, in order.
#[derive(Default)]
pub(super) struct Args(SqliteArguments);

impl Args {
    /// Adds one.
    pub(super) fn add<'t>(&mut self, value: impl Encode<'t, Sqlite> + Type<Sqlite>) -> &mut Self {
        self.0.add(value).expect("texts, numbers and bytes always encode");
        self
    }

    /// Adds one, by value; for short lists.
    pub(super) fn with<'t>(mut self, value: impl Encode<'t, Sqlite> + Type<Sqlite>) -> Self {
        self.add(value);
        self
    }
}

/// Runs one statement; rows changed.
pub(super) async fn execute(
    connection: &mut SqliteConnection,
    sql: &'static str,
    args: Args,
) -> Result<u64, Fault> {
    Ok(sqlx::query_with(sql, args.0).execute(connection).await?.rows_affected())
}

/// Runs one statement; its rows.
pub(super) async fn rows(
    connection: &mut SqliteConnection,
    sql: &'static str,
    args: Args,
) -> Result<Vec<SqliteRow>, Fault> {
    Ok(sqlx::query_with(sql, args.0).fetch_all(connection).await?)
}

/// Runs one statement; its first row.
pub(super) async fn row(
    connection: &mut SqliteConnection,
    sql: &'static str,
    args: Args,
) -> Result<Option<SqliteRow>, Fault> {
    Ok(sqlx::query_with(sql, args.0).fetch_optional(connection).await?)
}

/// Runs one statement that was put together for this call; its rows. The caller answers for its text:
/// values are arguments, always.
pub(super) async fn composed(
    connection: &mut SqliteConnection,
    sql: String,
    args: Args,
) -> Result<Vec<SqliteRow>, Fault> {
    let query = sqlx::query_with(AssertSqlSafe(sql), args.0).persistent(false);
    Ok(query.fetch_all(connection).await?)
}

/// Rows in one statement, largest first. A size is prepared when it is first needed. 128 rows of the widest
/// statement stay far below SQLite's 32,766 arguments.
const SIZES: [usize; 4] = [128, 16, 4, 1];

/// A statement over a list of rows: `head (row), (row), ... tail`.
pub(super) struct Bulk {
    head: &'static str,
    row: &'static str,
    tail: &'static str,
    texts: [OnceLock<Arc<str>>; SIZES.len()],
}

impl Bulk {
    /// `row` is in brackets and has a `?` for each argument of a row.
    pub(super) const fn new(head: &'static str, row: &'static str, tail: &'static str) -> Self {
        Self { head, row, tail, texts: [const { OnceLock::new() }; SIZES.len()] }
    }

    /// Runs the statement over all items; rows changed.
    pub(super) async fn execute<T>(
        &'static self,
        connection: &mut SqliteConnection,
        items: &[T],
        mut bind: impl FnMut(&mut Args, &T),
    ) -> Result<u64, Fault> {
        let mut changed = 0;
        let mut chunks = self.chunks(items);
        let mut next = chunks.next().map(|chunk| ready(chunk, &mut bind));
        while let Some((text, args)) = next {
            let query = sqlx::query_with(AssertSqlSafe(text), args.0).execute(&mut *connection);
            let following = async { chunks.next().map(|chunk| ready(chunk, &mut bind)) };
            let (done, following) = overlapped(query, following).await;
            changed += done?.rows_affected();
            next = following;
        }
        Ok(changed)
    }

    /// Runs the statement over all items; its rows, in no order.
    pub(super) async fn fetch<T>(
        &'static self,
        connection: &mut SqliteConnection,
        items: &[T],
        mut bind: impl FnMut(&mut Args, &T),
    ) -> Result<Vec<SqliteRow>, Fault> {
        let mut found = Vec::new();
        let mut chunks = self.chunks(items);
        let mut next = chunks.next().map(|chunk| ready(chunk, &mut bind));
        while let Some((text, args)) = next {
            let query = sqlx::query_with(AssertSqlSafe(text), args.0).fetch_all(&mut *connection);
            let following = async { chunks.next().map(|chunk| ready(chunk, &mut bind)) };
            let (rows, following) = overlapped(query, following).await;
            found.append(&mut rows?);
            next = following;
        }
        Ok(found)
    }

    fn chunks<'i, T>(&'static self, items: &'i [T]) -> impl Iterator<Item = (Arc<str>, &'i [T])> {
        let mut rest = items;
        std::iter::from_fn(move || {
            let at = SIZES.iter().position(|size| *size <= rest.len())?;
            let (chunk, left) = rest.split_at(SIZES[at]);
            rest = left;
            Some((self.text(at), chunk))
        })
    }

    fn text(&'static self, at: usize) -> Arc<str> {
        let text = self.texts[at].get_or_init(|| {
            let mut text = String::from(self.head);
            for n in 0..SIZES[at] {
                text.push_str(if n == 0 { " " } else { ", " });
                text.push_str(self.row);
            }
            text.push(' ');
            text.push_str(self.tail);
            text.into()
        });
        Arc::clone(text)
    }
}

/// The statement of a chunk with its arguments.
fn ready<T>(
    (text, items): (Arc<str>, &[T]),
    bind: &mut impl FnMut(&mut Args, &T),
) -> (Arc<str>, Args) {
    let mut args = Args::default();
    for item in items {
        bind(&mut args, item);
    }
    (text, args)
}

/// Hands a query to the driver's thread and, while that works, makes the next one ready.
async fn overlapped<A, B>(query: impl Future<Output = A>, next: impl Future<Output = B>) -> (A, B) {
    // The query is polled first, which sends it off.
    futures::join!(query, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_in_exactly_one_chunk() {
        static BULK: Bulk = Bulk::new("INSERT INTO t VALUES", "(?, ?)", "ON CONFLICT DO NOTHING");
        for len in [0, 1, 3, 4, 16, 63, 64, 65, 2_000, 2_047] {
            let items: Vec<usize> = (0..len).collect();
            let mut seen = Vec::new();
            for (text, chunk) in BULK.chunks(&items) {
                assert_eq!(text.matches("(?, ?)").count(), chunk.len());
                seen.extend_from_slice(chunk);
            }
            assert_eq!(seen, items);
        }
        assert_eq!(&*BULK.text(3), "INSERT INTO t VALUES (?, ?) ON CONFLICT DO NOTHING");
    }
}
