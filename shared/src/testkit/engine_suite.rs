//! The cases that every engine passes: the contract of [`crate::engine`], sentence by sentence.
//!
//! Each case is an async function that gets a [`Rig`]: an engine made with [`BOUNDS`], a shard that nobody
//! else uses, and a hand on engine time. [`engine_cases!`](crate::engine_cases) makes one test of each.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use uuid::Uuid;

use crate::engine::model::Bounds;
use crate::engine::{
    ClaimReply, ClaimRequest, Claimed, Engine, Extended, GateView, Held, LiveState, Mark, Opened,
    Opening, Outcome, Push, Pushed, Settle, Settled, ShardId, ShardSettings, Shut, Verdict,
};
use crate::limits::PUSH_WINDOW;
use crate::model::id::{Fence, JobId, LeaseId, WorkerId};
use crate::model::job::Priority;
use crate::model::name::{Kind, Namespace, QueueName};
use crate::model::time::Timestamp;
pub use crate::testkit::gates::LEDGER;
use crate::testkit::gates::{open_shard, until};

pub mod adopt;
pub mod cancel;
pub mod circuits;
pub mod claim;
pub mod crowd;
pub mod feed;
pub mod filter;
pub mod flow;
pub mod gate;
pub mod lease;
pub mod look;
pub mod outbox;
pub mod push;
pub mod reap;
pub mod settle;
pub mod signals;
pub mod tombstones;
pub mod withdraw;

/// Bounds that a case reaches with few jobs. The engine under test must run with them.
pub const BOUNDS: Bounds =
    Bounds { move_max: 5, scan_max: 10, outbox_entries_max: 12, outbox_bytes_max: 4_000 };

/// How long the leases of the suite last unless a case says otherwise.
pub const LEASE: Duration = Duration::from_secs(15);

/// Moves engine time forward.
pub type Advance = Box<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync>;

/// What a case works with.
pub struct Rig {
    /// The engine under test.
    pub engine: Engine,
    /// A shard of this case alone.
    pub shard: ShardId,
    advance: Advance,
}

impl Rig {
    /// A rig around an engine. Its time stands still but for `advance`, and is a whole number of ms.
    pub fn new(engine: Engine, advance: Advance) -> Self {
        let queue: QueueName =
            format!("suite-{}", Uuid::new_v4().simple()).parse().expect("a legal name");
        Self { engine, shard: ShardId::first(Namespace::default(), queue), advance }
    }

    /// Moves engine time forward.
    pub async fn advance(&self, by: Duration) {
        (self.advance)(by).await;
    }

    /// Engine time.
    pub async fn now(&self) -> Timestamp {
        self.engine.now().await.expect("now")
    }

    /// Gives the shard usual settings and opens its gate.
    pub async fn open(&self) {
        assert!(self.configure(ShardSettings { version: 1, ..ShardSettings::default() }).await);
    }

    /// Gives the shard settings, and opens its gate if it is shut.
    pub async fn configure(&self, settings: ShardSettings) -> bool {
        open_shard(&self.engine, &self.shard, settings).await.expect("configured and open")
    }

    /// The gate.
    pub async fn gate(&self) -> GateView {
        self.engine.gate(&self.shard).await.expect("gate")
    }

    /// Shuts the gate in time, for the suite's ledger.
    pub async fn shut(&self, generation: u64) -> Shut {
        let not_after = self.now().await.plus(PUSH_WINDOW);
        let shut = self.engine.shut(&self.shard, LEDGER, generation, not_after);
        shut.await.expect("shut")
    }

    /// What opens the gate for the process that serves the shard: no ramp, and no grace, so that leases run out
    /// however far a case lets time jump.
    pub async fn opening(&self, generation: u64, settings: ShardSettings) -> Opening {
        Opening {
            settings,
            ledger: LEDGER,
            generation,
            process: self.gate().await.process,
            grace: Duration::ZERO,
            slots: 0,
            ramp: Duration::ZERO,
        }
    }

    /// Opens the gate.
    pub async fn open_gate(&self, opening: &Opening) -> Opened {
        self.engine.open_gate(&self.shard, opening).await.expect("open_gate")
    }

    /// The `n`-th job: due now, middle priority, fence 1, ids rising with `n`.
    pub async fn job(&self, n: u8) -> Push {
        Push {
            id: id(n),
            ..Push::new(
                Fence(1),
                kind("plain"),
                self.now().await,
                Bytes::from(format!("envelope {n:03}")),
            )
        }
    }

    /// Pushes in time.
    pub async fn push(&self, jobs: &[Push]) -> Vec<Pushed> {
        let not_after = self.now().await.plus(PUSH_WINDOW);
        self.engine.push(&self.shard, jobs, &until(not_after)).await.expect("push").pushed
    }

    /// Opens the shard and pushes the jobs numbered 0 to `count`, all due now.
    pub async fn open_with(&self, count: u8) {
        self.open().await;
        let mut jobs = Vec::new();
        for n in 0..count {
            jobs.push(self.job(n).await);
        }
        assert_eq!(self.push(&jobs).await, vec![Pushed::Added; jobs.len()]);
    }

    /// A request for any kind, by a fresh worker with a fresh token.
    pub fn request(&self, max: u32) -> ClaimRequest {
        ClaimRequest {
            worker: WorkerId::generate(),
            lease_id: LeaseId::random(),
            max,
            lease: LEASE,
            kinds: Vec::new(),
            offset: 0,
            ledger: None,
        }
    }

    /// Claims as asked.
    pub async fn claim_as(&self, request: &ClaimRequest) -> ClaimReply {
        self.engine.claim(&self.shard, request).await.expect("claim")
    }

    /// Claims up to `max` of any kind: the leases and their proofs.
    pub async fn claim(&self, max: u32) -> Vec<(Held, Claimed)> {
        let request = self.request(max);
        let reply = self.claim_as(&request).await;
        reply.jobs.into_iter().map(|job| (proof(&request, &job), job)).collect()
    }

    /// Claims the one next job.
    pub async fn claim_one(&self) -> (Held, Claimed) {
        self.claim(1).await.pop().expect("a job is ready")
    }

    /// Opens the shard, pushes job 0 and claims it.
    pub async fn hold_one(&self) -> (Held, Claimed) {
        self.open_with(1).await;
        self.claim_one().await
    }

    /// Ids of the ready jobs, in order, which are claimed to learn it.
    pub async fn claim_ids(&self, max: u32) -> Vec<JobId> {
        self.claim(max).await.into_iter().map(|(held, _)| held.id).collect()
    }

    /// Settles one lease without details.
    pub async fn settle(&self, held: Held, verdict: Verdict) -> Settled {
        let settles = [Settle { dependency: None, held, verdict, detail: Bytes::new() }];
        self.settle_all(&settles).await[0]
    }

    /// Settles.
    pub async fn settle_all(&self, settles: &[Settle]) -> Vec<Settled> {
        self.engine.settle(&self.shard, settles).await.expect("settle").settles
    }

    /// Extends one lease.
    pub async fn extend(&self, held: Held, lease: Duration) -> Extended {
        self.engine.extend(&self.shard, &[held], lease).await.expect("extend").leases[0]
    }

    /// Reaps up to `max`.
    pub async fn reap(&self, max: u32) -> u32 {
        self.engine.reap(&self.shard, max).await.expect("reap")
    }

    /// Lets a usual lease run out, and reaps.
    pub async fn lose_leases(&self) -> u32 {
        self.advance(LEASE + Duration::from_millis(1)).await;
        self.reap(u32::MAX).await
    }

    /// All unconfirmed outcomes.
    pub async fn outcomes(&self) -> Vec<Outcome> {
        self.engine.outcomes(&self.shard, u32::MAX).await.expect("outcomes")
    }

    /// The last unconfirmed outcome.
    pub async fn last_outcome(&self) -> Outcome {
        self.outcomes().await.pop().expect("an outcome waits")
    }

    /// Confirms up to this outcome.
    pub async fn confirm(&self, last: Mark) {
        self.engine.confirm(&self.shard, &last).await.expect("confirm");
    }

    /// Confirms all outcomes; them.
    pub async fn confirm_all(&self) -> Vec<Outcome> {
        let outcomes = self.outcomes().await;
        if let Some(last) = outcomes.last() {
            self.confirm(last.mark()).await;
        }
        outcomes
    }

    /// A job's live state.
    pub async fn state(&self, n: u8) -> Option<LiveState> {
        let live = self.engine.peek(&self.shard, id(n)).await.expect("peek");
        live.map(|live| live.state)
    }

    /// Whether the shard knows a job.
    pub async fn knows(&self, n: u8) -> bool {
        self.engine.exists(&self.shard, &[id(n)]).await.expect("exists")[0]
    }
}

/// The proof of a lease.
pub fn proof(request: &ClaimRequest, job: &Claimed) -> Held {
    Held { id: job.id, fence: job.fence, lease_id: request.lease_id }
}

/// The id of the `n`-th job.
pub fn id(n: u8) -> JobId {
    let mut bytes = [0x70; 16];
    bytes[1] = n;
    JobId::from_bytes(bytes)
}

/// A kind.
pub fn kind(name: &str) -> Kind {
    name.parse().expect("a legal name")
}

/// Whole milliseconds.
pub const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Microseconds.
pub const fn us(n: u64) -> Duration {
    Duration::from_micros(n)
}

/// Makes a test of every case, in modules named like the suite's. The argument is the path, from the
/// crate's root, of an async function that gives a fresh [`Rig`]. With `, together` one test per module runs
/// its cases one after the other: for stores that take long to start.
#[macro_export]
macro_rules! engine_cases {
    ($rig:path) => {
        $crate::engine_cases!(@list apart $rig);
    };
    ($rig:path, together) => {
        $crate::engine_cases!(@list together $rig);
    };
    (@list $mode:ident $rig:path) => {
        $crate::engine_cases!(@ $mode $rig, push:
            a_pushed_job_is_claimable_at_once
            a_job_for_later_waits_for_its_time
            a_push_is_repeatable
            one_call_decides_its_jobs_in_order
            a_higher_fence_replaces_a_waiting_job
            a_higher_fence_takes_a_lease_away
            a_higher_fence_revives_a_finished_job
            a_late_push_changes_nothing
            a_push_of_before_a_comparison_is_refused
            a_shard_of_another_ledger_takes_no_jobs
            a_leased_or_finished_job_is_present
            a_full_shard_refuses_job_by_job
            delayed_jobs_keep_nobody_out
            jobs_pushed_ahead_have_a_bound
            replacements_count_among_jobs_pushed_ahead
            a_replacement_for_later_makes_room
            bytes_are_a_budget_too
            unrecorded_outcomes_use_the_budget_of_bytes
            a_replacement_needs_no_room_for_another_job
            the_default_budget_holds_until_configured
        );
        $crate::engine_cases!(@ $mode $rig, crowd:
            one_group_leaves_room_for_others
            a_call_counts_what_it_lets_in
            a_call_counts_what_it_lets_in_of_a_tenant
            what_runs_is_not_what_waits
            jobs_without_keys_are_one_group
            a_refused_group_has_room_again
            fresh_jobs_wait_behind_those_in_the_ledger
            refused_groups_come_in_turn
        );
        $crate::engine_cases!(@ $mode $rig, claim:
            leases_are_given_in_ready_order
            a_level_of_priority_is_worth_a_unit_of_waiting
            a_new_unit_of_priority_orders_later_pushes
            a_job_has_one_holder
            a_claim_gives_no_more_than_asked
            a_claim_looks_at_a_bounded_number
            the_fence_is_engine_time
            the_fence_rises_above_the_last_one
            a_lease_lasts_as_asked
            an_unverified_shard_gives_no_leases
            a_paused_shard_gives_no_leases_but_moves
            too_many_outcomes_brake
            too_large_outcomes_brake
            a_claim_promotes_and_reaps_a_bounded_number
            the_next_due_is_the_earliest_delayed
            an_expired_job_ends_unclaimed
            a_job_that_ran_before_may_expire
            a_job_expires_at_its_instant
            a_claim_ends_a_bounded_number_of_expired_jobs
        );
        $crate::engine_cases!(@ $mode $rig, filter:
            a_filter_skips_other_kinds
            several_kinds_may_be_asked_for
            a_scan_is_bounded_and_goes_on_where_it_stopped
            members_that_left_do_not_count_for_the_offset
            a_scan_that_reached_the_end_starts_anew
            an_offset_without_a_filter_is_ignored
            an_expired_job_of_another_kind_ends_too
        );
        $crate::engine_cases!(@ $mode $rig, flow:
            a_full_key_holds_back_its_own_jobs_only
            a_permit_comes_back_however_its_lease_ends
            a_lane_goes_on_without_its_first_job
            a_limit_changes_for_those_that_wait
            a_kind_is_limited_among_others
            a_rate_is_kept_by_each_key
            a_start_costs_its_units
            a_queue_is_limited_as_a_whole
            shares_take_turns
            a_share_pays_for_the_time_that_it_takes
            jobs_of_ten_minutes_take_no_more_than_their_share
            a_free_permit_wakes
            an_adopted_lease_counts
            a_loss_uses_up_the_bursts
            shares_take_turns_under_a_limit_of_their_kind
            shares_take_turns_under_a_rate_of_their_kind
            lanes_of_other_kinds_are_in_nobodys_way
            a_claim_that_looked_at_enough_asks_again
            room_in_a_full_queue_wakes
            a_change_of_weight_is_not_about_the_past
            kinds_of_a_share_are_in_ready_order
            jobs_without_keys_are_owed_nothing
            the_oldest_job_of_a_lane_is_told
            retries_keep_to_their_budget
            first_starts_make_room_for_retries
            a_budget_that_is_taken_away_holds_nothing
        );
        $crate::engine_cases!(@ $mode $rig, circuits:
            failures_open_a_circuit
            one_probe_starts_per_interval
            a_probe_that_succeeds_closes_the_circuit
            a_probe_that_says_nothing_is_followed_by_another
            a_share_of_failures_opens_a_circuit
            an_operator_opens_and_closes_a_circuit
            a_probe_does_not_use_up_a_job
            a_dependency_that_stays_away_does_not_keep_its_jobs
            a_circuit_without_jobs_is_forgotten
        );
        $crate::engine_cases!(@ $mode $rig, lease:
            an_extended_lease_ends_later
            a_lease_never_moves_back
            a_lease_that_ran_out_is_held_until_reaped
            extend_tells_gone_from_stolen
            extend_answers_for_each_lease_in_order
            extend_tells_of_a_cancellation
        );
        $crate::engine_cases!(@ $mode $rig, reap:
            a_lease_is_reaped_after_its_end_not_at_it
            a_lost_job_is_ready_in_its_old_place
            crashes_count_apart_from_attempts
            a_job_that_crashes_too_often_is_quarantined
            crashes_of_before_the_push_count
            a_reap_is_bounded_and_takes_the_oldest_first
            a_reaped_holder_settles_nothing
            promote_is_bounded_and_takes_the_earliest_first
        );
        $crate::engine_cases!(@ $mode $rig, settle:
            success_ends_the_job
            a_retry_counts_and_waits
            a_retry_without_delay_is_ready_at_once
            death_counts_and_ends_the_job
            a_snooze_waits_and_does_not_count
            a_release_returns_the_job_to_its_old_place
            a_cancelled_attempt_ends_the_job_and_does_not_count
            a_repeated_settle_changes_nothing
            a_later_lease_beats_an_earlier_one
            a_wrong_token_settles_nothing
            a_fence_from_the_future_settles_nothing
            settle_after_confirm_is_gone
            a_settle_after_the_end_of_its_lease_counts
            settles_of_one_call_stand_alone
            a_settled_job_stays_until_confirmed
            details_travel_unchanged
        );
        $crate::engine_cases!(@ $mode $rig, cancel:
            a_ready_job_is_removed
            a_delayed_job_is_removed
            an_absent_job_is_kept_out
            a_running_job_is_told_and_does_not_start_again
            a_running_job_that_succeeds_has_succeeded
            a_running_job_is_spared_on_request
            a_running_job_whose_lease_runs_out_ends_as_cancelled
            a_finished_job_is_left_to_its_outcome
            cancel_answers_for_each_job_in_order
        );
        $crate::engine_cases!(@ $mode $rig, tombstones:
            a_tombstone_outlives_the_push_window
            a_tombstone_stands_for_its_time_and_no_longer_than_twice
            a_confirmed_job_stays_out
            a_redriven_job_gets_in
            a_tombstone_is_never_lowered
            the_end_of_a_redriven_job_stands_too
        );
        $crate::engine_cases!(@ $mode $rig, outbox:
            outcomes_come_in_order_without_gaps
            the_first_outcome_is_numbered_by_engine_time
            a_reader_bounds_what_it_gets
            confirm_is_repeatable
            confirm_of_an_outcome_that_is_not_there_forgets_nothing
            numbers_go_on_after_a_confirmation
            confirm_forgets_only_what_it_names
            a_recorded_retry_leaves_the_job_alone
            a_second_end_waits_for_its_own_confirmation
            a_confirmed_job_leaves_its_room
        );
        $crate::engine_cases!(@ $mode $rig, look:
            peek_shows_every_state
            peek_counts_the_jobs_ahead
            exists_knows_every_state
            leases_are_listed_oldest_first
            a_list_of_leases_goes_on_where_it_stopped
            stats_count_everything
            settings_never_go_back
            shards_are_apart
            an_unknown_shard_is_empty
        );
        $crate::engine_cases!(@ $mode $rig, signals:
            a_push_wakes
            a_job_for_later_does_not_wake_until_promoted
            a_resumed_shard_wakes
            a_returned_job_wakes
            a_lifted_brake_wakes
            outcomes_wake_the_recorder
            a_cancellation_is_told_to_the_holder
            other_sorts_are_not_heard
            other_shards_are_not_heard
            a_shut_gate_is_told
            an_opened_shard_wakes
        );
        $crate::engine_cases!(@ $mode $rig, gate:
            a_fresh_shard_has_no_gate
            a_shut_gate_gives_nothing_and_takes_nothing_back
            a_gate_opens_for_the_process_that_was_compared
            generations_never_go_back
            a_late_shut_changes_nothing
            a_shard_of_another_ledger_is_emptied
            opening_takes_settings_unless_the_shard_has_newer_ones
            workers_report_to_a_shut_gate
            nothing_is_reaped_during_the_grace
            without_leases_there_is_no_grace
            a_jump_of_engine_time_spares_leases
            signs_of_life_tell_a_jump_from_passing_time
            the_ramp_bounds_leases
            jobs_are_given_to_those_of_their_ledger
            replies_tell_what_is_recorded
        );
        $crate::engine_cases!(@ $mode $rig, adopt:
            a_lost_lease_is_put_back
            an_adopted_job_can_be_lost_and_run_again
            a_lease_that_is_held_is_extended_by_adoption
            what_has_ended_is_over
            a_later_lease_or_fence_is_not_taken_away
            a_lower_tally_ends_no_lease
            a_retried_attempt_is_not_adopted
            a_settled_lease_is_not_adopted
            an_older_view_gives_way
            adoption_is_bound_once_the_gate_is_sealed
            a_stale_end_gives_way_to_a_later_lease
            adoption_needs_no_room
            adopt_answers_for_each_lease_in_order
            a_walk_sees_every_state
            a_walk_sees_all
            only_what_was_seen_is_dropped
            a_buried_job_stays_out
        );
        $crate::engine_cases!(@ $mode $rig, withdraw:
            a_withdrawn_job_is_out
            a_withdrawn_job_that_runs_again_comes_back_waiting
            an_outcome_that_the_engine_knows_is_told_apart
            what_waits_of_a_job_goes_before_its_withdrawal
            a_long_outbox_is_looked_through_once
            a_job_of_others_is_not_withdrawn
        );
        $crate::engine_cases!(@ $mode $rig, feed:
            events_are_read_in_order_once
            a_reader_from_another_life_starts_over
            namespaces_have_feeds_of_their_own
        );
    };
    (@ together $rig:path, $module:ident: $($case:ident)*) => {
        #[tokio::test]
        async fn $module() {
            $(
                // Shown only when the test fails: the last one is the case that did.
                println!("{}", stringify!($case));
                let rig = $rig().await;
                $crate::testkit::engine_suite::$module::$case(&rig).await;
            )*
        }
    };
    (@ apart $rig:path, $module:ident: $($case:ident)*) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $case() {
                    let rig = $rig().await;
                    $crate::testkit::engine_suite::$module::$case(&rig).await;
                }
            )*
        }
    };
}
