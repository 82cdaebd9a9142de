//! claim with a kind filter.

use super::*;
use crate::engine::Ended;

const SCAN_MAX: u8 = BOUNDS.scan_max as u8;

impl Rig {
    /// Pushes the jobs numbered as given, of a kind; their ready order is that of their numbers.
    async fn push_kind(&self, name: &str, numbers: std::ops::Range<u8>) {
        for n in numbers {
            let job = Push { kind: kind(name), ..self.job(n).await };
            assert_eq!(self.push(&[job]).await, [Pushed::Added]);
        }
    }

    async fn claim_kind(&self, name: &str, max: u32, offset: u32) -> (Vec<JobId>, u32) {
        let kinds = vec![kind(name)];
        let reply = self.claim_as(&ClaimRequest { kinds, offset, ..self.request(max) }).await;
        (reply.jobs.iter().map(|job| job.id).collect(), reply.next_offset)
    }
}

/// They stay where they are.
pub async fn a_filter_skips_other_kinds(rig: &Rig) {
    rig.open().await;
    rig.push_kind("slow", 0..2).await;
    rig.push_kind("quick", 2..4).await;
    assert_eq!(rig.claim_kind("quick", 9, 0).await, (vec![id(2), id(3)], 0));
    assert_eq!(rig.claim_ids(9).await, [id(0), id(1)]);
}

/// Any of them will do, in ready order.
pub async fn several_kinds_may_be_asked_for(rig: &Rig) {
    rig.open().await;
    rig.push_kind("a", 0..1).await;
    rig.push_kind("b", 1..2).await;
    rig.push_kind("c", 2..3).await;
    let kinds = vec![kind("c"), kind("a")];
    let reply = rig.claim_as(&ClaimRequest { kinds, ..rig.request(9) }).await;
    assert_eq!(reply.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [id(0), id(2)]);
}

/// Jobs behind a long row of other kinds are found by the calls that follow.
pub async fn a_scan_is_bounded_and_goes_on_where_it_stopped(rig: &Rig) {
    rig.open().await;
    rig.push_kind("slow", 0..SCAN_MAX + 1).await;
    rig.push_kind("quick", 100..101).await;
    let (jobs, offset) = rig.claim_kind("quick", 1, 0).await;
    assert_eq!((jobs, offset), (vec![], u32::from(SCAN_MAX)));
    assert_eq!(rig.claim_kind("quick", 1, offset).await, (vec![id(100)], 0));
}

/// The offset counts the jobs that remain, so that none is passed over.
pub async fn members_that_left_do_not_count_for_the_offset(rig: &Rig) {
    rig.open().await;
    rig.push_kind("slow", 0..4).await;
    let expires_at = Some(rig.now().await);
    rig.push(&[Push { expires_at, ..rig.job(5).await }]).await;
    rig.push_kind("quick", 10..12).await;
    rig.push_kind("slow", 20..20 + SCAN_MAX).await;
    rig.push_kind("quick", 100..101).await;
    let (jobs, offset) = rig.claim_kind("quick", 9, 0).await;
    assert_eq!((jobs, offset), (vec![id(10), id(11)], u32::from(SCAN_MAX) - 3));
    let (jobs, offset) = rig.claim_kind("quick", 9, offset).await;
    assert_eq!((jobs, offset), (vec![id(100)], 0));
}

/// Exactly at the bound, or with an offset past the end.
pub async fn a_scan_that_reached_the_end_starts_anew(rig: &Rig) {
    rig.open().await;
    rig.push_kind("slow", 0..SCAN_MAX).await;
    assert_eq!(rig.claim_kind("quick", 9, 0).await, (vec![], 0));
    assert_eq!(rig.claim_kind("slow", 9, 1_000_000).await, (vec![], 0));
    // Enough found: the scan was not stopped by its bound.
    assert_eq!(rig.claim_kind("slow", 1, 0).await, (vec![id(0)], 0));
}

/// Without a filter the head is always taken.
pub async fn an_offset_without_a_filter_is_ignored(rig: &Rig) {
    rig.open_with(3).await;
    let reply = rig.claim_as(&ClaimRequest { offset: 2, ..rig.request(9) }).await;
    assert_eq!(reply.jobs.len(), 3);
}

/// It would never be claimed: whoever meets it ends it.
pub async fn an_expired_job_of_another_kind_ends_too(rig: &Rig) {
    rig.open().await;
    let expires_at = Some(rig.now().await);
    rig.push(&[Push { expires_at, ..rig.job(0).await }]).await;
    rig.push_kind("quick", 1..2).await;
    assert_eq!(rig.claim_kind("quick", 9, 0).await, (vec![id(1)], 0));
    assert_eq!(rig.last_outcome().await.ended, Ended::Expired);
}
