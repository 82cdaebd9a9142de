//! Failpoints: named places in the code at which a test lets a process die, stop, or fail.
//!
//! Without the cargo feature `failpoints` a [`failpoint!`](crate::failpoint) is nothing at all. With it, the
//! environment variable `WINDLASS_FAIL` says what happens, read once:
//!
//! ```text
//! WINDLASS_FAIL=submit.committed=abort@3;record.before_confirm=sleep(500)
//! ```
//!
//! | action | effect |
//! |---|---|
//! | `abort` | the process dies at once, as by a crash |
//! | `panic` | the task panics |
//! | `sleep(ms)` | the **thread** sleeps: other tasks on it wait too |
//! | `error` | the place fails with the error that it names; a place without one goes on |
//!
//! `@n` behind an action: only the n-th time that the place is reached, counted from 1 in each process;
//! without it every time. A variable that cannot be read, or names no point, ends the process with status 2:
//! a test that hits nothing would prove nothing.

/// All failpoints: a name that is not here does not compile, and one that is placed nowhere fails a test.
pub const POINTS: [&str; 7] = [
    // A submission is committed; nothing of it has been pushed.
    "submit.committed",
    // Series of submissions are shut; nothing of their jobs has been pushed.
    "series.shut",
    // Due times of a schedule are decided and their work is committed; nothing of it has been pushed.
    "schedule.committed",
    // Outcomes are recorded; the engine does not know yet.
    "record.before_confirm",
    // A part of a backup is stored; its manifest is not.
    "backup.part_stored",
    // All parts of a backup are stored; its manifest is not.
    "backup.before_manifest",
    // A restored database is filled; it is no ledger yet.
    "restore.filled",
];

/// Whether `name` is one of [`POINTS`]; asked when code is compiled.
#[doc(hidden)]
pub const fn is_point(name: &str) -> bool {
    let mut n = 0;
    while n < POINTS.len() {
        if is_same(POINTS[n].as_bytes(), name.as_bytes()) {
            return true;
        }
        n += 1;
    }
    false
}

const fn is_same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut n = 0;
    while n < a.len() {
        if a[n] != b[n] {
            return false;
        }
        n += 1;
    }
    true
}

/// A place at which tests may let the process fail: `failpoint!("name")`, or with what `error` does there,
/// `failpoint!("name", return Err(...))`. See [`fail`](crate::fail).
#[cfg(feature = "failpoints")]
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {{
        const { assert!($crate::fail::is_point($name), "add it to fail::POINTS") };
        let _ = $crate::fail::reach($name);
    }};
    ($name:literal, $error:expr) => {{
        const { assert!($crate::fail::is_point($name), "add it to fail::POINTS") };
        if $crate::fail::reach($name) {
            $error
        }
    }};
}

/// A place at which tests may let the process fail. This build has no failpoints: nothing happens.
#[cfg(not(feature = "failpoints"))]
#[macro_export]
macro_rules! failpoint {
    ($name:literal $(, $error:expr)?) => {
        const { assert!($crate::fail::is_point($name), "add it to fail::POINTS") };
    };
}

#[cfg(feature = "failpoints")]
pub use active::reach;

#[cfg(feature = "failpoints")]
mod active {
    use std::collections::HashMap;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::POINTS;

    const VARIABLE: &str = "WINDLASS_FAIL";
    const SLEEP_MAX_MS: u64 = 600_000;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Action {
        Abort,
        Panic,
        Sleep(Duration),
        Error,
    }

    #[derive(Debug)]
    struct Order {
        action: Action,
        /// The only time that counts, from 1; `None` is every time.
        nth: Option<u64>,
        reached: AtomicU64,
    }

    /// What happens at a point, done. Whether the point is to fail with its error.
    pub fn reach(name: &str) -> bool {
        static ORDERS: OnceLock<HashMap<&'static str, Order>> = OnceLock::new();
        let orders = ORDERS.get_or_init(|| {
            parse(&std::env::var(VARIABLE).unwrap_or_default()).unwrap_or_else(|error| {
                eprintln!("{VARIABLE}: {error}");
                std::process::exit(2)
            })
        });
        let Some(order) = orders.get(name) else { return false };
        let time = order.reached.fetch_add(1, Ordering::SeqCst) + 1;
        if order.nth.is_some_and(|nth| nth != time) {
            return false;
        }
        eprintln!("failpoint {name}: {:?}", order.action);
        match order.action {
            Action::Abort => std::process::abort(),
            Action::Panic => panic!("failpoint {name}"),
            Action::Sleep(time) => std::thread::sleep(time),
            Action::Error => return true,
        }
        false
    }

    fn parse(text: &str) -> Result<HashMap<&'static str, Order>, String> {
        let mut orders = HashMap::new();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, order) =
                part.split_once('=').ok_or(format!("`{part}` is not name=action"))?;
            let point = POINTS.iter().find(|point| **point == name);
            let point = point.ok_or(format!("there is no failpoint `{name}`"))?;
            let (action, nth) = match order.split_once('@') {
                Some((action, nth)) => {
                    let nth = nth.parse().ok().filter(|nth| *nth > 0);
                    (action, Some(nth.ok_or(format!("`{order}` names no time from 1"))?))
                }
                None => (order, None),
            };
            let order = Order { action: action_of(action)?, nth, reached: AtomicU64::new(0) };
            if orders.insert(*point, order).is_some() {
                return Err(format!("`{name}` is named twice"));
            }
        }
        Ok(orders)
    }

    fn action_of(text: &str) -> Result<Action, String> {
        let ms = || text.strip_prefix("sleep(")?.strip_suffix(')')?.parse().ok();
        match text {
            "abort" => Ok(Action::Abort),
            "panic" => Ok(Action::Panic),
            "error" => Ok(Action::Error),
            _ => match ms() {
                Some(ms) if ms <= SLEEP_MAX_MS => Ok(Action::Sleep(Duration::from_millis(ms))),
                _ => Err(format!("`{text}` is not abort, panic, error, or sleep(ms)")),
            },
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn orders_are_read_or_refused() {
            let text = "submit.committed=abort@3; record.before_confirm=sleep(500);";
            let orders = parse(text).unwrap();
            let order = &orders["submit.committed"];
            assert_eq!((order.action, order.nth), (Action::Abort, Some(3)));
            let order = &orders["record.before_confirm"];
            assert_eq!(
                (order.action, order.nth),
                (Action::Sleep(Duration::from_millis(500)), None)
            );
            assert!(parse("").unwrap().is_empty());
            for wrong in [
                "submit.committed",
                "nowhere=abort",
                "submit.committed=explode",
                "submit.committed=abort@0",
                "submit.committed=sleep(x)",
                "submit.committed=sleep(9999999)",
                "submit.committed=abort;submit.committed=panic",
            ] {
                assert!(parse(wrong).is_err(), "{wrong}");
            }
        }
    }
}
