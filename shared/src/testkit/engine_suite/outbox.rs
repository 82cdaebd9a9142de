//! outcomes and confirm.

use super::*;
use crate::engine::Ended;

impl Rig {
    /// Pushes, claims and settles the jobs numbered 0 to `count` one by one.
    async fn end(&self, count: u8, verdict: Verdict) -> Vec<Outcome> {
        self.open_with(count).await;
        for _ in 0..count {
            let (held, _) = self.claim_one().await;
            assert_eq!(self.settle(held, verdict).await, Settled::Settled);
        }
        self.outcomes().await
    }
}

/// Of settles, reaps and expiries alike, whatever was confirmed between.
pub async fn outcomes_come_in_order_without_gaps(rig: &Rig) {
    rig.open_with(2).await;
    let expires_at = Some(rig.now().await.plus(LEASE));
    rig.push(&[Push { expires_at, ..rig.job(2).await }]).await;
    let (held, _) = rig.claim_one().await;
    rig.claim_one().await;
    rig.settle(held, Verdict::Dead).await;
    let first = rig.confirm_all().await[0].seq;
    rig.lose_leases().await;
    rig.claim_one().await;
    let expired = rig.request(9);
    rig.claim_as(&expired).await;
    let outcomes = rig.outcomes().await;
    let seen: Vec<_> = outcomes.iter().map(|o| (o.seq, o.id, o.ended)).collect();
    assert_eq!(seen, [(first + 1, id(1), Ended::Lost), (first + 2, id(2), Ended::Expired)]);
}

/// Numbers of a wiped engine and of the new one differ.
pub async fn the_first_outcome_is_numbered_by_engine_time(rig: &Rig) {
    rig.advance(us(321)).await;
    let now = rig.now().await;
    let outcomes = rig.end(2, Verdict::Succeeded).await;
    assert_eq!(outcomes[0].seq, now.micros() as u64);
    assert_eq!(outcomes[1].seq, outcomes[0].seq + 1);
}

/// The oldest ones.
pub async fn a_reader_bounds_what_it_gets(rig: &Rig) {
    let all = rig.end(5, Verdict::Succeeded).await;
    assert_eq!(rig.engine.outcomes(&rig.shard, 2).await.unwrap(), all[..2]);
    assert_eq!(rig.engine.outcomes(&rig.shard, 0).await.unwrap(), []);
    assert_eq!(rig.outcomes().await, all, "reading changes nothing");
}

/// A repeat, also a late one, forgets nothing more.
pub async fn confirm_is_repeatable(rig: &Rig) {
    let all = rig.end(3, Verdict::Succeeded).await;
    rig.confirm(all[1].mark()).await;
    rig.confirm(all[1].mark()).await;
    rig.confirm(all[0].mark()).await;
    assert_eq!(rig.outcomes().await, all[2..]);
}

/// A store that went back in time gives the numbers of lost outcomes to others: these are not recorded.
pub async fn confirm_of_an_outcome_that_is_not_there_forgets_nothing(rig: &Rig) {
    let all = rig.end(3, Verdict::Retry { delay: Duration::ZERO }).await;
    let last = all[2].mark();
    let others = [
        Mark { seq: last.seq + 1, ..last },
        Mark { seq: last.seq - 1, ..last },
        Mark { id: id(9), ..last },
        Mark { fence: Fence(last.fence.0 + 1), ..last },
        Mark { at: last.at.plus(us(1)), ..last },
    ];
    for other in others {
        rig.confirm(other).await;
    }
    assert_eq!(rig.outcomes().await, all);
    rig.confirm(last).await;
    assert_eq!(rig.outcomes().await, []);
}

/// Numbers go on from the last one given.
pub async fn numbers_go_on_after_a_confirmation(rig: &Rig) {
    let all = rig.end(1, Verdict::Retry { delay: Duration::ZERO }).await;
    rig.confirm(all[0].mark()).await;
    let (held, _) = rig.claim_one().await;
    rig.settle(held, Verdict::Succeeded).await;
    assert_eq!(rig.last_outcome().await.seq, all[0].seq + 1);
}

/// Jobs of later outcomes stay.
pub async fn confirm_forgets_only_what_it_names(rig: &Rig) {
    let all = rig.end(3, Verdict::Dead).await;
    rig.confirm(all[1].mark()).await;
    assert_eq!(rig.outcomes().await, all[2..]);
    assert_eq!([rig.state(0).await, rig.state(1).await], [None, None]);
    assert_eq!(rig.state(2).await, Some(LiveState::Finishing));
}

/// It is not over; neither is a job that has moved on since.
pub async fn a_recorded_retry_leaves_the_job_alone(rig: &Rig) {
    rig.open_with(1).await;
    for verdict in
        [Verdict::Release, Verdict::Snooze { delay: ms(1) }, Verdict::Retry { delay: ms(1) }]
    {
        let (held, _) = rig.claim_one().await;
        rig.settle(held, verdict).await;
        rig.advance(ms(1)).await;
        assert_eq!(rig.confirm_all().await.len(), 1);
    }
    let (held, _) = rig.claim_one().await;
    rig.settle(held, Verdict::Retry { delay: Duration::ZERO }).await;
    let (again, _) = rig.claim_one().await;
    rig.confirm_all().await;
    assert_eq!(rig.settle(again, Verdict::Succeeded).await, Settled::Settled);
}

/// A job that ended, was redriven and ended again, all unrecorded.
pub async fn a_second_end_waits_for_its_own_confirmation(rig: &Rig) {
    rig.open_with(1).await;
    let (first, _) = rig.claim_one().await;
    rig.settle(first, Verdict::Dead).await;
    rig.push(&[Push { fence: Fence(first.fence.0 + 1), ..rig.job(0).await }]).await;
    let (second, _) = rig.claim_one().await;
    rig.settle(second, Verdict::Succeeded).await;
    let ends = rig.outcomes().await;
    rig.confirm(ends[0].mark()).await;
    assert_eq!(rig.state(0).await, Some(LiveState::Finishing));
    rig.confirm(ends[1].mark()).await;
    assert_eq!(rig.state(0).await, None);
}

/// Jobs and bytes are counted off.
pub async fn a_confirmed_job_leaves_its_room(rig: &Rig) {
    rig.end(2, Verdict::Succeeded).await;
    rig.confirm_all().await;
    let stats = rig.engine.stats(&rig.shard).await.unwrap();
    assert_eq!((stats.outbox, stats.bytes), (0, 0));
    assert_eq!((stats.ready, stats.delayed, stats.leased), (0, 0, 0));
}
