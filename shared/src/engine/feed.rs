//! The live feed: which jobs changed, lately. A convenience for those who watch, not a record: it is capped,
//! and lost with the engine. A reader that fell behind is told to start over.

use std::collections::VecDeque;

use crate::model::id::JobId;
use crate::model::job::JobState;
use crate::model::time::Timestamp;

/// Events that a namespace's feed keeps.
pub const KEPT: usize = 10_000;

const ENCODED_BYTES: usize = 25;

/// One recorded change of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// The job.
    pub id: JobId,
    /// Its new state.
    pub state: JobState,
    /// When (engine time).
    pub at: Timestamp,
}

/// Answer to [`super::Engine::feed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedPage {
    /// Events with their positions, in order.
    pub events: Vec<(u64, Event)>,
    /// Events between the asked position and the first of this page are gone, or the feed began anew.
    pub reset: bool,
    /// Where to ask from next.
    pub position: u64,
}

impl Event {
    /// The wire form: id, state, time in µs; 25 bytes.
    pub fn encode(&self) -> [u8; ENCODED_BYTES] {
        let mut out = [0; ENCODED_BYTES];
        out[..16].copy_from_slice(self.id.as_bytes());
        out[16] = u8::try_from(self.state as i16).expect("states are small numbers");
        out[17..].copy_from_slice(&self.at.micros().to_be_bytes());
        out
    }

    /// Back from the wire form; `None` for what this build does not know.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; ENCODED_BYTES] = bytes.try_into().ok()?;
        let (id, rest) = bytes.split_first_chunk::<16>()?;
        let (state, at) = rest.split_first()?;
        Some(Self {
            id: JobId::from_bytes(*id),
            state: JobState::from_number(i16::from(*state))?,
            at: Timestamp::from_micros(i64::from_be_bytes(at.try_into().ok()?)),
        })
    }
}

/// A feed in memory.
#[derive(Debug)]
pub struct Ring {
    events: VecDeque<Event>,
    /// Position of the last event. Starts at engine time in µs, so that positions of a feed that was lost lie
    /// before those of the new one.
    position: u64,
}

impl Ring {
    /// An empty feed that begins at `now`.
    pub fn new(now: Timestamp) -> Self {
        Self { events: VecDeque::new(), position: u64::try_from(now.micros()).unwrap_or(0) }
    }

    /// Appends, and forgets the oldest beyond [`KEPT`].
    pub fn publish(&mut self, events: &[Event]) {
        self.events.extend(events);
        self.position += events.len() as u64;
        let excess = self.events.len().saturating_sub(KEPT);
        self.events.drain(..excess);
    }

    /// See [`super::Engine::feed`].
    pub fn read(&self, after: Option<u64>, max: u32) -> FeedPage {
        page(self.position, self.events.len() as u64, after, |skip| {
            self.events.iter().skip(skip).take(max as usize).copied().collect()
        })
    }
}

/// Works out a page of a feed whose last event has `position` and that keeps `kept` events. `read(skip)`
/// yields the events after the first `skip` kept ones.
pub(super) fn page(
    position: u64,
    kept: u64,
    after: Option<u64>,
    read: impl FnOnce(usize) -> Vec<Event>,
) -> FeedPage {
    let Some(after) = after else {
        return FeedPage { events: Vec::new(), reset: false, position };
    };
    let before_first = position - kept.min(position);
    let reset = after < before_first || after > position;
    let start = if reset { before_first } else { after };
    let events = read(usize::try_from(start - before_first).unwrap_or(usize::MAX));
    let events: Vec<(u64, Event)> = (start + 1..).zip(events).collect();
    let position = events.last().map_or(start, |(at, _)| *at);
    FeedPage { events, reset, position }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: i64) -> Event {
        Event { id: JobId::generate(), state: JobState::Succeeded, at: Timestamp::from_micros(n) }
    }

    #[test]
    fn a_reader_gets_every_event_once_and_is_told_when_it_fell_behind() {
        let mut ring = Ring::new(Timestamp::from_micros(1_000));
        let start = ring.read(None, 10).position;
        let events: Vec<Event> = (0..5).map(event).collect();
        ring.publish(&events);
        let first = ring.read(Some(start), 3);
        let rest = ring.read(Some(first.position), 3);
        let seen: Vec<Event> =
            first.events.iter().chain(&rest.events).map(|(_, event)| *event).collect();
        assert_eq!(seen, events);
        assert!(!first.reset && !rest.reset);
        assert!(ring.read(Some(rest.position), 3).events.is_empty());

        ring.publish(&(0..KEPT as i64).map(event).collect::<Vec<_>>());
        assert!(ring.read(Some(start), 3).reset, "its events are gone");
        assert!(ring.read(Some(u64::MAX), 3).reset, "a position of another feed");
    }

    #[test]
    fn events_survive_the_wire() {
        let event = event(-5);
        assert_eq!(Event::decode(&event.encode()), Some(event));
        assert_eq!(Event::decode(b"short"), None);
    }
}
