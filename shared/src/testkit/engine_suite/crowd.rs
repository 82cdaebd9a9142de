//! Room: what groups may have of it, and how they get more.

use super::*;
use crate::engine::Refused;
use crate::engine::flow::{Flow, Group, Keys};
use crate::engine::{PushOrigin, Validity};

const ROOM: u64 = 10;

/// A shard with room for ten.
async fn tight(rig: &Rig) {
    rig.configure(ShardSettings { version: 1, jobs_max: ROOM, ..ShardSettings::default() }).await;
}

/// The `n`-th job, of this tenant.
async fn of(rig: &Rig, n: u8, tenant: &str) -> Push {
    let keys = Keys { share: Some(tenant), ..Keys::default() };
    Push { flow: Flow::new(&kind("plain"), keys), ..rig.job(n).await }
}

fn group(job: &Push) -> Group {
    Group::of(job.flow.as_ref())
}

/// Pushes jobs of a tenant, from the `first` on, until one is refused; how many got in.
async fn crowd(rig: &Rig, first: u8, tenant: &str) -> u8 {
    for n in 0..20 {
        match rig.push(&[of(rig, first + n, tenant).await]).await[..] {
            [Pushed::Added] => {}
            [Pushed::Crowded] => return n,
            ref other => panic!("{other:?}"),
        }
    }
    panic!("a tenant takes all room");
}

/// How many groups are noted.
async fn noted(rig: &Rig) -> u64 {
    rig.engine.stats(&rig.shard).await.unwrap().refused
}

async fn refused(rig: &Rig) -> Vec<Refused> {
    rig.engine.refused(&rig.shard, 9).await.unwrap()
}

/// Four fifths; what is left is for others, of which each has its part again.
pub async fn one_group_leaves_room_for_others(rig: &Rig) {
    tight(rig).await;
    assert_eq!(crowd(rig, 0, "large").await, 8);
    assert_eq!(rig.push(&[of(rig, 30, "small").await]).await, [Pushed::Added]);
    assert_eq!(rig.push(&[rig.job(40).await]).await, [Pushed::Added], "of those without keys");
    let late = [of(rig, 31, "small").await, of(rig, 50, "last").await, rig.job(41).await];
    assert_eq!(rig.push(&late).await, [Pushed::Crowded; 3], "there is no place left");
}

/// In one call as in several: with jobs that come in, go for later, and are replaced in it.
pub async fn a_call_counts_what_it_lets_in(rig: &Rig) {
    let mut jobs = Vec::new();
    for n in 0..10 {
        jobs.push(rig.job(n).await);
    }
    counts_what_it_lets_in(rig, &jobs).await;
}

/// The same of a tenant.
pub async fn a_call_counts_what_it_lets_in_of_a_tenant(rig: &Rig) {
    let mut jobs = Vec::new();
    for n in 0..10 {
        jobs.push(of(rig, n, "large").await);
    }
    counts_what_it_lets_in(rig, &jobs).await;
}

async fn counts_what_it_lets_in(rig: &Rig, jobs: &[Push]) {
    tight(rig).await;
    let mut expected = vec![Pushed::Added; 8];
    expected.push(Pushed::Crowded);
    assert_eq!(rig.push(&jobs[..9]).await, expected);
    let later =
        Push { fence: Fence(2), run_at: rig.now().await.plus(ms(1_000)), ..jobs[0].clone() };
    let jobs = [jobs[9].clone(), later, jobs[8].clone(), jobs[9].clone()];
    let expected = [Pushed::Crowded, Pushed::Added, Pushed::Added, Pushed::Crowded];
    assert_eq!(rig.push(&jobs).await, expected);
}

/// Running ones use places, and are not in anybody's way: with them there is less of a group that waits.
pub async fn what_runs_is_not_what_waits(rig: &Rig) {
    tight(rig).await;
    assert_eq!(crowd(rig, 0, "large").await, 8);
    assert_eq!(rig.claim(2).await.len(), 2);
    assert_eq!(crowd(rig, 20, "large").await, 1, "seven wait, and one place is free");
    assert_eq!(rig.push(&[of(rig, 30, "small").await]).await, [Pushed::Added]);
}

/// Jobs of a kind that is limited and without keys are one group with all others without keys.
pub async fn jobs_without_keys_are_one_group(rig: &Rig) {
    let mut settings = ShardSettings { version: 1, jobs_max: ROOM, ..ShardSettings::default() };
    let limits = crate::engine::flow::Limits { concurrency: Some(1), rate: None };
    settings.flow.kinds.insert(kind("limited"), limits);
    rig.configure(settings).await;
    let limited = async |n| Push { kind: kind("limited"), ..rig.job(n).await };
    let mut jobs = Vec::new();
    for n in 0..4 {
        jobs.extend([limited(n).await, rig.job(10 + n).await]);
    }
    assert_eq!(rig.push(&jobs).await, [Pushed::Added; 8]);
    assert_eq!(rig.push(&[limited(5).await, rig.job(15).await]).await, [Pushed::Crowded; 2]);
    assert_eq!(rig.push(&[of(rig, 30, "small").await]).await, [Pushed::Added]);
    let given = rig.claim(9).await;
    assert_eq!(given.len(), 6, "one of the limited ones");
    for (held, _) in given {
        rig.settle(held, Verdict::Succeeded).await;
    }
    rig.confirm_all().await;
    let told = refused(rig).await;
    assert_eq!(told.iter().map(|it| it.group).collect::<Vec<_>>(), [Group::UNKEYED]);
}

/// Noted until somebody has looked for the rest, and has room once enough of it is gone.
pub async fn a_refused_group_has_room_again(rig: &Rig) {
    tight(rig).await;
    let large = group(&of(rig, 0, "large").await);
    let told = |has_room| vec![Refused { group: large, has_room }];
    assert_eq!((noted(rig).await, refused(rig).await), (0, Vec::new()));
    assert_eq!(crowd(rig, 0, "large").await, 8);
    assert_eq!((noted(rig).await, refused(rig).await), (1, told(false)));
    for (held, _) in rig.claim(2).await {
        rig.settle(held, Verdict::Succeeded).await;
    }
    assert_eq!(refused(rig).await, told(false), "what is not recorded takes its place still");
    rig.confirm_all().await;
    assert_eq!(refused(rig).await, told(true));
    assert_eq!(crowd(rig, 20, "large").await, 2);
    assert_eq!(refused(rig).await, told(false));
    rig.engine.refilled(&rig.shard, &[large]).await.unwrap();
    assert_eq!((noted(rig).await, refused(rig).await), (0, Vec::new()));
}

/// Those that were committed a moment ago pass none of their group that wait in the ledger.
pub async fn fresh_jobs_wait_behind_those_in_the_ledger(rig: &Rig) {
    tight(rig).await;
    let fresh = async |job: Push| {
        let not_after = rig.now().await.plus(PUSH_WINDOW);
        let valid = Validity { origin: PushOrigin::Fresh, ..until(not_after) };
        rig.engine.push(&rig.shard, &[job], &valid).await.unwrap().pushed[0]
    };
    assert_eq!(crowd(rig, 0, "large").await, 8);
    for (held, _) in rig.claim(4).await {
        rig.settle(held, Verdict::Succeeded).await;
    }
    rig.confirm_all().await;
    assert_eq!(fresh(of(rig, 20, "large").await).await, Pushed::Crowded, "though there is room");
    assert_eq!(fresh(of(rig, 30, "small").await).await, Pushed::Added);
    assert_eq!(rig.push(&[of(rig, 8, "large").await]).await, [Pushed::Added], "from the ledger");
    let large = group(&of(rig, 0, "large").await);
    rig.engine.refilled(&rig.shard, &[large]).await.unwrap();
    assert_eq!(fresh(of(rig, 20, "large").await).await, Pushed::Added);
}

/// Those first that were refused longest ago, and no more than asked for.
pub async fn refused_groups_come_in_turn(rig: &Rig) {
    tight(rig).await;
    assert_eq!(crowd(rig, 0, "large").await, 8);
    let mut expected = vec![group(&of(rig, 0, "large").await)];
    let pushed = rig.push(&[of(rig, 30, "a").await, of(rig, 31, "b").await]).await;
    assert_eq!(pushed, [Pushed::Added; 2]);
    for (n, tenant) in (40..).zip(["c", "a", "b"]) {
        rig.advance(ms(1)).await;
        let job = of(rig, n, tenant).await;
        assert_eq!(rig.push(std::slice::from_ref(&job)).await, [Pushed::Crowded]);
        expected.push(group(&job));
    }
    let told: Vec<Group> = refused(rig).await.iter().map(|it| it.group).collect();
    assert_eq!(told, expected);
    let first = rig.engine.refused(&rig.shard, 2).await.unwrap();
    assert_eq!(first.iter().map(|it| it.group).collect::<Vec<_>>(), expected[..2]);
}
