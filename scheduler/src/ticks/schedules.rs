//! Fires what schedules have due, and notes how the work of their fires ended.
//!
//! Every replica may: of two that decide over one due time the ledger refuses one. So that they don't meet all the time,
//! those that don't lead leave a due time alone until it is late, as it is when the leader has died or stands still.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use windlass_shared::ledger::schedules::{OpenCursor, SchedulesDue};
use windlass_shared::lifecycle::Lifecycle;

use super::Tally;
use crate::leader::Lead;
use crate::ticker::every;

/// How often due times are looked for. What comes due before the next look is waited for, so that it is not late by it.
const INTERVAL: Duration = Duration::from_millis(250);
/// Longest wait for what comes due soon: a little more than the longest interval.
const AHEAD: Duration = Duration::from_millis(300);
/// A due time that is older than this is anybody's.
const LEADERS_ONLY: Duration = Duration::from_secs(2);
/// Schedules of one look, and of them at once.
const PAGE: u32 = 200;
const AT_ONCE: usize = 8;
/// How often open fires are walked over, and how many of them at a time.
const WALK_EVERY: Duration = Duration::from_secs(1);
const WALK_PAGE: u32 = 1_000;

/// Where the walk over open fires is.
#[derive(Default)]
struct Walk {
    at: Option<OpenCursor>,
    last: Option<tokio::time::Instant>,
}

pub(super) async fn run(life: Lifecycle, lead: Lead, shutdown: CancellationToken) {
    let walk = Arc::new(Mutex::new(Walk::default()));
    every("schedules", INTERVAL, shutdown, || {
        let (life, lead, walk) = (life.clone(), lead.clone(), walk.clone());
        async move {
            walk_on(&life, &lead, &mut *walk.lock().await).await?;
            let mut fired = Tally::default();
            let found = life.ledger().schedules_due(PAGE).await?;
            fire(&life, &lead, &found, &mut fired).await;
            if let Some(wait) = soon(&found) {
                tokio::time::sleep(wait).await;
                let found = life.ledger().schedules_due(PAGE).await?;
                fire(&life, &lead, &found, &mut fired).await;
            }
            fired.end()
        }
    })
    .await;
}

/// How long until the next due time, where that is before the next look.
fn soon(found: &SchedulesDue) -> Option<Duration> {
    let wait = found.next?.since(found.now);
    (wait <= AHEAD).then_some(wait)
}

async fn fire(life: &Lifecycle, lead: &Lead, found: &SchedulesDue, fired: &mut Tally) {
    let late = found.now.minus(LEADERS_ONLY);
    let leads = lead.epoch().is_some();
    let ours = found.due.iter().filter(|(.., look_at)| leads || *look_at < late);
    let looks = ours.map(|(namespace, name, _)| {
        let (life, namespace, name) = (life.clone(), namespace.clone(), name.clone());
        async move {
            let result = life.look_at_schedule(&namespace, &name).await;
            if let Err(error) = &result {
                tracing::debug!(schedule = %name, %namespace, %error, "a schedule could not be looked at now");
            }
            result
        }
    });
    let looks: Vec<_> = looks.collect();
    let results: Vec<_> = stream::iter(looks).buffer_unordered(AT_ONCE).collect().await;
    results.into_iter().for_each(|result| fired.add(result));
}

/// One step of the walk over open fires. Leader only, for economy: a new leader goes on within seconds.
async fn walk_on(life: &Lifecycle, lead: &Lead, walk: &mut Walk) -> anyhow::Result<()> {
    if lead.epoch().is_none() || walk.last.is_some_and(|last| last.elapsed() < WALK_EVERY) {
        return Ok(());
    }
    walk.at = life.ledger().note_ended_fires(walk.at, WALK_PAGE).await?;
    walk.last = Some(tokio::time::Instant::now());
    Ok(())
}
