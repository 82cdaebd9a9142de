//! Faults planted in the scripts: the comparison with the model notices each of them. A comparison that
//! passes everything would prove nothing.

use windlass_shared::engine::redis::PlantedFault;
use windlass_shared::testkit::histories::compare::{play, play_within};
use windlass_shared::testkit::histories::{draw, long};
use windlass_shared::testkit::redis_server::RedisServer;

use crate::redis_rig::Stage;

/// Histories within which a fault must show; the full run plays five times as many.
const HISTORIES_MAX: u64 = 1_600;
const STEPS: usize = 25;

/// Within so many of those with many jobs in lanes.
const LONG_MAX: u64 = 400;

/// Opening the stage panics when `find` is in no script.
async fn is_noticed(find: &'static str, replace: &'static str) {
    let fault = PlantedFault { find, replace };
    let stage = Stage::of_histories(RedisServer::shared().url(), Some(fault)).await;
    for seed in 0..HISTORIES_MAX {
        // A broken script may also leave keys that contradict each other, or fail.
        let mut redis = stage.fresh().tolerant();
        if play(&mut redis, &draw(seed, STEPS)).await.is_some() || redis.broke() {
            return;
        }
    }
    panic!("{HISTORIES_MAX} histories did not notice `{find}` becoming `{replace}`");
}

/// The same of what only shows where many jobs are leased at a time.
async fn is_noticed_by_long_ones(find: &'static str, replace: &'static str) {
    let fault = PlantedFault { find, replace };
    let stage = Stage::open(RedisServer::shared().url(), long::WIDE, Some(fault)).await;
    for seed in 0..LONG_MAX {
        let mut redis = stage.fresh().tolerant();
        let steps = long::draw(seed, STEPS);
        if play_within(long::WIDE, &mut redis, &steps).await.is_some() || redis.broke() {
            return;
        }
    }
    panic!("{LONG_MAX} histories did not notice `{find}` becoming `{replace}`");
}

macro_rules! faults {
    ($by:ident; $($name:ident: $find:literal => $replace:literal;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                $by($find, $replace).await;
            }
        )*
    };
}

faults! {
    is_noticed;
    another_fence_may_settle: "if not is_held(held) or sub(held, 31, 54) ~= sub(settle, 1, 24) then" => "if not is_held(held) or sub(held, 31, 46) ~= sub(settle, 1, 16) then";
    an_unknown_fence_is_called_stolen: "if fence < given then return \"G\" end" => "if fence < given then return \"T\" end";
    any_token_may_settle: "sub(held, 31, 54) ~= sub(settle, 1, 24) then" => "sub(held, 47, 54) ~= sub(settle, 17, 24) then";
    a_reaped_holder_may_settle: "crashes .. NO_TOKEN .. sub(held, 47, 54)" => "crashes .. sub(held, 31, 54)";
    confirm_leaves_no_tombstone: "    buried[2 * gone_count - 1], buried[2 * gone_count] = terminal[i], fences[i]\n" => "";
    push_ignores_tombstones: "if tomb > fence or same then return \"P\" end" => "";
    a_tombstone_bars_what_waits: "(not partly[i] or byte(forms, i) == 1)" => "true";
    a_tombstone_lets_in_what_is_under_way: "(not partly[i] or byte(forms, i) == 1)" => "not partly[i]";
    a_weaker_tombstone_takes_its_place: "stands > fence or (stands == fence and not stands_part)" => "stands > fence";
    a_settled_lease_stays: "each(\"ZREM\", LEASES, ended_leases)" => "0";
    reap_waits_a_millisecond_less: "\"-inf\", \"(\" .." => "\"-inf\", \"\" ..";
    a_retry_is_not_counted: "if ended == SUCCEEDED or ended == RETRY or" => "if ended == SUCCEEDED or";
    the_fence_stands_still: "held and 47 or 1) + 1, packed_now" => "held and 47 or 1), packed_now";
    a_wrong_score: "due_ms - priority % 128 * unit_ms" => "due_ms + priority % 128 * unit_ms";
    a_cancelled_job_runs_again: "or ended == RELEASED) then ended = CANCELLED" => "or false) then ended = CANCELLED";
    confirm_forgets_the_bytes: "bytes = bytes - detail_bytes - count * OUTCOME_BYTES" => "bytes = bytes - detail_bytes";
    a_lease_moves_back: "if wanted_ms > until_ms then" => "if wanted_ms ~= until_ms then";
    quarantine_comes_late: "if unpacked(\">I4\", crashes) < unpacked" => "if unpacked(\">I4\", crashes) <= unpacked";
    expiry_is_ignored: "return unpacked(\">i8\", job, 42) <= now" => "return false";
    old_settings_win: "if unpacked(\">I8\", given) < version then return nil end" => "";
    tombstones_stand_for_one_window: "for number = standing_window - 1, standing_window do" => "for number = standing_window, standing_window do";
    delayed_jobs_take_room: "local head = entries - waiting" => "local head = entries";
    any_number_waits: "refusal = waiting >= jobs_max and" => "refusal = false and";
    a_circuit_closes_at_once: "if circuit.state == 1 or ease_of(circuit) then" => "if circuit.state == 1 then";
    jobs_after_a_probe_are_not_apart: "circuit.probe_at = max(circuit.probe_at, now) + apart" => "circuit.probe_at = now";
    retries_are_not_counted: "bucket.us, bucket.dirty, bucket.known = bucket.us - count * retries.interval, true, true" => "bucket.dirty = true";
    a_retry_at_once_is_free: "local waits = ended == RETRY and delay == 0 and retries" => "local waits = false and retries";
    a_retry_at_once_passes_others: "if waits and not any_behind and not few.behind(1)[1] and" => "if waits and";
    first_starts_leave_no_credit: "local us = min(had.us + floor(" => "local us = min(had.us + 0 * floor(";
    any_start_is_a_first_one: "if retries.interval > 0 and not held and sub(job, 9, 16) == \"\\0\\0\\0\\0\\0\\0\\0\\0\" then" => "if retries.interval > 0 then";
    retries_wait_for_a_budget_that_is_gone: "return retries.interval > 0 or (is_active()" => "return retries.interval > 0 or (false and is_active()";
    a_group_takes_all_room: "return waiting >= most" => "return head >= jobs_max";
    jobs_without_keys_are_no_group: "waiting = waiting + unkeyed end" => "waiting = waiting end";
    a_refused_group_is_not_noted: "if not is_later and not refused[group] then" => "if false then";
    a_crowded_group_has_room: "waiting < BOUNDS.refill * free and 1 or 0" => "1";
    fresh_jobs_pass_those_in_the_ledger: "if refused[group] or noted[group] then return true end" => "";
    a_group_stays_refused: "each(\"ZREM\", KEYS[15], groups)" => "";
    a_replaced_job_still_waits: "then waiting = waiting - 1 else head" => "then waiting = waiting else head";
    the_brake_is_off: "outbox_bytes >= OUTBOX_BYTES_MAX or" => "";
    a_shut_gate_gives_leases: "if not verified() then\n  state" => "if false then\n  state";
    a_shut_gate_reaps: "or not verified() then return 0, 0 end" => "then return 0, 0 end";
    a_grace_is_skipped: "return now >= unpacked(\">I8\", rest, 17)" => "return true";
    a_jump_goes_unnoticed: "now > seen + CLOCK_STEP_US and" => "false and";
    a_claim_is_no_sign_of_life: "if leased > 0 then put(9, packed_now) end" => "";
    the_ramp_is_ignored: "if elapsed >= ramp then return nil end" => "if true then return nil end";
    an_older_generation_shuts: "present > given or (present == given and not is_shut())" => "present == given and not is_shut()";
    a_verified_shard_is_shut_again: "or (present == given and not is_shut()) then" => "then";
    a_foreign_shard_keeps_its_outcomes: "DELAYED, LEASES, OUTBOX, TOMBS0" => "DELAYED, LEASES, TOMBS0";
    opening_takes_older_settings: "local found = take_settings(3)" => "version = -1 local found = take_settings(3)";
    an_ended_lease_is_adopted: "if old_fence == fence and ended then return -2 end" => "";
    a_settled_lease_is_adopted: "or (held and sub(held, 31, 46) == sub(proof, 1, 16))" => "";
    a_foreign_push_is_taken: "if has_gate() and sub(rest, 25, 40) ~= ARGV[4] then" => "if false then";
    an_older_push_is_taken: "or generation() > max(tonumber(ARGV[3]), 1) then" => "then";
    another_generation_is_sealed: "if sub(rest, 25, 48) ~= ARGV[2] .. ARGV[3] or not" => "if not";
    a_withdrawn_job_leaves_no_tombstone: "bury(buried)" => "";
    another_holder_is_withdrawn: "return token ~= NO_TOKEN and token ~= sub(held, 31, 46) and \"T\" end" => "return false end";
    what_waits_of_a_withdrawn_job_is_overlooked: "if waiting[id] then return \"W\" end" => "";
    some_of_the_outbox_is_enough: "if last < all then return \"B\" end" => "";
    the_outbox_is_looked_at_from_the_first: "skip = max(unpacked(\">I8\", looked) - before, 0) end" => "skip = 0 end";
    a_settle_is_not_known: "if held and settled_here(lease, held) then return \"K\" end" => "";
    any_end_is_known: "(status == FINISHING and over)" => "status == FINISHING";
    any_later_lease_has_counted: "and attempt > unpacked(\">I4\", lease, 29) and" => "and";
    any_outcome_has_counted: "return byte(lease, 33) == 1 and attempt" => "return attempt";
    a_walk_tells_an_old_tally: "sub(held, 27, 30) .. sub(held, 55, 74) .. told" => "sub(jobs[i], 9, 32) .. told";
    a_finishing_job_is_adopted: "if status == FINISHING then return (bound or old_fence >= fence) and -1 or 2 end" => "";
    adoption_forgets_bytes: "bytes = bytes + length\n      job =" => "job =";
    another_instant_is_confirmed: "and sub(outcome, 90, 97) == sub(mark, 33)" => "";
    nothing_is_noted_as_recorded: "put(1, sub(listed[count], 1, 8))" => "";
    any_fence_is_dropped: "if head and sub(head, 1, 8) == fence then" => "if head then";
    an_open_gate_takes_reports: "if is_shut() and sub(rest, 25, 48)" => "if sub(rest, 25, 48)";
    another_verification_takes_reports: "and sub(rest, 25, 48) == ARGV[3] then call(\"SADD\"" => "then call(\"SADD\"";
    a_full_key_gives: "few.running_of(scope) >= most" => "few.running_of(scope) > most";
    a_full_queue_gives: "leases_max = min(leases_max, queue_left)" => "";
    a_rate_is_not_spent: "rates[scope], rates_dirty[scope] = due_of(scope, interval, burst) + min(units, burst) * interval, true" => "";
    a_burst_is_too_large: "(burst - min(units, burst)) * interval" => "(burst - min(units, burst) + 1) * interval";
    a_reopened_shard_has_its_bursts: "seen.ramp > 0 and seen.opened + interval * burst or 0" => "0";
    an_end_gives_nobody_a_chance: "running[scope] - 1 end\n  wake_lane(scope)" => "running[scope] - 1 end";
    a_chance_is_not_passed_on: "if scope ~= holds then wake_lane(scope) end" => "";
    old_tags_decide: "local tag = tag_of(entry.key)" => "local tag = entry.tag";
    a_tag_outlives_its_share: "left[#left + 1] = \"n\" .. name" => "";
    a_share_is_not_known_to_stand: "new[new_count + 1], new[new_count + 2] = \"0\", \"s\" .. name" => "new_count = new_count - 2";
    a_newcomer_is_owed: "      lift(share, level)\n" => "";
    pools_have_one_time: "if tag and tag < level then level = tag end" => "";
    what_runs_costs_nothing: "(runs > cost and runs or cost)" => "cost";
    a_start_costs_nothing: "(runs > cost and runs or cost)" => "runs";
    a_weight_is_about_the_past: "share.had = floor(share.had / old) * new + floor(share.had % old * new / old)" => "";
    jobs_without_keys_save_up: "if ready_left == 0 and is_active() then few.lift_unkeyed() end" => "";
    a_debt_is_forgiven: "if debt == 0 or rested" => "if true or rested";
    other_limits_wake_nobody: "if not is_same then" => "if false then";
    a_lane_that_is_aside_is_looked_at: "local list = seen.places[lanes[i]] and met or found" => "local list = found";
    a_turn_outlives_its_job: "\"j\" .. lane .. order .. id, few.own_turn(flow, order, id)) == 0" => "\"j\" .. lane .. order .. id) == 0";
    a_share_stands_where_it_has_left: "if not few.has_turn(place, share) then set_noted(share, place, false) end" => "";
    lanes_that_are_aside_come_last: "if own and not (turn and few.is_before(" => "if own and not (turn and false and few.is_before(";
    a_woken_lane_is_not_aside: "few.note_place(lane, \"f\" .. kind)\n      stand(" => "few.note_place(lane, false)\n      stand(";
    an_empty_lane_stays_aside: "if not next then\n    few.note_place(lane, false)" => "if not next then";
    jobs_of_a_lane_that_is_aside_stand_alone: "if before then\n    call(\"ZADD\", FLOW, \"0\", member)" => "if false then";
    a_share_is_never_idle: "seen.idle[key] = true" => "";
    a_probe_is_not_alone: "return circuit.state == 2\nend" => "return false\nend";
    a_failed_probe_counts: "if spared and (ended == RETRY" => "if false and (ended == RETRY";
    the_last_failure_of_a_probe_counts: "or (ended == DEAD and told == 3)) then ended = SNOOZED end" => ") then ended = SNOOZED end";
    an_idle_circuit_is_never_forgotten: "if till <= now then forget_circuit(circuit) else" => "if till > now then";
    a_circuit_never_opens: "if opens then" => "if false then";
    a_lost_probe_is_forgotten: "if few.is_probe(flow, id, fence) then probe_later" => "if false then probe_later";
    leases_of_a_kind_limited_late_do_not_count: "call(\"ZADD\", FLOW, \"0\", \"rk\" .. key .. ids[i])" => "";
    lanes_of_any_kind_are_given: "(few.wanted and not few.wanted[kind])" => "false";
    kinds_that_are_asked_for_are_overlooked: "for _, kind in ipairs(asked) do few.add_kind(kind) end" => "";
    what_starts_here_is_not_all_that_runs: "seen.running[sort] = seen.running[sort] + 1" => "seen.running[sort] = seen.running[sort]";
    a_rate_is_over_too_early: "if rates[scope] > till then" => "if rates[scope] > till + 1000000 then";
    no_lane_is_aside: "return seen.aside" => "return false";
}

faults! {
    is_noticed_by_long_ones;
    a_run_passes_another_lane: "(entry.before and not few.is_before(item.order, entry.before))" => "false";
    a_run_of_a_lane_passes_other_jobs: "if alone and not (rival and" => "if false and not (rival and";
    a_run_passes_another_share: "if entry.members[entry.at] and not (last and few.is_next(last, entry)) then" => "if entry.members[entry.at] then";
    a_run_passes_jobs_without_keys: "if ready and share ~= NO_KEY and tag >= few.tag_of(NO_KEY) then break end" => "";
    a_run_gives_nobody_a_chance: "if not few.nobody_waits() and not few.unwanted(few.scopes_of(flow)) then return false end" => "";
    who_comes_to_wait_is_overlooked: "if byte(place) ~= 102 then seen.nobody = false end" => "";
    rates_are_mixed_up: "seen.dues[wanted[i]] = due" => "seen.dues[wanted[1]] = due";
    a_run_keeps_the_order_that_it_began_with: "if few.is_next(entry, entries[middle]) then" => "if not few.is_next(entry, entries[middle]) then";
    a_share_is_gone_with_the_jobs_that_were_found: "is_last and not first and not rival" => "not first and not rival";
    a_run_forgets_who_is_first_of_other_kinds: "if others[share] then break end" => "";
    a_run_passes_jobs_without_keys_of_its_share: "if ready and share == NO_KEY and not" => "if false and not";
    one_reckoned_anew_is_passed: "if moved and few.is_next(moved, entry) then" => "if false then";
    a_run_passes_other_kinds: "if tag >= others_tag or" => "if";
    turns_outlive_a_run: "      gone[count + 1] = member\n" => "      gone[count + 1] = \"j\"\n";
    a_lane_that_a_run_has_emptied_stays_aside: "if not next then\n        few.note_place(aside, false)" => "if not next then";
    a_share_stays_that_a_run_has_emptied: "if entry.is_all or not few.has_turn(place, share) then" => "if false then";
    a_run_reckons_for_nothing: "few.note_tag(share, place)" => "";
}
