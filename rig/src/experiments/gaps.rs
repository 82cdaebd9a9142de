//! Times without a claim: who is deaf after the engine moved, and for how long a queue stood still.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::check::{Execution, Index};
use crate::effects::{Effect, Follower};
use crate::history::{Call, Fault};
use crate::runner::{Scene, Seen};
use crate::stamp::Stamp;
use crate::until::until_seldom;

/// The longest gap that is allowed while a server is replaced: part 3B.
pub(super) const GAP_MAX_S: f64 = 15.0;
/// Longest wait for claims. What has not claimed by then shows in the figures.
const CLAIMS_MAX: Duration = Duration::from_secs(45);

/// Waits until each of these has claimed after `since`; whether all have. `of` names who or what claimed.
pub(super) async fn all_claim(
    scene: &Scene,
    since: Stamp,
    wanted: &[String],
    of: impl Fn(&Effect) -> &str,
) -> bool {
    // What was claimed since may be on record already.
    let mut seen = BTreeSet::new();
    let mut follower = Follower::from_start(&scene.fleet.effects());
    let claimed = until_seldom(CLAIMS_MAX, || {
        for effect in follower.more().unwrap_or_default() {
            if claimed_us(effect.fence) > since.wall_us {
                seen.insert(of(&effect).to_owned());
            }
        }
        let all = wanted.iter().all(|name| seen.contains(name));
        async move { all.then_some(()) }
    });
    claimed.await.is_ok()
}

/// From `since` to the first claim after it by whoever `of` chooses; `None`: there is none before `until`.
pub(super) fn to_first_claim(
    index: &Index<'_>,
    since: Stamp,
    until: Option<Stamp>,
    of: impl Fn(&Execution) -> bool,
) -> Option<f64> {
    let claims = index.executions.iter().filter(|execution| of(execution));
    let claims = claims.map(|execution| claimed_us(execution.fence));
    let first = claims.filter(|claim| *claim > since.wall_us).min()?;
    let in_time = until.is_none_or(|until| first < until.wall_us);
    in_time.then_some((first - since.wall_us) as f64 / 1e6)
}

/// The longest time without a claim between two instants, in seconds, among what `of` chooses.
pub(super) fn longest(
    index: &Index<'_>,
    from: Stamp,
    to: Stamp,
    of: impl Fn(&Execution) -> bool,
) -> f64 {
    let claims = index.executions.iter().filter(|execution| of(execution));
    let claims = claims.map(|execution| claimed_us(execution.fence));
    let within = claims.filter(|claim| from.wall_us < *claim && *claim < to.wall_us);
    let mut points: Vec<i64> = within.chain([from.wall_us, to.wall_us]).collect();
    points.sort_unstable();
    let gaps = points.windows(2).map(|pair| pair[1] - pair[0]);
    gaps.max().unwrap_or_default() as f64 / 1e6
}

/// The claim's instant, of which a fence is made.
fn claimed_us(fence: u64) -> i64 {
    i64::try_from(fence).unwrap_or(i64::MAX)
}

/// When the rig did such things.
pub(super) fn faults(seen: &Seen<'_>, of: impl Fn(&Fault) -> bool) -> Vec<Stamp> {
    let history = seen.evidence.history.iter();
    let found = history.filter(|event| matches!(&event.call, Call::Fault(fault) if of(fault)));
    found.map(|event| event.at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Evidence;

    fn at(second: i64) -> Stamp {
        Stamp { boot_us: 0, wall_us: second * 1_000_000 }
    }

    /// Claims at these seconds.
    fn evidence(claims: &[i64]) -> Evidence {
        let effect = |second: &i64| Effect {
            phase: crate::effects::Phase::Start,
            job: format!("j{second}"),
            fence: (second * 1_000_000).unsigned_abs(),
            worker: "w".into(),
            attempt: 1,
            kind: "k".into(),
            queue: "q".into(),
            step: None,
            started: at(*second),
            at: at(*second),
            end: None,
        };
        Evidence { effects: claims.iter().map(effect).collect(), ..Evidence::default() }
    }

    #[test]
    fn a_gap_reaches_to_both_ends() {
        let evidence = evidence(&[5, 11, 12, 20]);
        let index = Index::new(&evidence);
        let longest = |from, to| longest(&index, at(from), at(to), |_| true);
        assert_eq!(longest(10, 13), 1.0);
        assert_eq!(longest(10, 19), 7.0, "nothing came after the last one");
        assert_eq!(longest(6, 13), 5.0, "nothing came before the first one");
        assert_eq!(longest(13, 19), 6.0, "nothing came at all");
    }

    #[test]
    fn who_claims_only_after_the_next_fault_is_deaf() {
        let evidence = evidence(&[5, 11]);
        let index = Index::new(&evidence);
        let first = |since, until: Option<i64>| {
            to_first_claim(&index, at(since), until.map(at), |execution| execution.worker == "w")
        };
        assert_eq!(first(6, None), Some(5.0));
        assert_eq!(first(6, Some(12)), Some(5.0));
        assert_eq!(first(6, Some(10)), None);
        assert_eq!(first(11, None), None);
        assert_eq!(to_first_claim(&index, at(6), None, |e| e.worker == "other"), None);
    }
}
