//! Where a simulated world takes hold of a process: at the two doors ([`Engine`](crate::engine::Engine) and
//! [`Ledger`](crate::ledger::Ledger)), and at the few places that start a thread of their own.
//!
//! Everything else that a simulation must decide (time, randomness, the order of hash maps) it decides below the
//! standard library, for the whole process: the code of the product has no seam for it. Without the feature
//! `testkit` nothing of this exists and [`simulated`] is a constant.

#[cfg(feature = "testkit")]
pub use doors::{EngineTap, LedgerTap, simulate};

/// Whether this thread is a simulated world, which has no other threads: what would run on a thread of its own
/// runs as a task, or at once.
#[cfg(not(feature = "testkit"))]
pub const fn simulated() -> bool {
    false
}

/// Whether this thread is a simulated world, which has no other threads: what would run on a thread of its own
/// runs as a task, or at once.
#[cfg(feature = "testkit")]
pub fn simulated() -> bool {
    doors::SIMULATED.get()
}

#[cfg(feature = "testkit")]
mod doors {
    use std::any::Any;
    use std::cell::Cell;
    use std::sync::Arc;

    use futures::future::BoxFuture;

    use crate::engine::EngineError;
    use crate::engine::embedded::Embedded;
    use crate::ledger::LedgerError;
    use crate::ledger::sqlite::Sqlite;

    thread_local! {
        pub(super) static SIMULATED: Cell<bool> = const { Cell::new(false) };
    }

    /// Says that this thread is a simulated world from now on.
    pub fn simulate() {
        SIMULATED.set(true);
    }

    /// What stands between one process and its engine.
    pub trait EngineTap: Send + Sync {
        /// The way there: waits as long as it takes, then names the engine that the call reaches.
        ///
        /// # Errors
        /// The call is lost on its way; nothing was done.
        fn before(&self, call: &'static str) -> BoxFuture<'_, Result<Arc<Embedded>, EngineError>>;

        /// Looks at the answer (`Result<_, EngineError>` of the call) as it leaves the engine.
        fn saw(&self, call: &'static str, answer: &dyn Any);

        /// The way back.
        ///
        /// # Errors
        /// The answer is lost; the call was carried out all the same.
        fn after(&self, call: &'static str) -> BoxFuture<'_, Result<(), EngineError>>;
    }

    /// What stands between one process and its ledger.
    pub trait LedgerTap: Send + Sync {
        /// The ledger behind it.
        fn ledger(&self) -> &Arc<Sqlite>;

        /// The way there.
        ///
        /// # Errors
        /// The call is lost on its way; nothing was done.
        fn before(&self, call: &'static str) -> BoxFuture<'_, Result<(), LedgerError>>;

        /// Carries out a call to its end, in no time.
        fn carry(&self, call: BoxFuture<'_, ()>);

        /// Looks at an error as it leaves the ledger.
        fn failed(&self, call: &'static str, error: &LedgerError);

        /// The way back.
        ///
        /// # Errors
        /// The answer is lost; the call was carried out all the same.
        fn after(&self, call: &'static str) -> BoxFuture<'_, Result<(), LedgerError>>;
    }
}
