//! publish and feed. Namespaces are a case's own, as feeds are per namespace.

use super::*;
use crate::engine::feed::Event;
use crate::model::job::JobState;

fn namespace() -> Namespace {
    format!("suite-{}", Uuid::new_v4().simple()).parse().expect("a legal name")
}

fn event(n: u8) -> Event {
    Event { id: id(n), state: JobState::Succeeded, at: Timestamp::from_micros(i64::from(n)) }
}

/// From a position on, page by page.
pub async fn events_are_read_in_order_once(rig: &Rig) {
    let namespace = namespace();
    let feed = async |after, max| rig.engine.feed(&namespace, after, max).await.unwrap();
    let start = feed(None, 9).await;
    assert_eq!((start.events.len(), start.reset), (0, false));
    rig.engine.publish(&namespace, &[event(0), event(1)]).await.unwrap();
    rig.engine.publish(&namespace, &[event(2)]).await.unwrap();
    let first = feed(Some(start.position), 2).await;
    let rest = feed(Some(first.position), 2).await;
    assert!(!first.reset && !rest.reset);
    let seen: Vec<Event> = first.events.iter().chain(&rest.events).map(|(_, e)| *e).collect();
    assert_eq!(seen, [event(0), event(1), event(2)]);
    assert_eq!(first.position, first.events[1].0);
    let end = feed(Some(rest.position), 2).await;
    assert_eq!((end.events.len(), end.reset, end.position), (0, false, rest.position));
    assert_eq!(feed(None, 9).await.position, rest.position);
}

/// With a position of a feed that was lost with its engine.
pub async fn a_reader_from_another_life_starts_over(rig: &Rig) {
    let namespace = namespace();
    rig.engine.publish(&namespace, &[event(0)]).await.unwrap();
    for position in [1, u64::from(u32::MAX) << 20] {
        let page = rig.engine.feed(&namespace, Some(position), 9).await.unwrap();
        assert!(page.reset);
        assert_eq!(page.events.len(), 1);
    }
}

/// Nobody sees another's jobs.
pub async fn namespaces_have_feeds_of_their_own(rig: &Rig) {
    let (one, other) = (namespace(), namespace());
    let start = rig.engine.feed(&other, None, 9).await.unwrap().position;
    rig.engine.publish(&one, &[event(0)]).await.unwrap();
    assert_eq!(rig.engine.feed(&other, Some(start), 9).await.unwrap().events, []);
}
