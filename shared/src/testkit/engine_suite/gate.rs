//! gate, shut, open_gate and report, and what a gate holds back.

use super::*;
use crate::engine::{CancelReply, ClaimState, Position, ProcessId, Report, Withdraw};
use crate::model::id::LedgerId;

const OTHER: LedgerId = LedgerId::from_bytes([0x0f; 16]);

impl Rig {
    async fn opening_with(&self, generation: u64, grace: Duration) -> Opening {
        let settings = ShardSettings { version: 1, ..ShardSettings::default() };
        Opening { grace, ..self.opening(generation, settings).await }
    }

    /// Shuts the gate and opens it anew, with this grace and without a ramp.
    async fn reopen(&self, generation: u64, grace: Duration) {
        assert!(matches!(self.shut(generation).await, Shut::Shut { .. }));
        let opening = self.opening_with(generation, grace).await;
        assert_eq!(self.open_gate(&opening).await, Opened::Open);
    }

    async fn state_of_claims(&self) -> ClaimState {
        self.claim_as(&self.request(0)).await.state
    }

    async fn is_open(&self) -> bool {
        let stats = self.engine.stats(&self.shard).await.expect("stats");
        let open = self.gate().await.is_open();
        assert_eq!(stats.open, open, "stats and gate agree");
        assert_eq!(self.state_of_claims().await == ClaimState::Unverified, !open);
        open
    }

    async fn report(&self, generation: u64, worker: WorkerId) {
        let report = self.engine.report(&self.shard, LEDGER, generation, worker, Report::Done);
        report.await.expect("report");
    }

    async fn reported(&self) -> Vec<WorkerId> {
        let mut reported = self.gate().await.reported;
        reported.sort_unstable();
        reported
    }

    async fn position(&self) -> Position {
        let nothing = self.engine.extend(&self.shard, &[], LEASE).await.expect("extend");
        let claimed = self.claim_as(&self.request(0)).await.position;
        let settled = self.engine.settle(&self.shard, &[]).await.expect("settle").position;
        let page = self.engine.scan(&self.shard, 0).await.expect("scan").position;
        assert_eq!((settled, page), (claimed, claimed), "every reply says the same");
        assert!(nothing.leases.is_empty());
        claimed
    }
}

/// Also with settings and jobs; and nobody can open what was never shut.
pub async fn a_fresh_shard_has_no_gate(rig: &Rig) {
    assert!(!rig.is_open().await);
    rig.engine.configure(&rig.shard, &ShardSettings::default()).await.unwrap();
    rig.push(&[rig.job(0).await]).await;
    let opening = rig.opening_with(1, LEASE).await;
    assert_eq!(rig.open_gate(&opening).await, Opened::Moved);
    assert_eq!(rig.gate().await.gate, None);
    assert!(!rig.is_open().await);
    assert_eq!(rig.claim(9).await, []);
}

/// No leases, no reaps; what was given goes on, and jobs come, go and move.
pub async fn a_shut_gate_gives_nothing_and_takes_nothing_back(rig: &Rig) {
    rig.open_with(4).await;
    let held: Vec<Held> = rig.claim(3).await.into_iter().map(|(held, _)| held).collect();
    assert!(matches!(rig.shut(2).await, Shut::Shut { wiped: false, .. }));
    assert!(!rig.is_open().await);
    assert_eq!(rig.claim(9).await, []);
    let run_at = rig.now().await.plus(ms(1));
    let jobs = [rig.job(5).await, Push { run_at, ..rig.job(6).await }];
    let not_after = rig.now().await;
    let reply = rig.engine.push(&rig.shard, &jobs, &until(not_after)).await.unwrap();
    assert_eq!((reply.pushed, reply.open), (vec![Pushed::Added; 2], false));
    rig.advance(LEASE + ms(1)).await;
    assert_eq!(rig.reap(9).await, 0);
    assert_eq!(rig.engine.promote(&rig.shard, 9).await.unwrap(), 1);
    assert!(matches!(rig.extend(held[0], LEASE).await, Extended::Held { .. }));
    assert_eq!(rig.settle(held[1], Verdict::Succeeded).await, Settled::Settled);
    assert_eq!(rig.confirm_all().await.len(), 1);
    let waiting = [(id(3), Fence(1))];
    let cancelled = rig.engine.cancel(&rig.shard, &waiting, Withdraw::WaitingOnly).await.unwrap();
    assert_eq!(cancelled, [CancelReply::Removed]);
    let opening = rig.opening_with(2, Duration::ZERO).await;
    assert_eq!(rig.open_gate(&opening).await, Opened::Open);
    assert_eq!(rig.reap(9).await, 1, "the one whose holder is silent");
    assert_eq!(rig.claim(9).await.len(), 3);
}

/// Not for one that has taken its place meanwhile. Opening twice changes nothing.
pub async fn a_gate_opens_for_the_process_that_was_compared(rig: &Rig) {
    let Shut::Shut { process, wiped: false } = rig.shut(1).await else { panic!("nobody else") };
    let opening = rig.opening_with(1, LEASE).await;
    assert_eq!(opening.process, process);
    let other = Opening { process: ProcessId::generate(), ..opening.clone() };
    assert_eq!(rig.open_gate(&other).await, Opened::Moved);
    assert!(!rig.is_open().await);
    assert_eq!(rig.open_gate(&opening).await, Opened::Open);
    assert!(rig.is_open().await);
    let settings = ShardSettings { version: 9, paused: true, ..ShardSettings::default() };
    let again = Opening { settings, slots: 1, ramp: LEASE, ..opening.clone() };
    assert_eq!(rig.open_gate(&again).await, Opened::Open);
    assert_eq!(rig.state_of_claims().await, ClaimState::Open);
    let stats = rig.engine.stats(&rig.shard).await.unwrap();
    assert_eq!(stats.settings, Some(opening.settings));
}

/// A verifier that was overtaken neither shuts nor opens.
pub async fn generations_never_go_back(rig: &Rig) {
    assert!(matches!(rig.shut(3).await, Shut::Shut { .. }));
    assert_eq!(rig.shut(2).await, Shut::Newer);
    assert!(matches!(rig.shut(3).await, Shut::Shut { .. }), "a repeat");
    let opening = rig.opening_with(3, LEASE).await;
    let at = |generation| Opening { generation, ..opening.clone() };
    assert_eq!(rig.open_gate(&at(2)).await, Opened::Newer);
    assert_eq!(rig.open_gate(&at(4)).await, Opened::Moved);
    assert!(!rig.is_open().await);
    assert_eq!(rig.open_gate(&at(3)).await, Opened::Open);
    assert_eq!(rig.shut(3).await, Shut::Newer, "it is verified");
    assert_eq!(rig.shut(1).await, Shut::Newer);
    assert!(rig.is_open().await);
    assert!(matches!(rig.shut(4).await, Shut::Shut { .. }));
    assert_eq!(rig.open_gate(&at(3)).await, Opened::Newer);
    let gate = rig.gate().await.gate.expect("a gate");
    assert_eq!((gate.ledger, gate.generation, gate.process), (LEDGER, 4, None));
}

/// In a wiped shard an old generation would look like a new one.
pub async fn a_late_shut_changes_nothing(rig: &Rig) {
    rig.open().await;
    let late = rig.now().await.minus(us(1));
    let shut = async |not_after| rig.engine.shut(&rig.shard, LEDGER, 2, not_after).await.unwrap();
    assert_eq!(shut(late).await, Shut::Late);
    assert!(rig.is_open().await);
    assert!(matches!(shut(rig.now().await).await, Shut::Shut { .. }));
}

/// Its jobs, leases, outcomes, tombstones, numbers and settings; then the other ledger finds it foreign.
pub async fn a_shard_of_another_ledger_is_emptied(rig: &Rig) {
    rig.open_with(4).await;
    let (held, _) = rig.claim_one().await;
    rig.settle(held, Verdict::Succeeded).await;
    rig.confirm_all().await;
    let (held, _) = rig.claim_one().await;
    rig.settle(held, Verdict::Succeeded).await;
    rig.claim_one().await;
    let now = rig.now().await;
    let shut = rig.engine.shut(&rig.shard, OTHER, 1, now).await.unwrap();
    assert!(matches!(shut, Shut::Shut { wiped: true, .. }), "{shut:?}");
    for n in 0..4 {
        assert!(!rig.knows(n).await, "{n}");
    }
    assert_eq!(rig.outcomes().await, []);
    assert_eq!(rig.position().await, Position::default());
    let stats = rig.engine.stats(&rig.shard).await.unwrap();
    assert_eq!((stats.bytes, stats.settings), (0, None));
    let opening = rig.opening_with(1, LEASE).await;
    assert_eq!(rig.open_gate(&opening).await, Opened::Newer);
    let opening = Opening { ledger: OTHER, ..opening };
    assert_eq!(rig.open_gate(&opening).await, Opened::Open);
}

/// An operator may have changed them while the shard was compared.
pub async fn opening_takes_settings_unless_the_shard_has_newer_ones(rig: &Rig) {
    let at = |version, paused| ShardSettings { version, paused, ..ShardSettings::default() };
    rig.configure(at(5, true)).await;
    for (generation, given, state) in
        [(2, at(4, false), ClaimState::Paused), (3, at(6, false), ClaimState::Open)]
    {
        rig.shut(generation).await;
        let opening = Opening { settings: given, ..rig.opening_with(generation, LEASE).await };
        assert_eq!(rig.open_gate(&opening).await, Opened::Open);
        assert_eq!(rig.state_of_claims().await, state);
    }
}

/// Each worker once; only while the gate is shut; of the present generation only.
pub async fn workers_report_to_a_shut_gate(rig: &Rig) {
    let mut workers = [WorkerId::generate(), WorkerId::generate()];
    workers.sort_unstable();
    rig.report(1, workers[0]).await;
    assert_eq!(rig.reported().await, [], "there is no gate");
    rig.shut(1).await;
    rig.report(0, workers[0]).await;
    rig.engine.report(&rig.shard, OTHER, 1, workers[0], Report::Done).await.unwrap();
    rig.engine.report(&rig.shard, LEDGER, 1, workers[1], Report::Present).await.unwrap();
    assert_eq!(rig.gate().await.present, [workers[1]]);
    assert_eq!(rig.reported().await, [], "to another verification");
    for worker in [workers[1], workers[0], workers[1]] {
        rig.report(1, worker).await;
    }
    assert_eq!(rig.reported().await, workers);
    rig.shut(1).await;
    assert_eq!(rig.reported().await, workers, "a repeated shut changes nothing");
    rig.shut(2).await;
    assert_eq!((rig.reported().await, rig.gate().await.present), (vec![], vec![]));
    let opening = rig.opening_with(2, LEASE).await;
    assert_eq!(rig.open_gate(&opening).await, Opened::Open);
    rig.report(2, workers[0]).await;
    assert_eq!(rig.reported().await, [], "it is open");
}

/// Holders that could not reach the store get time to extend.
pub async fn nothing_is_reaped_during_the_grace(rig: &Rig) {
    rig.hold_one().await;
    rig.advance(LEASE * 2).await;
    rig.reopen(2, LEASE).await;
    assert_eq!(rig.reap(9).await, 0);
    rig.advance(LEASE - us(1)).await;
    assert_eq!(rig.reap(9).await, 0);
    rig.claim_as(&rig.request(0)).await;
    assert_eq!(rig.outcomes().await, [], "by a claim neither");
    rig.advance(us(1)).await;
    assert_eq!(rig.reap(9).await, 1);
}

/// There is nobody to be patient with.
pub async fn without_leases_there_is_no_grace(rig: &Rig) {
    rig.open_with(1).await;
    rig.reopen(2, LEASE).await;
    let request = ClaimRequest { lease: ms(100), ..rig.request(1) };
    assert_eq!(rig.claim_as(&request).await.jobs.len(), 1);
    rig.advance(ms(101)).await;
    assert_eq!(rig.reap(9).await, 1);
}

/// The host slept, or its clock was put forward: holders may be as late as their store. Once, not for ever.
pub async fn a_jump_of_engine_time_spares_leases(rig: &Rig) {
    rig.open_with(1).await;
    rig.reopen(2, LEASE).await;
    rig.claim_one().await;
    rig.advance(LEASE * 4).await;
    assert_eq!(rig.reap(9).await, 0);
    rig.advance(LEASE - us(1)).await;
    assert_eq!(rig.reap(9).await, 0);
    rig.advance(us(1)).await;
    assert_eq!(rig.reap(9).await, 1, "a second jump at once gives no more time");
}

/// Two seconds without a sign of life are no jump, a µs more is.
pub async fn signs_of_life_tell_a_jump_from_passing_time(rig: &Rig) {
    let step = crate::limits::CLOCK_STEP_MIN;
    rig.open_with(2).await;
    rig.reopen(2, LEASE).await;
    let short = ClaimRequest { lease: step, ..rig.request(1) };
    rig.claim_as(&short).await;
    // A whole ms later, so that the lease is over.
    rig.advance(ms(1)).await;
    let (kept, _) = rig.claim_one().await;
    rig.advance(step).await;
    assert_eq!(rig.reap(9).await, 1, "the claim was a sign of life");
    rig.claim_as(&short).await;
    rig.advance(step / 2).await;
    assert!(matches!(rig.extend(kept, LEASE).await, Extended::Held { .. }));
    rig.advance(step).await;
    assert_eq!(rig.reap(9).await, 1, "so was the extend");
    rig.claim_as(&short).await;
    rig.advance(step + us(1)).await;
    assert_eq!(rig.reap(9).await, 0, "now it jumped");
}

/// From a tenth of the fleet's slots to all of them, and at least one; then there is no bound.
pub async fn the_ramp_bounds_leases(rig: &Rig) {
    rig.open_with(40).await;
    rig.shut(2).await;
    let ramp = Duration::from_secs(10);
    let opening = Opening { slots: 20, ramp, ..rig.opening_with(2, LEASE).await };
    assert_eq!(rig.open_gate(&opening).await, Opened::Open);
    let first = rig.claim(9).await;
    assert_eq!(first.len(), 2);
    assert_eq!(rig.state_of_claims().await, ClaimState::Warming);
    rig.settle(first[0].0, Verdict::Succeeded).await;
    assert_eq!(rig.claim(9).await.len(), 1, "slots that are free count");
    rig.advance(ramp / 2).await;
    assert_eq!(rig.claim(40).await.len(), 9, "eleven of twenty");
    rig.advance(ramp / 2).await;
    assert_eq!(rig.claim(9).await.len(), 9);
    rig.shut(3).await;
    let opening = Opening { slots: 0, ramp, ..rig.opening_with(3, LEASE).await };
    assert_eq!(rig.open_gate(&opening).await, Opened::Open);
    assert_eq!(rig.state_of_claims().await, ClaimState::Warming, "twenty are held");
}

/// Whoever asks for jobs of another ledger gets none, and no other answer says that the ledger is another.
pub async fn jobs_are_given_to_those_of_their_ledger(rig: &Rig) {
    let of = |ledger| ClaimRequest { ledger, ..rig.request(1) };
    let state = async |ledger| rig.claim_as(&of(ledger)).await.state;
    assert_eq!(state(Some(OTHER)).await, ClaimState::Unverified, "it has no gate yet");
    rig.open_with(3).await;
    let refused = rig.claim_as(&of(Some(OTHER))).await;
    assert_eq!((refused.state, refused.jobs.len()), (ClaimState::Foreign, 0));
    assert_eq!(rig.claim_as(&of(Some(LEDGER))).await.jobs.len(), 1);
    assert_eq!(rig.claim_as(&of(None)).await.jobs.len(), 1, "one that doesn't know its ledger");
    rig.shut(2).await;
    assert_eq!(state(Some(OTHER)).await, ClaimState::Unverified);
    rig.reopen(3, LEASE).await;
    assert_eq!(state(Some(OTHER)).await, ClaimState::Foreign);
}

/// Workers forget what is recorded, and learn that the gate is shut.
pub async fn replies_tell_what_is_recorded(rig: &Rig) {
    assert_eq!(rig.position().await, Position::default());
    rig.open_with(3).await;
    let opened = Position { generation: Some(1), last_seq: 0, recorded_seq: 0 };
    assert_eq!(rig.position().await, opened);
    let mut seqs = Vec::new();
    for _ in 0..3 {
        let (held, _) = rig.claim_one().await;
        let settles =
            [Settle { dependency: None, held, verdict: Verdict::Succeeded, detail: Bytes::new() }];
        let reply = rig.engine.settle(&rig.shard, &settles).await.unwrap();
        let last_seq = rig.last_outcome().await.seq;
        assert_eq!(reply.position, Position { last_seq, ..opened }, "its own outcome counts");
        seqs.push(last_seq);
    }
    rig.confirm(rig.outcomes().await[1].mark()).await;
    let recorded = Position { last_seq: seqs[2], recorded_seq: seqs[1], ..opened };
    assert_eq!(rig.position().await, recorded);
    rig.shut(2).await;
    assert_eq!(rig.position().await, Position { generation: None, ..recorded });
}
