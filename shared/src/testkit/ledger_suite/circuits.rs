//! Circuits: their names, what is set of them, and how it comes to shards.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;

use super::scene::{Scene, at};
use crate::engine::flow::{CircuitMode, CircuitSetting, FlowKey};
use crate::ledger::circuits::{
    CIRCUITS_KNOWN_MAX, CIRCUITS_SET_MAX, Circuit, CircuitSet, CircuitSettings,
};
use crate::ledger::{Paused, QueueSettings};
use crate::model::name::CircuitName;
use crate::model::time::Span;

super::cases![
    names_are_noted_once_and_listed_in_order,
    settings_read_back,
    settings_replace_only_the_version_that_was_seen,
    every_queue_of_the_namespace_carries_what_is_set,
    a_circuit_that_cannot_be_read_hides_no_others,
    a_version_has_one_meaning,
    names_have_a_bound,
    settings_have_a_bound,
];

fn name(text: &str) -> CircuitName {
    text.parse().expect("a legal name")
}

fn settings() -> CircuitSettings {
    CircuitSettings {
        mode: CircuitMode::Open,
        since: Some(at(1)),
        by: Some("key-1".into()),
        reason: Some("maintenance \"x\"".into()),
        failures: Some(3),
        window: Some(Span(Duration::from_secs(30))),
        percent: Some(0),
        calls_min: Some(7),
        probe: Some(Span(Duration::from_millis(1_500))),
    }
}

fn rule(failures: u32) -> CircuitSettings {
    CircuitSettings { failures: Some(failures), ..CircuitSettings::default() }
}

async fn set(scene: &Scene, of: &str, seen: u64, settings: &CircuitSettings) -> CircuitSet {
    scene.ledger.set_circuit(&scene.namespace, &name(of), seen, settings).await.unwrap()
}

async fn done(scene: &Scene, of: &str, seen: u64, settings: &CircuitSettings) -> Circuit {
    match set(scene, of, seen, settings).await {
        CircuitSet::Done(circuit) => circuit,
        other => panic!("{other:?}"),
    }
}

async fn names_are_noted_once_and_listed_in_order(scene: &Scene) {
    let (ledger, namespace) = (&scene.ledger, &scene.namespace);
    ledger.note_circuits(namespace, &[name("b"), name("Z"), name("b")]).await.unwrap();
    let first = ledger.circuit(namespace, &name("b")).await.unwrap().unwrap();
    assert_eq!((first.version, &first.settings), (0, &CircuitSettings::default()));
    ledger.note_circuits(namespace, &[name("b"), name("a.example:8443")]).await.unwrap();
    ledger.note_circuits(namespace, &[]).await.unwrap();
    assert_eq!(ledger.circuit(namespace, &name("b")).await.unwrap().as_ref(), Some(&first));
    assert_eq!(ledger.circuit(namespace, &name("c")).await.unwrap(), None);
    scene
        .elsewhere()
        .ledger
        .note_circuits(&scene.elsewhere().namespace, &[name("x")])
        .await
        .unwrap();
    let names = |page: &crate::ledger::circuits::CircuitPage| {
        page.circuits.iter().map(|c| c.name.to_string()).collect::<Vec<_>>()
    };
    let page = ledger.circuits(namespace, "", 2).await.unwrap();
    assert_eq!(
        (names(&page), page.next.as_deref()),
        (vec!["Z".into(), "a.example:8443".into()], Some("a.example:8443"))
    );
    let rest = ledger.circuits(namespace, "a.example:8443", 2).await.unwrap();
    assert_eq!((names(&rest), rest.next), (vec!["b".into()], None));
}

async fn settings_read_back(scene: &Scene) {
    let (ledger, namespace) = (&scene.ledger, &scene.namespace);
    let made = done(scene, "smtp", 0, &settings()).await;
    assert_eq!((made.name.as_str(), &made.settings, made.version), ("smtp", &settings(), 1));
    assert_eq!(ledger.circuit(namespace, &made.name).await.unwrap().as_ref(), Some(&made));
    // Replaced as a whole, not merged.
    let bare = done(scene, "smtp", 1, &CircuitSettings::default()).await;
    assert_eq!((bare.settings, bare.version), (CircuitSettings::default(), 2));
    assert_eq!(bare.noted_at, made.noted_at);
}

async fn settings_replace_only_the_version_that_was_seen(scene: &Scene) {
    scene.ledger.note_circuits(&scene.namespace, &[name("c")]).await.unwrap();
    assert_eq!(set(scene, "c", 1, &rule(1)).await, CircuitSet::Changed);
    let first = done(scene, "c", 0, &rule(1)).await;
    assert_eq!(set(scene, "c", 0, &rule(2)).await, CircuitSet::Changed);
    // Side by side one wins.
    let tries = (0..4).map(|n| set(scene, "c", first.version, if n == 0 { &TWO } else { &THREE }));
    let won = join_all(tries).await.into_iter().filter(|set| matches!(set, CircuitSet::Done(_)));
    assert_eq!(won.count(), 1);
}

static TWO: CircuitSettings = of(2);
static THREE: CircuitSettings = of(3);

const fn of(failures: u32) -> CircuitSettings {
    CircuitSettings {
        mode: CircuitMode::Auto,
        since: None,
        by: None,
        reason: None,
        failures: Some(failures),
        window: None,
        percent: None,
        calls_min: None,
        probe: None,
    }
}

/// Goal: queues that are there, and those that come, carry every circuit that is set, under a version that rises with
/// each change of either.
async fn every_queue_of_the_namespace_carries_what_is_set(scene: &Scene) {
    let (ledger, namespace, queue) = (&scene.ledger, &scene.namespace, &scene.queue);
    let none = QueueSettings::default();
    let made = ledger.set_queue(namespace, queue, None, &none).await.unwrap().unwrap();
    assert_eq!(
        (made.shard_version(), made.shard_settings().flow.circuits.len()),
        (made.version, 0)
    );
    ledger.note_circuits(namespace, &[name("quiet")]).await.unwrap();
    done(scene, "smtp", 0, &settings()).await;
    done(scene, "other", 0, &rule(9)).await;
    let other = scene.elsewhere();
    done(&other, "smtp", 0, &rule(1)).await;

    let seen = ledger.queue(namespace, queue).await.unwrap().unwrap();
    assert_eq!((seen.version, seen.shard_version()), (made.version, made.version + 2));
    let circuits = seen.shard_settings().flow.circuits;
    let smtp = CircuitSetting {
        mode: CircuitMode::Open,
        failures: 3,
        window_ms: 30_000,
        percent: 0,
        calls_min: 7,
        probe_us: 1_500_000,
    };
    let nine = CircuitSetting { failures: 9, ..CircuitSetting::default() };
    assert_eq!(circuits, [(FlowKey::of("smtp"), smtp), (FlowKey::of("other"), nine)].into());
    assert_eq!(seen.shard_settings().version, seen.shard_version());

    let listed = ledger.queues(Some(namespace)).await.unwrap();
    assert_eq!(listed, std::slice::from_ref(&seen));
    let paused = ledger.set_paused(namespace, queue, None).await.unwrap();
    assert_eq!(
        (paused.shard_version(), &paused.circuits),
        (seen.shard_version() + 1, &seen.circuits)
    );
    let set = ledger.set_queue(namespace, queue, None, &none).await.unwrap().unwrap();
    assert_eq!((set.shard_version(), &set.circuits), (seen.shard_version() + 2, &seen.circuits));
    let fresh = ledger.set_queue(namespace, &"fresh".parse().unwrap(), None, &none).await;
    assert_eq!(fresh.unwrap().unwrap().circuits, seen.circuits);

    // Back to the default: nothing is carried, and the version still rises.
    done(scene, "smtp", 1, &CircuitSettings::default()).await;
    let back = ledger.queue(namespace, queue).await.unwrap().unwrap();
    assert_eq!(back.shard_version(), set.shard_version() + 1);
    assert_eq!(back.shard_settings().flow.circuits, [(FlowKey::of("other"), nine)].into());
}

async fn a_circuit_that_cannot_be_read_hides_no_others(scene: &Scene) {
    let (ledger, namespace, queue) = (&scene.ledger, &scene.namespace, &scene.queue);
    ledger.set_queue(namespace, queue, None, &QueueSettings::default()).await.unwrap();
    done(scene, "a", 0, &rule(1)).await;
    done(scene, "b", 0, &rule(2)).await;
    let newer = "UPDATE circuits SET settings = '{\"failures\":4,\"novel\":{}}'";
    ledger.tamper(format!("{newer} WHERE namespace = '{namespace}' AND name = 'b'")).await.unwrap();
    let broken = "UPDATE circuits SET settings = '{\"mode\":\"novel\"}'";
    ledger
        .tamper(format!("{broken} WHERE namespace = '{namespace}' AND name = 'a'"))
        .await
        .unwrap();
    let page = ledger.circuits(namespace, "", 9).await.unwrap();
    let seen: Vec<_> = page.circuits.iter().map(|c| (c.name.as_str(), &c.settings)).collect();
    assert_eq!(seen, [("b", &rule(4))], "fields of a newer build are passed over");
    let queue = ledger.queue(namespace, queue).await.unwrap().unwrap();
    assert_eq!(queue.circuits.set.len(), 1);
    assert_eq!(queue.circuits.revision, 2, "it counts all the same");
}

/// Goal: no two states of a queue with its circuits have one version: the later one, a pause perhaps, would lose.
/// Method: a queue is paused and resumed, and a circuit set, again and again, while others read.
async fn a_version_has_one_meaning(scene: &Scene) {
    const CHANGES: u32 = 100;
    let (ledger, namespace, queue) = (&scene.ledger, &scene.namespace, &scene.queue);
    ledger.set_queue(namespace, queue, None, &QueueSettings::default()).await.unwrap();
    done(scene, "c", 0, &rule(1)).await;
    let over = std::sync::atomic::AtomicU32::new(0);
    let pauses = async {
        for n in 0..CHANGES {
            let paused =
                (n % 2 == 0).then(|| Paused { since: at(1), by: "t".into(), reason: None });
            ledger.set_paused(namespace, queue, paused.as_ref()).await.unwrap();
        }
        over.fetch_add(1, Ordering::SeqCst);
    };
    let rules = async {
        for n in 0..CHANGES {
            done(scene, "c", u64::from(n) + 1, &rule(n + 2)).await;
        }
        over.fetch_add(1, Ordering::SeqCst);
    };
    let meanings = std::sync::Mutex::new(BTreeMap::new());
    let reads = async || {
        while over.load(Ordering::SeqCst) < 2 {
            let read = ledger.queue(namespace, queue).await.unwrap().unwrap();
            let settings = read.shard_settings();
            let mut meanings = meanings.lock().unwrap();
            let known = meanings.entry(settings.version).or_insert_with(|| settings.clone());
            assert_eq!(*known, settings);
        }
    };
    futures::join!(pauses, rules, reads(), reads(), reads());
    assert!(meanings.lock().unwrap().len() > 10);
}

async fn names_have_a_bound(scene: &Scene) {
    let (ledger, namespace) = (&scene.ledger, &scene.namespace);
    fill(scene, 1, CIRCUITS_KNOWN_MAX, 0).await;
    ledger.note_circuits(namespace, &[name("x"), name("y"), name("n2")]).await.unwrap();
    let known = [
        ledger.circuit(namespace, &name("x")).await.unwrap().is_some(),
        ledger.circuit(namespace, &name("y")).await.unwrap().is_some(),
    ];
    assert_eq!(known.iter().filter(|known| **known).count(), 1, "there was room for one");
    done(scene, "z", 0, &rule(1)).await;
    done(scene, "n2", 0, &rule(1)).await;
}

async fn settings_have_a_bound(scene: &Scene) {
    fill(scene, 1, CIRCUITS_SET_MAX, 1).await;
    done(scene, "last", 0, &rule(1)).await;
    assert_eq!(set(scene, "over", 0, &rule(1)).await, CircuitSet::Full);
    done(scene, "n5", 1, &CircuitSettings::default()).await;
    done(scene, "over", 0, &rule(1)).await;
}

/// Circuits `n1` to below `end`, of this version.
async fn fill(scene: &Scene, first: u64, end: u64, version: u64) {
    let rows: Vec<String> = (first..end)
        .map(|n| {
            let settings = if version > 0 { "{\"failures\":7}" } else { "{}" };
            format!("('{}', 'n{n}', '{settings}', {version}, 1)", scene.namespace)
        })
        .collect();
    let insert = "INSERT INTO circuits (namespace, name, settings, version, noted_at) VALUES";
    scene.ledger.tamper(format!("{insert} {}", rows.join(", "))).await.unwrap();
}
