//! Another program holds the write lock of SQLite (E18).

use std::time::Duration;

use anyhow::Context as _;
use futures::future::BoxFuture;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::dev::Dev;
use crate::experiments::{Experiment, ledger};
use crate::figure::Figure;
use crate::history::Fault;
use crate::runner::{Scene, Seen};

/// The database in the data folder.
pub(super) const FILE: &str = "ledger.db";
/// How long it is tried to get the lock, beside a busy writer.
const LOCKED_MAX: Duration = Duration::from_secs(30);

/// E18.
pub(super) struct Lock;

impl Experiment<Dev> for Lock {
    fn id(&self) -> &'static str {
        "E18"
    }

    fn title(&self) -> &'static str {
        "another program holds the write lock of SQLite"
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene<Dev>) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let before = scene.fleet.process().rss_kib();
            let file = scene.fleet.data().join(FILE);
            anyhow::ensure!(file.is_file(), "{} is not there", file.display());
            let options = SqliteConnectOptions::new().filename(file).busy_timeout(LOCKED_MAX);
            let mut other = options.connect().await?;
            sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.context("the lock")?;
            scene.history.fault(Fault::Frozen { process: ledger::NAME.into() });
            scene.say("the ledger is locked");
            tokio::time::sleep(Duration::from_secs(scene.form.pick(5, 15))).await;
            scene.history.fault(Fault::Thawed { process: ledger::NAME.into() });
            sqlx::query("ROLLBACK").execute(&mut other).await?;
            let after = scene.fleet.process().rss_kib();
            let growth = after.zip(before).map(|(after, before)| after.saturating_sub(before));
            other.close().await?;
            scene.figures.push(ledger::growth(growth));
            Ok(())
        })
    }

    fn figures(&self, _scene: &Scene<Dev>, seen: &Seen<'_>) -> Vec<Figure> {
        ledger::stalled(seen)
    }
}
