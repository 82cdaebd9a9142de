//! push.

use super::*;
use crate::engine::Validity;
use crate::model::id::LedgerId;

/// What was pushed is what a claim gives.
pub async fn a_pushed_job_is_claimable_at_once(rig: &Rig) {
    rig.open().await;
    let now = rig.now().await;
    let job = Push { attempt: 4, crashes: 2, ..rig.job(0).await };
    let reply = rig.engine.push(&rig.shard, std::slice::from_ref(&job), &until(now)).await.unwrap();
    assert_eq!(reply.pushed, [Pushed::Added]);
    assert!(reply.open);
    assert_eq!(reply.now, now);
    let (_, claimed) = rig.claim_one().await;
    assert_eq!(claimed.id, job.id);
    assert_eq!((claimed.attempt, claimed.crashes), (4, 2));
    assert_eq!(claimed.envelope, job.envelope);
}

/// Not a µs early, and at the latest when the next ms begins.
pub async fn a_job_for_later_waits_for_its_time(rig: &Rig) {
    rig.open().await;
    let run_at = rig.now().await.plus(us(2_500));
    assert_eq!(rig.push(&[Push { run_at, ..rig.job(0).await }]).await, [Pushed::Added]);
    assert_eq!(rig.state(0).await, Some(LiveState::Delayed));
    rig.advance(us(2_499)).await;
    assert_eq!(rig.claim(1).await, []);
    rig.advance(us(501)).await;
    assert_eq!(rig.claim_ids(1).await, [id(0)]);
}

/// A repeat of a lost reply does no harm.
pub async fn a_push_is_repeatable(rig: &Rig) {
    rig.open().await;
    let job = Push { fence: Fence(5), ..rig.job(0).await };
    assert_eq!(rig.push(std::slice::from_ref(&job)).await, [Pushed::Added]);
    let lower = Push { fence: Fence(4), ..job.clone() };
    assert_eq!(rig.push(&[job, lower]).await, [Pushed::Present; 2]);
    assert_eq!(rig.claim_ids(9).await, [id(0)]);
}

/// The same id twice in one call.
pub async fn one_call_decides_its_jobs_in_order(rig: &Rig) {
    rig.open().await;
    let job = rig.job(0).await;
    let higher = Push { fence: Fence(2), envelope: Bytes::from_static(b"new"), ..job.clone() };
    let jobs = [job.clone(), job.clone(), higher, job];
    let expected = [Pushed::Added, Pushed::Present, Pushed::Added, Pushed::Present];
    assert_eq!(rig.push(&jobs).await, expected);
    let claimed = rig.claim(9).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].1.envelope, "new");
}

/// A changed job: other time, other priority, other envelope.
pub async fn a_higher_fence_replaces_a_waiting_job(rig: &Rig) {
    rig.open_with(1).await;
    let run_at = rig.now().await.plus(ms(50));
    let envelope = Bytes::from_static(b"changed");
    let changed = Push { fence: Fence(2), attempt: 7, run_at, envelope, ..rig.job(0).await };
    assert_eq!(rig.push(&[changed]).await, [Pushed::Added]);
    assert_eq!(rig.claim(9).await, [], "it waits for its new time");
    rig.advance(ms(50)).await;
    let (_, claimed) = rig.claim_one().await;
    assert_eq!((claimed.attempt, &claimed.envelope[..]), (7, &b"changed"[..]));
    assert_eq!(rig.claim(9).await, [], "there is one of it");
}

/// The ledger took the job back from a holder that it had given up.
pub async fn a_higher_fence_takes_a_lease_away(rig: &Rig) {
    let (held, claimed) = rig.hold_one().await;
    let fence = Fence(claimed.fence.0 + 10);
    assert_eq!(rig.push(&[Push { fence, ..rig.job(0).await }]).await, [Pushed::Added]);
    assert_eq!(rig.extend(held, LEASE).await, Extended::Gone);
    assert_eq!(rig.settle(held, Verdict::Succeeded).await, Settled::Stolen);
    let (_, again) = rig.claim_one().await;
    assert!(again.fence > fence);
    assert_eq!(rig.extend(held, LEASE).await, Extended::Stolen);
    assert_eq!(rig.outcomes().await, []);
}

/// Redriven before its old outcome was confirmed: the confirmation must not take the new life.
pub async fn a_higher_fence_revives_a_finished_job(rig: &Rig) {
    let (held, claimed) = rig.hold_one().await;
    assert_eq!(rig.settle(held, Verdict::Dead).await, Settled::Settled);
    let fence = Fence(claimed.fence.0 + 1);
    assert_eq!(rig.push(&[Push { fence, ..rig.job(0).await }]).await, [Pushed::Added]);
    assert_eq!(rig.confirm_all().await.len(), 1);
    let (_, again) = rig.claim_one().await;
    assert!(again.fence > fence);
    assert_eq!((again.attempt, again.crashes), (0, 0));
}

/// `not_after` itself is in time; a µs later is not.
pub async fn a_late_push_changes_nothing(rig: &Rig) {
    rig.open().await;
    let now = rig.now().await;
    let jobs = [rig.job(0).await, rig.job(1).await];
    let late = rig.engine.push(&rig.shard, &jobs, &until(now.minus(us(1)))).await.unwrap();
    assert_eq!(late.pushed, [Pushed::Late; 2]);
    assert!(!rig.knows(0).await);
    let in_time = rig.engine.push(&rig.shard, &jobs, &until(now)).await.unwrap();
    assert_eq!(in_time.pushed, [Pushed::Added; 2]);
}

/// Whatever happens to it, a job of that fence is there once.
pub async fn a_leased_or_finished_job_is_present(rig: &Rig) {
    let (held, _) = rig.hold_one().await;
    let again = [rig.job(0).await];
    assert_eq!(rig.push(&again).await, [Pushed::Present]);
    rig.settle(held, Verdict::Succeeded).await;
    assert_eq!(rig.push(&again).await, [Pushed::Present]);
    rig.confirm_all().await;
    assert_eq!(rig.push(&again).await, [Pushed::Present]);
    assert_eq!(rig.claim(9).await, []);
}

/// Ready, leased and finishing jobs all count.
pub async fn a_full_shard_refuses_job_by_job(rig: &Rig) {
    rig.configure(ShardSettings { version: 1, jobs_max: 3, ..ShardSettings::default() }).await;
    assert_eq!(rig.push(&[rig.job(0).await]).await, [Pushed::Added]);
    let (held, _) = rig.claim_one().await;
    let mut jobs = vec![rig.job(1).await, rig.job(0).await];
    jobs.extend([rig.job(2).await, rig.job(3).await]);
    let expected = [Pushed::Added, Pushed::Present, Pushed::Added, Pushed::Crowded];
    assert_eq!(rig.push(&jobs).await, expected);
    rig.settle(held, Verdict::Succeeded).await;
    assert_eq!(rig.push(&jobs[3..]).await, [Pushed::Crowded], "a finishing job is still there");
    rig.confirm_all().await;
    assert_eq!(rig.push(&jobs[3..]).await, [Pushed::Added]);
}

/// Those that wait for their time leave the room to others, pushed or retried; once ready they count.
pub async fn delayed_jobs_keep_nobody_out(rig: &Rig) {
    rig.configure(ShardSettings { version: 1, jobs_max: 3, ..ShardSettings::default() }).await;
    let later = rig.now().await.plus(ms(1_000));
    assert_eq!(rig.push(&[rig.job(0).await, rig.job(1).await]).await, [Pushed::Added; 2]);
    for (held, _) in rig.claim(2).await {
        rig.settle(held, Verdict::Retry { delay: ms(1_000) }).await;
    }
    let mut jobs = vec![Push { run_at: later, ..rig.job(2).await }];
    jobs.extend([rig.job(3).await, rig.job(4).await, rig.job(5).await, rig.job(6).await]);
    let added = Pushed::Added;
    assert_eq!(rig.push(&jobs).await, [added, added, added, added, Pushed::Crowded]);
    let sooner = Push { fence: Fence(2), ..rig.job(2).await };
    assert_eq!(rig.push(&[sooner]).await, [Pushed::Added], "a replacement needs no room");
    rig.advance(ms(1_000)).await;
    assert_eq!(rig.claim(9).await.len(), 6);
    assert_eq!(rig.push(&jobs[4..]).await, [Pushed::Crowded]);
}

/// As many as the head has places; whatever is there by then, retries also, uses them. Retries need none.
pub async fn jobs_pushed_ahead_have_a_bound(rig: &Rig) {
    rig.configure(ShardSettings { version: 1, jobs_max: 2, ..ShardSettings::default() }).await;
    let run_at = rig.now().await.plus(ms(1_000));
    let mut later = Vec::new();
    for n in 0..4 {
        later.push(Push { run_at, ..rig.job(n).await });
    }
    let expected = [Pushed::Added, Pushed::Added, Pushed::Full];
    assert_eq!(rig.push(&later[..3]).await, expected);
    assert_eq!(rig.state(2).await, None);
    assert_eq!(rig.push(&[rig.job(5).await, rig.job(6).await]).await, [Pushed::Added; 2]);
    for (held, _) in rig.claim(2).await {
        assert_eq!(
            rig.settle(held, Verdict::Retry { delay: ms(1_000) }).await,
            Settled::Settled,
            "a retry is always taken"
        );
    }
    assert_eq!(rig.state(5).await, Some(LiveState::Delayed));
    let sooner = async |n| Push { fence: Fence(2), ..rig.job(n).await };
    let jobs = [sooner(0).await, later[2].clone(), sooner(1).await, later[2].clone()];
    let expected = [Pushed::Added, Pushed::Full, Pushed::Added, Pushed::Full];
    assert_eq!(rig.push(&jobs).await, expected, "two retries are there");
    rig.advance(ms(1_000)).await;
    assert_eq!(rig.claim(9).await.len(), 4);
    let run_at = rig.now().await.plus(ms(1_000));
    let again = later[2..].iter().map(|job| Push { run_at, ..job.clone() });
    assert_eq!(rig.push(&again.collect::<Vec<_>>()).await, [Pushed::Added; 2]);
}

/// Replacing needs no place, and takes or leaves one in the same call.
pub async fn replacements_count_among_jobs_pushed_ahead(rig: &Rig) {
    rig.configure(ShardSettings { version: 1, jobs_max: 1, ..ShardSettings::default() }).await;
    let run_at = rig.now().await.plus(ms(1_000));
    let later = async |n, fence| Push { fence: Fence(fence), run_at, ..rig.job(n).await };
    assert_eq!(rig.push(&[rig.job(0).await]).await, [Pushed::Added]);
    let jobs = [later(0, 2).await, later(1, 1).await, later(0, 3).await, later(1, 1).await];
    let expected = [Pushed::Added, Pushed::Full, Pushed::Added, Pushed::Full];
    assert_eq!(rig.push(&jobs).await, expected);
    let sooner = Push { fence: Fence(4), ..rig.job(0).await };
    let jobs = [sooner, later(1, 1).await, later(2, 1).await];
    assert_eq!(rig.push(&jobs).await, [Pushed::Added, Pushed::Added, Pushed::Full]);
}

/// Replaced by one for later, a job leaves its room in the same call; the other way round it takes one.
pub async fn a_replacement_for_later_makes_room(rig: &Rig) {
    rig.configure(ShardSettings { version: 1, jobs_max: 1, ..ShardSettings::default() }).await;
    assert_eq!(rig.push(&[rig.job(0).await]).await, [Pushed::Added]);
    let run_at = rig.now().await.plus(ms(1_000));
    let later = Push { fence: Fence(2), run_at, ..rig.job(0).await };
    let jobs = [rig.job(1).await, later, rig.job(2).await, rig.job(3).await];
    let expected = [Pushed::Crowded, Pushed::Added, Pushed::Added, Pushed::Crowded];
    assert_eq!(rig.push(&jobs).await, expected);
    let still_later = Push { fence: Fence(3), run_at, ..rig.job(0).await };
    let jobs = [still_later, rig.job(3).await];
    assert_eq!(rig.push(&jobs).await, [Pushed::Added, Pushed::Crowded], "it had no room to give");
    let sooner = Push { fence: Fence(4), ..rig.job(0).await };
    assert_eq!(rig.push(&[sooner]).await, [Pushed::Added]);
    assert_eq!(rig.claim(1).await.len(), 1);
    rig.confirm_all().await;
    assert_eq!(rig.push(&jobs[1..]).await, [Pushed::Crowded], "two are there");
}

/// Up to the last byte, not beyond. A smaller one behind a refused one gets in.
pub async fn bytes_are_a_budget_too(rig: &Rig) {
    rig.configure(ShardSettings { version: 1, bytes_max: 100, ..ShardSettings::default() }).await;
    let sizes = [60, 41, 40, 1];
    let mut jobs = Vec::new();
    for (n, size) in (0..).zip(sizes) {
        jobs.push(Push { envelope: Bytes::from(vec![0; size]), ..rig.job(n).await });
    }
    let expected = [Pushed::Added, Pushed::Full, Pushed::Added, Pushed::Full];
    assert_eq!(rig.push(&jobs).await, expected);
    let larger = Push { fence: Fence(2), envelope: Bytes::from(vec![0; 61]), ..rig.job(0).await };
    assert_eq!(rig.push(&[larger]).await, [Pushed::Full], "a replacement must fit as well");
    let smaller = Push { fence: Fence(2), envelope: Bytes::from(vec![0; 59]), ..rig.job(0).await };
    assert_eq!(rig.push(&[smaller, jobs[3].clone()]).await, [Pushed::Added; 2]);
}

/// Details wait in the same memory.
pub async fn unrecorded_outcomes_use_the_budget_of_bytes(rig: &Rig) {
    rig.configure(ShardSettings { version: 1, bytes_max: 1_000, ..ShardSettings::default() }).await;
    assert_eq!(rig.push(&[rig.job(0).await]).await, [Pushed::Added]);
    let (held, _) = rig.claim_one().await;
    let detail = Bytes::from(vec![0; 900]);
    rig.settle_all(&[Settle { dependency: None, held, verdict: Verdict::Succeeded, detail }]).await;
    let large = [Push { envelope: Bytes::from(vec![0; 100]), ..rig.job(1).await }];
    assert_eq!(rig.push(&large).await, [Pushed::Full]);
    rig.confirm_all().await;
    assert_eq!(rig.push(&large).await, [Pushed::Added]);
}

/// Also when the budget was lowered below what is there.
pub async fn a_replacement_needs_no_room_for_another_job(rig: &Rig) {
    rig.open_with(2).await;
    rig.configure(ShardSettings { version: 2, jobs_max: 1, ..ShardSettings::default() }).await;
    let replacement = Push { fence: Fence(2), ..rig.job(0).await };
    assert_eq!(rig.push(&[replacement, rig.job(2).await]).await, [Pushed::Added, Pushed::Crowded]);
}

/// A new shard takes jobs before anybody configured it, and says so.
pub async fn the_default_budget_holds_until_configured(rig: &Rig) {
    let now = rig.now().await;
    let over = Bytes::from(vec![0; 1 << 20]);
    let jobs = [rig.job(0).await, Push { envelope: over, ..rig.job(1).await }];
    let reply = rig.engine.push(&rig.shard, &jobs, &until(now)).await.unwrap();
    assert_eq!(reply.pushed, [Pushed::Added; 2]);
    assert!(!reply.open);
}

/// A shard that was compared since has no tombstones of what ended before that.
pub async fn a_push_of_before_a_comparison_is_refused(rig: &Rig) {
    rig.open().await;
    let not_after = rig.now().await.plus(PUSH_WINDOW);
    let job = [rig.job(0).await];
    let push = async |generation| {
        let valid = Validity { generation, ..until(not_after) };
        rig.engine.push(&rig.shard, &job, &valid).await.unwrap()
    };
    assert_eq!(push(0).await.pushed, [Pushed::Added], "of the first one nothing has ended");
    rig.shut(2).await;
    for (known, answer) in [(0, Pushed::Late), (1, Pushed::Late), (2, Pushed::Present)] {
        let reply = push(known).await;
        assert_eq!((reply.pushed, reply.generation), (vec![answer], 2), "{known}");
    }
}

/// Neither does it learn what that one's gate says.
pub async fn a_shard_of_another_ledger_takes_no_jobs(rig: &Rig) {
    rig.open().await;
    let job = [rig.job(0).await];
    let valid = Validity {
        ledger: LedgerId::from_bytes([0x0f; 16]),
        ..until(rig.now().await.plus(PUSH_WINDOW))
    };
    let reply = rig.engine.push(&rig.shard, &job, &valid).await.unwrap();
    assert_eq!((reply.pushed, reply.open, reply.generation), (vec![Pushed::Late], false, 0));
    assert_eq!(rig.claim(9).await, []);
}
