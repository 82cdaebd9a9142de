//! Copies of the disk, as cuts have left it: servers are started on each, and what they hold is compared with what clients
//! had been told.

use std::collections::BTreeSet;
use std::path::Path;

use futures::future::BoxFuture;

use super::Cut;
use crate::figure::{Figure, count};
use crate::fleet::postgres::Postgres;
use crate::fleet::redis::{Fsync, Place, Redis};
use crate::history::{self, Call, Event, Phase};
use crate::runner::Scene;
use crate::target::Target;

/// What the copies showed.
#[derive(Debug, Default)]
struct Sum {
    acknowledged: usize,
    lost: usize,
    dead: usize,
    /// Copies whose append-only file had to be cut back.
    cut_back: usize,
}

/// Looks at every copy, one after the other, and drops it.
/// `held` starts servers on a copy, with their logs in the other folder.
pub(crate) async fn look_at_all<T: Target>(
    scene: &mut Scene<T>,
    held: for<'a> fn(&'a Path, &'a Path) -> BoxFuture<'a, anyhow::Result<Held>>,
) -> anyhow::Result<()> {
    let folder = scene.fleet.folder().to_owned();
    scene.history.flush()?;
    let history = history::read(&folder.join("history.jsonl"))?;
    let mut sum = Sum::default();
    for (n, cut) in std::mem::take(&mut scene.cuts).into_iter().enumerate() {
        let before = acknowledged_before(&history, &cut);
        let logs = folder.join(format!("copy-{n}"));
        std::fs::create_dir_all(&logs)?;
        sum.acknowledged += before.len();
        match held(cut.left.data(), &logs).await {
            Ok(Held { ids: held, was_cut_back }) => {
                sum.cut_back += usize::from(was_cut_back);
                let lost: Vec<&&str> = before.iter().filter(|id| !held.contains(**id)).collect();
                let (all, gone) = (before.len(), lost.len());
                scene.say(&format!("copy {n}: {all} acknowledged, {gone} of them not there"));
                if let Some(first) = lost.first() {
                    scene.say(&format!("  such as {first}"));
                }
                sum.lost += gone;
            }
            Err(error) => {
                scene.say(&format!("copy {n}: {error:#}"));
                sum.dead += 1;
            }
        }
    }
    scene.figures.extend([
        Figure::at_least("acknowledged before cuts, summed", count(sum.acknowledged), "", 1.0),
        Figure::at_most("of them not on the copy", count(sum.lost), "", 0.0),
        Figure::at_most("copies that servers did not start on", count(sum.dead), "", 0.0),
        Figure::told("copies whose Redis log was cut back", count(sum.cut_back), ""),
    ]);
    Ok(())
}

/// Jobs and runs whose acceptance a client had read before the cut began.
fn acknowledged_before<'a>(history: &'a [Event], cut: &Cut) -> BTreeSet<&'a str> {
    let before = history.iter().filter(|event| event.at < cut.at && event.phase == Phase::Ok);
    let submitted = before.filter(|event| matches!(event.call, Call::Submit { .. }));
    submitted.filter_map(|event| event.reply.as_ref()?.id.as_deref()).collect()
}

/// What a copy holds.
pub(crate) struct Held {
    /// Jobs and runs.
    pub(crate) ids: BTreeSet<String>,
    /// The append-only file of Redis had to be cut back.
    pub(crate) was_cut_back: bool,
}

/// Starts both servers on a copy and asks the ledger for all jobs and runs that it has.
pub(crate) async fn held(data: &Path, logs: &Path) -> anyhow::Result<Held> {
    let place = Place { log: logs.join("redis.log"), ..Place::of("redis", data) };
    let redis = Redis::start_at(place, Fsync::EverySecond, &[]).await?;
    let mut postgres = Postgres::open(&data.join("postgres"), &logs.join("postgres.log")).await?;
    let ids = postgres.sql("SELECT id FROM jobs UNION ALL SELECT id FROM workflows")?;
    let was_cut_back = redis.cuts_back()? > 0;
    // Both end, children included, before the disk goes.
    drop(redis);
    postgres.stop_immediately()?;
    Ok(Held { ids: ids.lines().map(str::to_owned).collect(), was_cut_back })
}
