//! What a proxy does to the bytes that pass it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The faults of a proxy; the default is none. Applies to open connections and to new ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Nothing listens: new connections are refused by the system. Open ones are not touched.
    pub refuse: bool,
    /// From the client to the server.
    pub up: LinkFaults,
    /// From the server to the client.
    pub down: LinkFaults,
}

/// The faults of one direction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkFaults {
    /// Bytes are delivered this long after they came. A round trip pays for both directions.
    pub delay_ms: u64,
    /// The delay is drawn anew for each read, evenly from `delay_ms` ± this. Order is kept.
    pub jitter_ms: u64,
    /// Largest rate of one connection.
    pub bytes_per_second: Option<u64>,
    /// Bytes are written in pieces of this size at most ...
    pub slice_bytes: Option<usize>,
    /// ... with this pause after each piece.
    pub slice_gap_ms: u64,
    /// Whether bytes pass at all.
    pub flow: Flow,
}

/// Whether bytes pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flow {
    /// They do.
    #[default]
    Pass,
    /// They wait, and arrive after the heal: a partition that TCP survives. Ends of connections wait too.
    Freeze,
    /// They are swallowed, and ends of connections are told to nobody. A connection that has lost bytes
    /// stays silent in this direction for ever, also after the heal.
    BlackHole,
}

/// A direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// An end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Who connected to the proxy.
    Client,
    /// Where the proxy connected to.
    Server,
}

impl Faults {
    /// Delay in both directions; half of `round_trip` and of `jitter` in each.
    pub fn round_trip(round_trip: Duration, jitter: Duration) -> Self {
        let half = |d: Duration| u64::try_from(d.as_millis() / 2).unwrap_or(u64::MAX);
        let link = LinkFaults {
            delay_ms: half(round_trip),
            jitter_ms: half(jitter),
            ..LinkFaults::default()
        };
        Self { refuse: false, up: link.clone(), down: link }
    }

    /// The same flow in both directions.
    pub fn flow(flow: Flow) -> Self {
        let link = LinkFaults { flow, ..LinkFaults::default() };
        Self { refuse: false, up: link.clone(), down: link }
    }

    /// New connections are refused.
    pub fn refused() -> Self {
        Self { refuse: true, ..Self::default() }
    }

    pub(super) fn of(&self, direction: Direction) -> &LinkFaults {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }
}

impl LinkFaults {
    /// How long bytes wait; `chance` is from -1 to 1.
    pub(super) fn delay(&self, chance: f64) -> Duration {
        let ms = self.delay_ms as f64 + self.jitter_ms as f64 * chance;
        Duration::from_secs_f64(ms.max(0.0) / 1_000.0)
    }

    /// The size of the next write out of `left` bytes, and the pause after it.
    pub(super) fn next_write(&self, left: usize) -> (usize, Duration) {
        let mut size = left.min(self.slice_bytes.unwrap_or(left).max(1));
        let mut pause = Duration::ZERO;
        if self.slice_bytes.is_some() {
            pause += Duration::from_millis(self.slice_gap_ms);
        }
        if let Some(rate) = self.bytes_per_second {
            let rate = rate.max(1);
            // Twenty writes a second, so that a change of the faults is soon felt.
            let share = usize::try_from((rate / 20).max(1)).unwrap_or(usize::MAX);
            size = size.min(share);
            pause += Duration::from_secs_f64(size as f64 / rate as f64);
        }
        (size, pause)
    }
}
