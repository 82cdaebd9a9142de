//! The protocol between ledger, engine, workers and leader as a model that is searched to its last state: no state may break a
//! promise, and each rule of the protocol is taken out once to see that the search notices. `docs/protocol.md` has the results.
//!
//! `state` and `shard` are what a state holds, `rules` what can be taken out; `ledger` and `engine` are single transactions and scripts;
//! `delivery`, `workers`, `direct`, `leader` and `world` are the steps; `checks` is what must hold.

mod checks;
mod delivery;
mod direct;
mod engine;
mod leader;
mod ledger;
mod moves;
mod mutations;
mod rules;
mod scopes;
mod search;
mod shard;
mod state;
mod workers;
mod world;

use checks::Check;
use mutations::{LONG_MUTATIONS, MUTATIONS, Mutation};
use rules::{Rules, Scope};
use search::{Until, search};

/// Searched as well if this is set; see the page for what it costs.
const LONG: &str = "WINDLASS_PROTOCOL_LONG";

fn assert_nothing_breaks(scope: &Scope) {
    let found = search(scope, Rules::FULL, Until::AllSeen);
    println!("{}: {} states, {} steps", scope.name, found.states, found.steps);
    for (check, count, story) in &found.broken {
        println!("{check} ({count} times), first by\n{story}");
    }
    assert!(found.broken.is_empty(), "{}: the protocol breaks its promises", scope.name);
}

#[test]
fn promises_hold_without_a_loss() {
    scopes::LOSSLESS.iter().for_each(assert_nothing_breaks);
}

#[test]
fn promises_hold_when_the_store_loses_data() {
    scopes::LOSSES.iter().for_each(assert_nothing_breaks);
}

#[test]
fn promises_hold_when_the_job_is_tried_again() {
    scopes::RETRIES.iter().for_each(assert_nothing_breaks);
}

#[test]
fn promises_hold_with_late_workers() {
    scopes::LATE_WORKERS.iter().for_each(assert_nothing_breaks);
}

#[test]
fn promises_hold_whoever_opens_the_shard() {
    scopes::OPENINGS.iter().for_each(assert_nothing_breaks);
}

#[test]
fn promises_hold_in_larger_worlds_if_asked_for() {
    if std::env::var_os(LONG).is_some() {
        scopes::LONG.iter().for_each(assert_nothing_breaks);
    }
}

#[test]
fn without_any_one_rule_a_promise_breaks() {
    assert_noticed(MUTATIONS);
}

#[test]
fn without_any_one_rule_a_promise_breaks_in_larger_worlds_if_asked_for() {
    if std::env::var_os(LONG).is_some() {
        assert_noticed(LONG_MUTATIONS);
    }
}

fn assert_noticed(mutations: &[Mutation]) {
    let mut unnoticed = Vec::new();
    for mutation in mutations {
        let found = mutations::find(mutation);
        println!("{}: {} ({} states)", mutation.name, mutation.breaks, found.states);
        match found.breaks(mutation.breaks) {
            Some(story) => println!("{story}"),
            None => unnoticed.push(mutation.name),
        }
    }
    assert!(unnoticed.is_empty(), "the search does not notice: {unnoticed:?}");
}

/// Says in a test what the protocol does not promise. Once it does, this fails, and the page is to be changed.
#[test]
fn a_process_that_goes_back_in_place_is_not_noticed() {
    let found = search(&scopes::IN_PLACE, Rules::FULL, Until::Breaks(Check::CleanLossRepeats));
    let story = found.breaks(Check::CleanLossRepeats).expect("the gate came back with the data");
    println!("{story}");
}
