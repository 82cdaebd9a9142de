//! Results of load tests: kept once, listed latest first, and forgotten when there are many of a profile on a machine.

use uuid::Uuid;

use super::scene::Scene;
use crate::ledger::load_results::{KEPT, ResultFilter, StoredResult};
use crate::model::time::Timestamp;

super::cases![
    a_result_is_kept_as_it_was_given,
    results_are_listed_latest_first_by_what_is_asked_for,
    old_results_of_a_profile_on_a_machine_are_forgotten,
];

/// Of a profile that no other case has.
fn result(profile: &str, machine: &str, passed: bool) -> StoredResult {
    StoredResult {
        id: Uuid::now_v7(),
        profile: profile.to_owned(),
        machine: machine.to_owned(),
        passed,
        began_at: Timestamp::from_millis(1_700_000_000_000),
        result: r#"{"of": "😀 'x' $1 ?"}"#.to_owned(),
    }
}

fn of(profile: &str) -> ResultFilter {
    ResultFilter { profile: Some(profile.to_owned()), ..ResultFilter::default() }
}

async fn add(scene: &Scene, result: &StoredResult) {
    scene.ledger.add_load_result(result).await.unwrap();
}

async fn ids(scene: &Scene, filter: &ResultFilter, limit: u32) -> Vec<Uuid> {
    let found = scene.ledger.load_results(filter, limit).await.unwrap();
    found.into_iter().map(|result| result.id).collect()
}

async fn a_result_is_kept_as_it_was_given(scene: &Scene) {
    let new = result("kept", "here", true);
    assert_eq!(scene.ledger.load_result(new.id).await.unwrap(), None);
    add(scene, &new).await;
    // A repeat, even one that says something else, changes nothing.
    add(scene, &StoredResult { passed: false, ..new.clone() }).await;
    assert_eq!(scene.ledger.load_result(new.id).await.unwrap(), Some(new));
}

async fn results_are_listed_latest_first_by_what_is_asked_for(scene: &Scene) {
    let all = [
        result("listed", "here", true),
        result("listed", "there", true),
        result("listed", "here", false),
        result("other", "here", true),
    ];
    for result in &all {
        add(scene, result).await;
    }
    let at = |places: &[usize]| places.iter().map(|n| all[*n].id).collect::<Vec<_>>();
    assert_eq!(ids(scene, &of("listed"), 10).await, at(&[2, 1, 0]));
    assert_eq!(ids(scene, &of("listed"), 1).await, at(&[2]));
    let before = ResultFilter { before: Some(all[2].id), ..of("listed") };
    assert_eq!(ids(scene, &before, 10).await, at(&[1, 0]));
    let machine = Some("here".to_owned());
    let good = ResultFilter { machine, passed: Some(true), ..of("listed") };
    assert_eq!(ids(scene, &good, 10).await, at(&[0]));
    let bad = ResultFilter { passed: Some(false), ..of("listed") };
    assert_eq!(ids(scene, &bad, 10).await, at(&[2]));
    assert!(ids(scene, &ResultFilter::default(), 500).await.starts_with(&at(&[3])));
}

async fn old_results_of_a_profile_on_a_machine_are_forgotten(scene: &Scene) {
    let elsewhere = result("many", "there", true);
    add(scene, &elsewhere).await;
    let mut all = Vec::new();
    for _ in 0..KEPT + 2 {
        let new = result("many", "here", true);
        add(scene, &new).await;
        all.push(new.id);
    }
    all.reverse();
    let machine = Some("here".to_owned());
    let here = ResultFilter { machine, ..of("many") };
    assert_eq!(ids(scene, &here, 500).await, all[..KEPT as usize]);
    assert!(scene.ledger.load_result(elsewhere.id).await.unwrap().is_some());
}
