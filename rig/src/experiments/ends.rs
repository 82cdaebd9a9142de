//! Waiting for jobs by what their handlers say, which asks nothing of the fleet.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;

use crate::effects::{End, Follower, Phase};
use crate::runner::Scene;
use crate::until::until;

/// Waits until each of these jobs has been executed to a good end.
pub(super) async fn all(scene: &Scene, ids: Vec<String>, longest: Duration) -> anyhow::Result<()> {
    let mut left: BTreeSet<String> = ids.into_iter().collect();
    let mut follower = Follower::from_start(&scene.fleet.effects());
    let ended = until(longest, || {
        for effect in follower.more().unwrap_or_default() {
            if effect.phase == Phase::End && effect.end == Some(End::Ok) {
                left.remove(&effect.job);
            }
        }
        let is_done = left.is_empty();
        async move { is_done.then_some(()) }
    });
    ended.await.context("not all jobs have been executed")
}

/// Waits until so many of these jobs have been begun.
pub(super) async fn begun(
    scene: &Scene,
    ids: Vec<String>,
    enough: usize,
    longest: Duration,
) -> anyhow::Result<()> {
    let ids: BTreeSet<String> = ids.into_iter().collect();
    let mut follower = Follower::from_start(&scene.fleet.effects());
    let mut count = 0;
    let begun = until(longest, || {
        let effects = follower.more().unwrap_or_default();
        count += effects.iter().filter(|e| e.phase == Phase::Start && ids.contains(&e.job)).count();
        let is_enough = count >= enough;
        async move { is_enough.then_some(()) }
    });
    begun.await.context("not enough jobs have begun")
}
