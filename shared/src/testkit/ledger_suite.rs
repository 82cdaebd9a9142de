//! What every ledger must do, as executable cases against the contract of [`crate::ledger`].
//!
//! Each case works in a namespace of its own, so that the cases of a group may share a ledger. Nothing is
//! flushed between them. A group panics at the first case that fails and has printed that case's name.

mod alerts;
mod change;
mod circuits;
mod definitions;
mod duties;
mod gates;
mod housekeeping;
mod idempotency;
mod load_checks;
mod load_results;
mod looks;
mod order_storm;
mod orders;
mod queues;
mod quotas;
mod reading;
mod record;
mod reports;
mod retention;
mod run_advance;
mod run_record;
mod run_retry;
mod run_scene;
mod run_shape;
mod run_storm;
mod run_waits;
mod runs;
mod scene;
mod schedules;
mod shaping;
mod shaping_flow;
mod stores;
mod submission;
mod uniqueness;

use futures::future::BoxFuture;

use crate::ledger::Ledger;

/// Cases about one concern. Running them returns how many there were.
pub struct Group {
    /// What they are about.
    pub name: &'static str,
    run: fn(Ledger) -> BoxFuture<'static, usize>,
}

impl Group {
    /// Runs the cases one after the other.
    ///
    /// # Panics
    /// When the ledger does not do what a case asks for.
    pub async fn run(&self, ledger: &Ledger) -> usize {
        (self.run)(ledger.clone()).await
    }
}

/// Every group, in the order of the contract.
pub const GROUPS: [Group; 32] = [
    Group { name: "submission", run: submission::run },
    Group { name: "idempotency", run: idempotency::run },
    Group { name: "uniqueness", run: uniqueness::run },
    Group { name: "shaping", run: shaping::run },
    Group { name: "shaping_flow", run: shaping_flow::run },
    Group { name: "reading", run: reading::run },
    Group { name: "record", run: record::run },
    Group { name: "change", run: change::run },
    Group { name: "queues", run: queues::run },
    Group { name: "circuits", run: circuits::run },
    Group { name: "reports", run: reports::run },
    Group { name: "stores", run: stores::run },
    Group { name: "housekeeping", run: housekeeping::run },
    Group { name: "runs", run: runs::run },
    Group { name: "run_record", run: run_record::run },
    Group { name: "run_advance", run: run_advance::run },
    Group { name: "run_shape", run: run_shape::run },
    Group { name: "run_waits", run: run_waits::run },
    Group { name: "run_retry", run: run_retry::run },
    Group { name: "run_storm", run: run_storm::run },
    Group { name: "definitions", run: definitions::run },
    Group { name: "gates", run: gates::run },
    Group { name: "schedules", run: schedules::run },
    Group { name: "duties", run: duties::run },
    Group { name: "load_checks", run: load_checks::run },
    Group { name: "load_results", run: load_results::run },
    Group { name: "alerts", run: alerts::run },
    Group { name: "looks", run: looks::run },
    Group { name: "retention", run: retention::run },
    Group { name: "quotas", run: quotas::run },
    Group { name: "orders", run: orders::run },
    Group { name: "order_storm", run: order_storm::run },
];

/// The group of that name.
///
/// # Panics
/// When there is none.
pub fn group(name: &str) -> &'static Group {
    GROUPS.iter().find(|g| g.name == name).expect("the tests name groups that exist")
}

/// Lists a file's cases and makes `run` of them.
macro_rules! cases {
    ($($case:ident),+ $(,)?) => {
        pub(super) fn run(
            ledger: crate::ledger::Ledger,
        ) -> futures::future::BoxFuture<'static, usize> {
            Box::pin(async move {
                let mut ran = 0;
                $(
                    eprintln!("case {}", stringify!($case));
                    let scene = super::scene::Scene::new(&ledger, stringify!($case));
                    Box::pin($case(&scene)).await;
                    ran += 1;
                )+
                ran
            })
        }
    };
}
use cases;
