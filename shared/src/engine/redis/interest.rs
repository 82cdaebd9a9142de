//! Which channels somebody in this process listens to.
//!
//! Listeners come and go: a channel outlives its last one for a moment, so that a caller who asks again and
//! again does not cost a subscription each time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::engine::ShardId;

/// A channel is left this long after its last listener has gone.
const LINGER: Duration = Duration::from_secs(1);

/// The channels in use.
#[derive(Default)]
pub(super) struct Wanted {
    known: Mutex<Known>,
    released: Notify,
}

#[derive(Default)]
struct Known {
    channels: HashMap<String, Channel>,
    /// Channels whose last listener went, and when, in that order. Some have listeners again since.
    idle: VecDeque<(Instant, String)>,
}

struct Channel {
    shard: ShardId,
    listeners: usize,
}

/// Somebody listens to these channels until this is dropped.
pub(crate) struct Interest {
    wanted: Arc<Wanted>,
    channels: Vec<String>,
}

impl Interest {
    /// Counts one more listener of each.
    pub(super) fn new(wanted: &Arc<Wanted>, channels: Vec<(String, ShardId)>) -> Self {
        let mut known = wanted.lock();
        let mut names = Vec::with_capacity(channels.len());
        for (name, shard) in channels {
            let fresh = Channel { shard, listeners: 0 };
            known.channels.entry(name.clone()).or_insert(fresh).listeners += 1;
            names.push(name);
        }
        drop(known);
        Self { wanted: Arc::clone(wanted), channels: names }
    }

    /// Their names.
    pub(super) fn channels(&self) -> &[String] {
        &self.channels
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let mut known = self.wanted.lock();
        let now = Instant::now();
        for name in self.channels.drain(..) {
            let Some(channel) = known.channels.get_mut(&name) else { continue };
            channel.listeners -= 1;
            if channel.listeners == 0 {
                known.idle.push_back((now, name));
            }
        }
        drop(known);
        self.wanted.released.notify_one();
    }
}

impl Wanted {
    /// All of them.
    pub(super) fn channels(&self) -> Vec<String> {
        self.lock().channels.keys().cloned().collect()
    }

    /// Whose signals come through a channel.
    pub(super) fn shard(&self, channel: &str) -> Option<ShardId> {
        self.lock().channels.get(channel).map(|channel| channel.shard.clone())
    }

    /// A listener has gone. May be dropped.
    pub(super) async fn released(&self) {
        self.released.notified().await;
    }

    /// When the next channel is to be left, unless somebody listens to it by then.
    pub(super) fn next_idle(&self) -> Option<Instant> {
        self.lock().idle.front().map(|(since, _)| *since + LINGER)
    }

    /// Forgets the channels that are to be left now; them. One that was used again meanwhile, and left
    /// again, may go a little early.
    pub(super) fn take_idle(&self) -> Vec<String> {
        let now = Instant::now();
        let mut known = self.lock();
        let mut left = Vec::new();
        while let Some((_, name)) = known.idle.pop_front_if(|(since, _)| *since + LINGER <= now) {
            if known.channels.get(&name).is_some_and(|channel| channel.listeners == 0) {
                known.channels.remove(&name);
                left.push(name);
            }
        }
        left
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nothing panics while it holds the channels")
    }
}
