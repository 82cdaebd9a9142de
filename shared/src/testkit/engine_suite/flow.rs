//! Limits and shares.

use super::*;
use crate::engine::flow::{Flow, FlowKey, FlowSettings, Keys, Limits, Rate, RetryBudget};
use crate::engine::{ClaimState, Signal, Topic};

/// The `n`-th job, with keys.
async fn keyed(rig: &Rig, n: u8, keys: Keys<'_>) -> Push {
    Push { flow: Flow::new(&kind("plain"), keys), ..rig.job(n).await }
}

async fn push_keyed(rig: &Rig, jobs: &[(u8, Keys<'_>)]) {
    let mut pushes = Vec::new();
    for (n, keys) in jobs {
        pushes.push(keyed(rig, *n, *keys).await);
    }
    assert_eq!(rig.push(&pushes).await, vec![Pushed::Added; pushes.len()]);
}

fn of(concurrency: &str) -> Keys<'_> {
    Keys { concurrency: Some(concurrency), ..Keys::default() }
}

fn shared(share: &str) -> Keys<'_> {
    Keys { share: Some(share), ..Keys::default() }
}

fn rated(rate: &str, units: u32) -> Keys<'_> {
    Keys { rate: Some(rate), units, ..Keys::default() }
}

/// What is given, in the order of ids: among shares nobody is first.
async fn sorted(rig: &Rig, max: u32) -> Vec<JobId> {
    let mut given = rig.claim_ids(max).await;
    given.sort_unstable();
    given
}

async fn limit(rig: &Rig, version: u64, flow: FlowSettings) {
    let settings = ShardSettings { version, flow, ..ShardSettings::default() };
    assert!(rig.configure(settings).await);
}

/// Ends an attempt well, and records it: outcomes that pile up hold leases back.
async fn end(rig: &Rig, held: Held) {
    assert_eq!(rig.settle(held, Verdict::Succeeded).await, Settled::Settled);
    rig.confirm_all().await;
}

const fn running(concurrency: u32) -> Limits {
    Limits { concurrency: Some(concurrency), rate: None }
}

/// One unit a second.
const fn a_second(burst: u32) -> Limits {
    Limits { concurrency: None, rate: Some(Rate { interval_us: 1_000_000, burst }) }
}

fn keys(keys: Limits) -> FlowSettings {
    FlowSettings { keys, ..FlowSettings::default() }
}

/// Whoever has a key that is used up waits; nobody else does.
pub async fn a_full_key_holds_back_its_own_jobs_only(rig: &Rig) {
    limit(rig, 1, keys(running(1))).await;
    push_keyed(rig, &[(0, of("a")), (1, of("a")), (2, of("b")), (3, of("a"))]).await;
    rig.push(&[rig.job(4).await]).await;
    let mut given = rig.claim(9).await;
    given.sort_by_key(|(held, _)| held.id);
    assert_eq!(given.iter().map(|(held, _)| held.id).collect::<Vec<_>>(), [id(0), id(2), id(4)]);
    assert_eq!(rig.claim_ids(9).await, []);
    assert_eq!(rig.settle(given[0].0, Verdict::Succeeded).await, Settled::Settled);
    assert_eq!(rig.claim_ids(9).await, [id(1)], "in order");
    assert_eq!(rig.settle(given[1].0, Verdict::Succeeded).await, Settled::Settled);
    assert_eq!(rig.claim_ids(9).await, [], "it was another key");
}

/// However a lease ends, its place is free.
pub async fn a_permit_comes_back_however_its_lease_ends(rig: &Rig) {
    limit(rig, 1, keys(running(1))).await;
    let jobs: Vec<_> = (0..8).map(|n| (n, of("a"))).collect();
    push_keyed(rig, &jobs).await;
    for verdict in [
        Verdict::Succeeded,
        Verdict::Dead,
        Verdict::Cancelled,
        Verdict::Retry { delay: ms(3_600_000) },
        Verdict::Snooze { delay: ms(3_600_000) },
    ] {
        let (held, _) = rig.claim_one().await;
        assert_eq!(rig.claim_ids(9).await, []);
        assert_eq!(rig.settle(held, verdict).await, Settled::Settled);
    }
    let (held, _) = rig.claim_one().await;
    rig.settle(held, Verdict::Release).await;
    assert_eq!(rig.claim_ids(9).await, [held.id], "a job that goes back is the first again");
    assert_eq!(rig.lose_leases().await, 1);
    let (held, job) = rig.claim_one().await;
    assert_eq!((held.id, job.crashes), (id(5), 1));
    let dropped = rig.engine.drop_jobs(&rig.shard, &[(held.id, held.fence)], false).await.unwrap();
    assert_eq!(dropped, [true]);
    let (held, _) = rig.claim_one().await;
    let newer = Push { fence: Fence(held.fence.0 + 9), ..keyed(rig, 6, of("a")).await };
    assert_eq!((held.id, rig.push(&[newer]).await), (id(6), vec![Pushed::Added]));
    assert_eq!(rig.claim_ids(9).await, [id(7)], "it was replaced, and waits behind");
}

/// What waits behind a job that is taken out comes next.
pub async fn a_lane_goes_on_without_its_first_job(rig: &Rig) {
    limit(rig, 1, keys(running(1))).await;
    push_keyed(rig, &[(0, of("a")), (1, of("a")), (2, of("a"))]).await;
    let (held, _) = rig.claim_one().await;
    assert_eq!(rig.state(2).await, Some(LiveState::Ready { ahead: 1 }));
    let cancel = [(id(1), Fence(1))];
    rig.engine.cancel(&rig.shard, &cancel, crate::engine::Withdraw::StopRunning).await.unwrap();
    assert_eq!(rig.state(2).await, Some(LiveState::Ready { ahead: 0 }));
    assert_eq!(rig.claim_ids(9).await, []);
    rig.settle(held, Verdict::Succeeded).await;
    assert_eq!(rig.claim_ids(9).await, [id(2)]);
}

/// Limits change at once, either way; what runs goes on.
pub async fn a_limit_changes_for_those_that_wait(rig: &Rig) {
    limit(rig, 1, keys(running(1))).await;
    let jobs: Vec<_> = (0..6).map(|n| (n, of("a"))).collect();
    push_keyed(rig, &jobs).await;
    assert_eq!(rig.claim_ids(9).await.len(), 1);
    limit(rig, 2, keys(running(3))).await;
    let held = rig.claim(9).await;
    assert_eq!(held.len(), 2);
    limit(rig, 3, keys(running(2))).await;
    rig.settle(held[0].0, Verdict::Succeeded).await;
    assert_eq!(rig.claim_ids(9).await, [], "two still run");
    limit(rig, 4, FlowSettings::default()).await;
    assert_eq!(rig.claim_ids(9).await.len(), 3);
}

/// A kind may be limited while its jobs, which have no keys, wait and run.
pub async fn a_kind_is_limited_among_others(rig: &Rig) {
    rig.open().await;
    let mut jobs = Vec::new();
    for n in 0..6 {
        let name = if n < 4 { "plain" } else { "other" };
        jobs.push(Push { kind: kind(name), ..rig.job(n).await });
    }
    rig.push(&jobs).await;
    let (held, _) = rig.claim_one().await;
    assert_eq!(held.id, id(0));
    let kinds = [(kind("plain"), running(2))].into();
    limit(rig, 2, FlowSettings { kinds, ..FlowSettings::default() }).await;
    assert_eq!(sorted(rig, 9).await, [id(1), id(4), id(5)], "one runs already");
    assert_eq!(rig.claim_ids(9).await, []);
    rig.settle(held, Verdict::Succeeded).await;
    assert_eq!(rig.claim_ids(9).await, [id(2)]);
    limit(rig, 3, FlowSettings::default()).await;
    assert_eq!(rig.claim_ids(9).await, [id(3)]);
}

/// A rate per key, with its burst to begin with.
pub async fn a_rate_is_kept_by_each_key(rig: &Rig) {
    limit(rig, 1, keys(a_second(2))).await;
    let jobs: Vec<_> = (0..9).map(|n| (n, rated(if n < 7 { "a" } else { "b" }, 1))).collect();
    push_keyed(rig, &jobs).await;
    assert_eq!(sorted(rig, 9).await, [id(0), id(1), id(7), id(8)]);
    let started = rig.now().await;
    let reply = rig.claim_as(&rig.request(9)).await;
    assert_eq!((reply.jobs.len(), reply.next_due), (0, Some(started.plus(ms(1_000)))));
    rig.advance(ms(999)).await;
    assert_eq!(rig.claim_ids(9).await, []);
    rig.advance(ms(1)).await;
    assert_eq!(rig.claim_ids(9).await, [id(2)]);
    assert_eq!(rig.claim_ids(9).await, []);
    rig.advance(ms(10_000)).await;
    assert_eq!(rig.claim_ids(9).await, [id(3), id(4)], "no more than a burst is saved up");
    rig.advance(ms(1_000)).await;
    assert_eq!(rig.claim_ids(9).await, [id(5)]);
}

/// Whoever opens a shard after a loss cannot know what started just before: its bursts are used up, also where the
/// store still knows something that may be old.
pub async fn a_loss_uses_up_the_bursts(rig: &Rig) {
    limit(rig, 1, keys(a_second(3))).await;
    let jobs: Vec<_> = (0..9).map(|n| (n, rated(if n < 6 { "a" } else { "b" }, 1))).collect();
    push_keyed(rig, &jobs).await;
    assert_eq!(rig.claim_ids(1).await.len(), 1);
    rig.shut(2).await;
    let settings =
        ShardSettings { version: 1, flow: keys(a_second(3)), ..ShardSettings::default() };
    let opening = Opening { ramp: ms(1), slots: 100, ..rig.opening(2, settings).await };
    assert_eq!(rig.open_gate(&opening).await, Opened::Open);
    rig.advance(ms(999)).await;
    assert_eq!(rig.claim_ids(9).await, []);
    rig.advance(ms(1)).await;
    assert_eq!(rig.claim_ids(9).await.len(), 2, "one of each");
    assert_eq!(rig.claim_ids(9).await, []);
}

/// A start may cost more than one unit, and never more than the burst.
pub async fn a_start_costs_its_units(rig: &Rig) {
    limit(rig, 1, keys(a_second(4))).await;
    push_keyed(rig, &[(0, rated("a", 3)), (1, rated("a", 2)), (2, rated("a", 99))]).await;
    rig.advance(ms(60_000)).await;
    assert_eq!(rig.claim_ids(9).await, [id(0)]);
    rig.advance(ms(1_000)).await;
    assert_eq!(rig.claim_ids(9).await, [id(1)]);
    rig.advance(ms(3_999)).await;
    assert_eq!(rig.claim_ids(9).await, []);
    rig.advance(ms(1)).await;
    assert_eq!(rig.claim_ids(9).await, [id(2)]);
}

/// The queue's own limits hold everybody back.
pub async fn a_queue_is_limited_as_a_whole(rig: &Rig) {
    let queue = running(2);
    limit(rig, 1, FlowSettings { queue, ..FlowSettings::default() }).await;
    push_keyed(rig, &[(0, of("a")), (1, of("b"))]).await;
    rig.push(&[rig.job(2).await, rig.job(3).await]).await;
    let given = rig.claim(9).await;
    assert_eq!(given.len(), 2);
    assert_eq!(rig.claim_as(&rig.request(9)).await.state, ClaimState::Limited);
    rig.settle(given[0].0, Verdict::Succeeded).await;
    assert_eq!(rig.claim_ids(9).await.len(), 1);

    let queue = a_second(1);
    limit(rig, 2, FlowSettings { queue, ..FlowSettings::default() }).await;
    rig.advance(ms(10_000)).await;
    rig.push(&[rig.job(4).await]).await;
    assert_eq!(rig.claim_ids(9).await.len(), 1);
    let reply = rig.claim_as(&rig.request(9)).await;
    let next = reply.now.plus(ms(1_000));
    assert_eq!((reply.state, reply.next_due), (ClaimState::Limited, Some(next)));
    rig.advance(ms(1_000)).await;
    assert_eq!(rig.claim_ids(9).await.len(), 1);
}

/// However many jobs one has, the other's turn comes; weights count.
pub async fn shares_take_turns(rig: &Rig) {
    let weights = [(FlowKey::of("heavy"), 3)].into();
    limit(rig, 1, FlowSettings { weights, ..FlowSettings::default() }).await;
    let jobs: Vec<_> = (0..30).map(|n| (n, shared("many"))).collect();
    push_keyed(rig, &jobs).await;
    rig.advance(ms(1)).await;
    push_keyed(rig, &[(40, shared("few")), (41, shared("few"))]).await;
    rig.push(&[rig.job(50).await]).await;
    let given = rig.claim_ids(6).await;
    assert!(given.contains(&id(40)) && given.contains(&id(41)), "{given:?}");
    assert!(given.contains(&id(50)), "jobs without keys are one share: {given:?}");

    let jobs: Vec<_> = (60..90).map(|n| (n, shared("heavy"))).collect();
    push_keyed(rig, &jobs).await;
    let given = rig.claim_ids(8).await;
    let heavy = given.iter().filter(|given| **given >= id(60)).count();
    assert_eq!(heavy, 6, "three times as much: {given:?}");
}

/// A share that holds slots for long is charged as time passes.
pub async fn a_share_pays_for_the_time_that_it_takes(rig: &Rig) {
    rig.open().await;
    let jobs: Vec<_> = (0..20).map(|n| (n, shared("long"))).collect();
    push_keyed(rig, &jobs).await;
    let jobs: Vec<_> = (20..60).map(|n| (n, shared("short"))).collect();
    push_keyed(rig, &jobs).await;
    // Both begin alike: nobody knows what theirs cost.
    let given = rig.claim(4).await;
    let mut long: Vec<Held> =
        given.iter().map(|(held, _)| *held).filter(|held| held.id < id(20)).collect();
    assert_eq!(long.len(), 2);
    let mut short: Vec<Held> =
        given.iter().map(|(held, _)| *held).filter(|held| held.id >= id(20)).collect();
    // Short ones end after 100 ms, long ones do not; every slot that is free is given anew.
    for _ in 0..19 {
        rig.advance(ms(100)).await;
        for held in std::mem::take(&mut short) {
            end(rig, held).await;
        }
        for held in &long {
            rig.extend(*held, LEASE).await;
        }
        for (held, _) in rig.claim(4 - long.len() as u32).await {
            if held.id < id(20) { long.push(held) } else { short.push(held) }
        }
    }
    // Where both have had as much, either is next.
    assert!((2..=3).contains(&long.len()), "{} of 4 slots", long.len());
}

/// One with jobs of ten minutes beside three with jobs of ten seconds, all of whom always have jobs that wait: an hour and a
/// half later each has had about a quarter of the time of four slots.
pub async fn jobs_of_ten_minutes_take_no_more_than_their_share(rig: &Rig) {
    const STEP: Duration = Duration::from_secs(10);
    const STEPS: u32 = 540;
    /// Steps that a job of each takes.
    const TAKES: [u32; 4] = [60, 1, 1, 1];
    let names = ["slow", "quick-1", "quick-2", "quick-3"];
    rig.open().await;
    let (mut made, mut waiting, mut had) = (0_u32, [0_u32; 4], [0_u32; 4]);
    // Whose each is that runs, and steps left.
    let mut running: Vec<(Held, usize, u32)> = Vec::new();
    for _ in 0..STEPS {
        let mut pushes = Vec::new();
        for (tenant, name) in names.iter().enumerate() {
            while waiting[tenant] < 5 {
                let mut id = [0x70; 16];
                id[2..6].copy_from_slice(&made.to_be_bytes());
                id[15] = u8::try_from(tenant).unwrap();
                pushes
                    .push(Push { id: JobId::from_bytes(id), ..keyed(rig, 0, shared(name)).await });
                (made, waiting[tenant]) = (made + 1, waiting[tenant] + 1);
            }
        }
        rig.push(&pushes).await;
        for (held, _) in rig.claim(4 - u32::try_from(running.len()).unwrap()).await {
            let tenant = usize::from(held.id.as_bytes()[15]);
            waiting[tenant] -= 1;
            running.push((held, tenant, TAKES[tenant]));
        }
        assert_eq!(running.len(), 4, "no slot is empty while jobs wait");
        rig.advance(STEP).await;
        for (held, tenant, left) in std::mem::take(&mut running) {
            had[tenant] += 1;
            if left == 1 {
                end(rig, held).await;
            } else {
                rig.extend(held, LEASE).await;
                running.push((held, tenant, left - 1));
            }
        }
    }
    // A slow one that runs is not stopped: one job is a ninth of a quarter here.
    for (had, name) in had.into_iter().zip(names) {
        let part = f64::from(had) / f64::from(4 * STEPS);
        assert!((0.2..=0.3).contains(&part), "{name}: {part}");
    }
}

/// Whoever waits for a limit is woken when it gives way.
pub async fn a_free_permit_wakes(rig: &Rig) {
    limit(rig, 1, keys(running(1))).await;
    push_keyed(rig, &[(0, of("a")), (1, of("a"))]).await;
    let (held, _) = rig.claim_one().await;
    assert_eq!(rig.claim_ids(1).await, []);
    let shards = [rig.shard.clone()];
    let mut signals = rig.engine.subscribe_to(&shards, &[Topic::Ready]).await.unwrap();
    end(rig, held).await;
    let signal = tokio::time::timeout(Duration::from_secs(10), signals.next()).await;
    assert_eq!(signal.expect("it comes"), Some(Signal::Ready(rig.shard.clone())));
}

/// What a shard has lost and its holder has not counts again.
pub async fn an_adopted_lease_counts(rig: &Rig) {
    limit(rig, 1, keys(running(1))).await;
    push_keyed(rig, &[(0, of("a"))]).await;
    let (held, claimed) = rig.claim_one().await;
    let dropped = rig.engine.drop_jobs(&rig.shard, &[(held.id, held.fence)], false).await.unwrap();
    assert_eq!(dropped, [true]);
    rig.shut(2).await;
    let job = Push { fence: held.fence, ..keyed(rig, 0, of("a")).await };
    let claimed_at = rig.now().await;
    assert_eq!(claimed.fence, held.fence);
    let adoption = crate::engine::Adoption { job, lease_id: held.lease_id, claimed_at };
    let worker = WorkerId::generate();
    rig.engine.adopt(&rig.shard, worker, LEASE, &[adoption]).await.unwrap();
    let settings = ShardSettings { version: 2, flow: keys(running(1)), ..ShardSettings::default() };
    let opening = rig.opening(2, settings).await;
    assert_eq!(rig.open_gate(&opening).await, Opened::Open);
    push_keyed(rig, &[(1, of("a"))]).await;
    assert_eq!(rig.claim_ids(9).await, []);
    end(rig, held).await;
    assert_eq!(rig.claim_ids(9).await, [id(1)]);
}

/// Those that wait for a limit of their kind are next by what their shares have had, not by their age.
pub async fn shares_take_turns_under_a_limit_of_their_kind(rig: &Rig) {
    let kinds = [(kind("plain"), running(1))].into();
    limit(rig, 1, FlowSettings { kinds, ..FlowSettings::default() }).await;
    let jobs: Vec<_> = (0..30).map(|n| (n, shared("many"))).collect();
    push_keyed(rig, &jobs).await;
    rig.advance(ms(1)).await;
    let jobs: Vec<_> = (30..36).map(|n| (n, shared("few"))).collect();
    push_keyed(rig, &jobs).await;
    let mut few = 0;
    for _ in 0..12 {
        let (held, _) = rig.claim_one().await;
        few += u32::from(held.id >= id(30));
        assert_eq!(rig.claim_ids(9).await, []);
        rig.advance(ms(100)).await;
        end(rig, held).await;
    }
    assert!((5..=6).contains(&few), "{few} of 12");
}

/// The same under a rate of their kind.
pub async fn shares_take_turns_under_a_rate_of_their_kind(rig: &Rig) {
    let kinds = [(kind("plain"), a_second(1))].into();
    limit(rig, 1, FlowSettings { kinds, ..FlowSettings::default() }).await;
    let jobs: Vec<_> = (0..30).map(|n| (n, shared("many"))).collect();
    push_keyed(rig, &jobs).await;
    rig.advance(ms(1)).await;
    let jobs: Vec<_> = (30..36).map(|n| (n, shared("few"))).collect();
    push_keyed(rig, &jobs).await;
    let mut few = 0;
    for _ in 0..12 {
        let (held, _) = rig.claim_one().await;
        few += u32::from(held.id >= id(30));
        end(rig, held).await;
        rig.advance(ms(1_000)).await;
    }
    assert!((5..=6).contains(&few), "{few} of 12");
}

/// Lanes of kinds that a worker does not serve are not even looked at.
pub async fn lanes_of_other_kinds_are_in_nobodys_way(rig: &Rig) {
    rig.open().await;
    let mut jobs = Vec::new();
    for n in 0..40 {
        let name = if n < 39 { "other" } else { "plain" };
        let share = format!("share-{n}");
        let flow = Flow::new(&kind(name), shared(&share));
        jobs.push(Push { kind: kind(name), flow, ..rig.job(n).await });
    }
    rig.push(&jobs).await;
    let request = ClaimRequest { kinds: vec![kind("plain")], ..rig.request(1) };
    let reply = rig.claim_as(&request).await;
    assert_eq!(reply.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [id(39)]);
}

/// A claim that has looked at as many lanes as it may says that there is more.
pub async fn a_claim_that_looked_at_enough_asks_again(rig: &Rig) {
    limit(rig, 1, keys(running(1))).await;
    let names: Vec<String> = (0..40).map(|n| format!("key-{n}")).collect();
    for first in [0_u8, 40] {
        let jobs: Vec<_> = (0..40).map(|n| (first + n, of(&names[usize::from(n)]))).collect();
        push_keyed(rig, &jobs).await;
    }
    let mut given = 0;
    for _ in 0..40 {
        let reply = rig.claim_as(&rig.request(9)).await;
        given += reply.jobs.len();
        if reply.jobs.is_empty() && reply.next_due.is_none() {
            break;
        }
    }
    assert_eq!(given, 40, "one of each key");
    limit(rig, 2, keys(running(2))).await;
    for _ in 0..80 {
        let reply = rig.claim_as(&rig.request(9)).await;
        given += reply.jobs.len();
        if reply.jobs.is_empty() && reply.next_due.is_none() {
            break;
        }
    }
    assert_eq!(given, 80);
}

/// Whoever waits for the queue's own limit is woken when it gives way.
pub async fn room_in_a_full_queue_wakes(rig: &Rig) {
    limit(rig, 1, FlowSettings { queue: running(1), ..FlowSettings::default() }).await;
    rig.push(&[rig.job(0).await, rig.job(1).await]).await;
    let (held, _) = rig.claim_one().await;
    assert_eq!(rig.claim_as(&rig.request(1)).await.state, ClaimState::Limited);
    let shards = [rig.shard.clone()];
    let mut signals = rig.engine.subscribe_to(&shards, &[Topic::Ready]).await.unwrap();
    end(rig, held).await;
    let signal = tokio::time::timeout(Duration::from_secs(10), signals.next()).await;
    assert_eq!(signal.expect("it comes"), Some(Signal::Ready(rig.shard.clone())));
}

/// A weight that changes counts from now on: nobody is starved for what was, nor has it saved up anything.
pub async fn a_change_of_weight_is_not_about_the_past(rig: &Rig) {
    rig.open().await;
    let mut jobs: Vec<_> = (0..60).map(|n| (n, shared("a"))).collect();
    jobs.extend((60..120).map(|n| (n, shared("b"))));
    push_keyed(rig, &jobs).await;
    let mut turns = Vec::new();
    for version in [2, 3, 4] {
        let mut of_a = 0;
        for _ in 0..8 {
            let (held, _) = rig.claim_one().await;
            of_a += u32::from(held.id < id(60));
            rig.advance(ms(10_000)).await;
            end(rig, held).await;
        }
        turns.push(of_a);
        let weights =
            if version == 2 { [(FlowKey::of("a"), 3)].into() } else { Default::default() };
        limit(rig, version, FlowSettings { weights, ..FlowSettings::default() }).await;
    }
    assert_eq!(turns[0], 4, "{turns:?}");
    assert!((5..=7).contains(&turns[1]), "{turns:?}");
    assert!((3..=5).contains(&turns[2]), "{turns:?}");
}

/// Jobs without keys save nothing up while none of them waits.
pub async fn jobs_without_keys_are_owed_nothing(rig: &Rig) {
    rig.open().await;
    rig.push(&[rig.job(200).await]).await;
    push_keyed(rig, &[(0, shared("a"))]).await;
    let long = rig.claim(2).await;
    let (long, short) =
        if long[0].0.id == id(200) { (long[0].0, long[1].0) } else { (long[1].0, long[0].0) };
    end(rig, short).await;
    let jobs: Vec<_> = (1..60).map(|n| (n, shared("a"))).collect();
    push_keyed(rig, &jobs).await;
    for _ in 0..20 {
        let held = rig.claim(4).await;
        rig.advance(ms(1_000)).await;
        rig.engine.extend(&rig.shard, &[long], LEASE).await.unwrap();
        for (held, _) in held {
            end(rig, held).await;
        }
    }
    let jobs: Vec<_> = (60..100).map(|n| (n, shared("a"))).collect();
    push_keyed(rig, &jobs).await;
    let mut pushes = Vec::new();
    for n in 100..140 {
        pushes.push(rig.job(n).await);
    }
    rig.push(&pushes).await;
    end(rig, long).await;
    let mut of_a = 0;
    for _ in 0..12 {
        let (held, _) = rig.claim_one().await;
        of_a += u32::from(held.id < id(100));
        rig.advance(ms(1_000)).await;
        end(rig, held).await;
    }
    assert!((4..=9).contains(&of_a), "{of_a} of 12");
}

/// The oldest of what may run is told of lanes too.
pub async fn the_oldest_job_of_a_lane_is_told(rig: &Rig) {
    limit(rig, 1, keys(running(1))).await;
    let pushed = rig.now().await;
    push_keyed(rig, &[(0, of("a")), (1, of("a"))]).await;
    rig.advance(ms(5_000)).await;
    rig.push(&[rig.job(2).await]).await;
    let oldest = rig.engine.stats(&rig.shard).await.unwrap().oldest_ready;
    assert_eq!(oldest, Some(pushed));
    assert_eq!(rig.claim_ids(9).await.len(), 2);
    assert_eq!(rig.engine.stats(&rig.shard).await.unwrap().oldest_ready, None, "a limit holds it");
}

fn budget(percent: u32, seconds: u64, burst: u32) -> FlowSettings {
    let floor = Rate { interval_us: seconds * 1_000_000, burst };
    FlowSettings { retries: Some(RetryBudget::new(percent, floor)), ..FlowSettings::default() }
}

/// One at once, and then one by one; what starts for the first time waits for none of it.
pub async fn retries_keep_to_their_budget(rig: &Rig) {
    limit(rig, 1, budget(0, 1, 1)).await;
    let mut jobs = Vec::new();
    for n in 0..3 {
        jobs.push(rig.job(n).await);
    }
    rig.push(&jobs).await;
    for (held, _) in rig.claim(3).await {
        rig.settle(held, Verdict::Retry { delay: ms(1_000) }).await;
    }
    rig.confirm_all().await;
    rig.advance(ms(1_000)).await;
    assert_eq!(rig.push(&[rig.job(9).await]).await, [Pushed::Added]);
    let mut given = Vec::new();
    for _ in 0..3 {
        given.push(rig.claim_ids(9).await.len());
        rig.advance(ms(999)).await;
        assert_eq!(rig.claim(9).await, [], "not before its time");
        rig.advance(ms(1)).await;
    }
    assert_eq!(given, [2, 1, 1]);
}

/// As many as the budget says, and those first that wait longest; one that is to come again at once waits, too.
pub async fn first_starts_make_room_for_retries(rig: &Rig) {
    limit(rig, 1, budget(100, 4, 1)).await;
    assert_eq!(rig.push(&[rig.job(0).await]).await, [Pushed::Added]);
    let again = Verdict::Retry { delay: Duration::ZERO };
    // One is there at first, and its first start is worth another.
    for _ in 0..3 {
        let (held, _) = rig.claim_one().await;
        rig.settle(held, again).await;
    }
    assert_eq!(rig.state(0).await, Some(LiveState::Delayed), "nothing is left of the budget");
    assert_eq!(rig.claim(9).await, []);
    rig.confirm_all().await;

    assert_eq!(rig.push(&[rig.job(1).await]).await, [Pushed::Added]);
    let (held, _) = rig.claim_one().await;
    assert_eq!(held.id, id(1));
    rig.settle(held, Verdict::Snooze { delay: Duration::ZERO }).await;
    let (held, _) = rig.claim(9).await.into_iter().find(|(held, _)| held.id == id(1)).unwrap();
    rig.settle(held, again).await;
    assert_eq!(
        rig.state(1).await,
        Some(LiveState::Delayed),
        "a start after a snooze is no first one"
    );
    rig.advance(ms(4_000)).await;
    assert_eq!(rig.claim_ids(9).await, [id(1)]);
}

/// Without a budget any number of them may run, also of those that one has put off.
pub async fn a_budget_that_is_taken_away_holds_nothing(rig: &Rig) {
    limit(rig, 1, budget(0, 60, 1)).await;
    let mut jobs = Vec::new();
    for n in 0..3 {
        jobs.push(rig.job(n).await);
    }
    rig.push(&jobs).await;
    for (held, _) in rig.claim(3).await {
        rig.settle(held, Verdict::Retry { delay: ms(1) }).await;
    }
    rig.confirm_all().await;
    rig.advance(ms(1)).await;
    let (held, _) = rig.claim_one().await;
    end(rig, held).await;
    let reply = rig.claim_as(&rig.request(9)).await;
    assert_eq!((reply.jobs, reply.next_due), (Vec::new(), Some(reply.now.plus(ms(60_000)))));
    limit(rig, 2, FlowSettings::default()).await;
    assert_eq!(rig.claim(9).await.len(), 2);
}

/// In a share the first in ready order is next, of whatever kind it is.
pub async fn kinds_of_a_share_are_in_ready_order(rig: &Rig) {
    rig.open().await;
    let of = |name: &str| Flow::new(&kind(name), shared("one"));
    for (n, name) in [(0, "plain"), (1, "other"), (2, "plain"), (3, "other")] {
        let push = Push { kind: kind(name), flow: of(name), ..rig.job(n).await };
        assert_eq!(rig.push(&[push]).await, [Pushed::Added]);
        rig.advance(ms(1)).await;
    }
    for n in 0..4 {
        assert_eq!(rig.claim_ids(1).await, [id(n)]);
    }
}
