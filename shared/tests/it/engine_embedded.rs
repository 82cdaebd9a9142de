//! The embedded engine passes the engines' suite.

use std::sync::Arc;

use windlass_shared::clock::Clock;
use windlass_shared::engine::Engine;
use windlass_shared::engine::embedded::Embedded;
use windlass_shared::model::time::Timestamp;
use windlass_shared::testkit::engine_suite::{BOUNDS, Rig};

async fn rig() -> Rig {
    let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
    let engine = Embedded::with_bounds(clock.clone(), BOUNDS);
    let advance = Box::new(move |by| {
        clock.advance(by);
        Box::pin(std::future::ready(())) as futures::future::BoxFuture<'static, ()>
    });
    Rig::new(Engine::Embedded(Arc::new(engine)), advance)
}

windlass_shared::engine_cases!(crate::engine_embedded::rig);

/// A case that no list names is never run.
#[test]
fn every_case_is_listed() {
    let suite = concat!(env!("CARGO_MANIFEST_DIR"), "/src/testkit/engine_suite");
    let list = std::fs::read_to_string(format!("{suite}.rs")).unwrap();
    let mut cases = 0;
    for file in std::fs::read_dir(suite).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for rest in text.split("\npub async fn ").skip(1) {
            let name = rest.split('(').next().unwrap();
            assert!(list.lines().any(|line| line.trim() == name), "{name} is not listed");
            cases += 1;
        }
    }
    assert!(cases >= 45, "{cases} cases found");
}
