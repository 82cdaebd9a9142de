//! Signals from Redis to the listeners in this process.
//!
//! One task holds one connection for all listeners of an engine. It connects again for ever, subscribes
//! anew, and checks a silent connection by PING, so that no listener stays deaf after an outage. Signals of
//! the meantime are lost, which listeners must expect. A channel that nobody listens to any more is left.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Buf;
use futures::StreamExt;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::fault::Fault;
use super::interest::{Interest, Wanted};
use super::layout::take_id;
use super::link::{Link, delays};
use crate::engine::{JobId, ShardId, Signal};

/// Signals kept for a listener that is slow; one that falls further behind is told to look at everything.
const SIGNALS_MAX: usize = 4096;
/// Subscriptions under way.
const ORDERS_MAX: usize = 64;
/// Silence after which the connection is checked.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// The listeners' side.
pub(super) struct Hub {
    link: Arc<Link>,
    wanted: Arc<Wanted>,
    /// None until somebody listens.
    running: Mutex<Option<Running>>,
}

struct Running {
    signals: broadcast::Sender<Signal>,
    orders: mpsc::Sender<Order>,
    task: AbortHandle,
}

/// Channels to listen to, and whom to tell when that is so.
struct Order {
    channels: Vec<String>,
    done: oneshot::Sender<()>,
}

impl Hub {
    /// Nobody listens yet, so nothing is connected yet.
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link, wanted: Arc::default(), running: Mutex::new(None) }
    }

    /// Signals of these channels, and of those that others asked for, from now on; for as long as the
    /// interest is kept.
    ///
    /// # Errors
    /// [`Fault::Down`] when the store does not confirm in time. May be dropped and repeated.
    pub(super) async fn subscribe(
        &self,
        channels: Vec<(String, ShardId)>,
    ) -> Result<(broadcast::Receiver<Signal>, Interest), Fault> {
        let (receiver, orders) = self.join();
        // Registered before the order is given, so that the task does not leave them meanwhile.
        let interest = Interest::new(&self.wanted, channels);
        let (done, confirmed) = oneshot::channel();
        let channels = interest.channels().to_vec();
        let order = async {
            orders.send(Order { channels, done }).await.map_err(|_| ())?;
            confirmed.await.map_err(|_| ())
        };
        match tokio::time::timeout(self.link.timeout() * 2, order).await {
            Ok(Ok(())) => Ok((receiver, interest)),
            Ok(Err(())) => Err(Fault::Down("the listener for signals has ended".into())),
            Err(_) => Err(Fault::late()),
        }
    }

    /// The running task's ends. It ends with the runtime of its first listener; then another begins.
    fn join(&self) -> (broadcast::Receiver<Signal>, mpsc::Sender<Order>) {
        let mut running = self.running.lock().expect("nothing panics while it starts the listener");
        if running.as_ref().is_none_or(|running| running.task.is_finished()) {
            *running = None;
        }
        let start = || Running::start(self.link.clone(), self.wanted.clone());
        let running = running.get_or_insert_with(start);
        (running.signals.subscribe(), running.orders.clone())
    }
}

impl Running {
    fn start(link: Arc<Link>, wanted: Arc<Wanted>) -> Self {
        let (signals, _) = broadcast::channel(SIGNALS_MAX);
        let (orders, inbox) = mpsc::channel(ORDERS_MAX);
        let followed = HashSet::new();
        let listener = Listener { link, signals: signals.clone(), inbox, wanted, followed };
        let task = tokio::spawn(listener.run()).abort_handle();
        Self { signals, orders, task }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It holds nothing that would have to be finished.
        self.task.abort();
    }
}

/// The task.
struct Listener {
    link: Arc<Link>,
    signals: broadcast::Sender<Signal>,
    inbox: mpsc::Receiver<Order>,
    wanted: Arc<Wanted>,
    /// Channels that the present connection is subscribed to.
    followed: HashSet<String>,
}

/// What came of an event while the connection held.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// Redis said something: the connection carries.
    Heard,
    /// Redis was not asked, which proves nothing.
    Unasked,
}

enum Event {
    Message(Option<redis::Msg>),
    Order(Option<Order>),
    Released,
    Idle,
    Silence,
}

impl Listener {
    async fn run(mut self) {
        let mut waits = delays();
        loop {
            match self.link.pubsub().await {
                Ok(connection) => {
                    let (sink, stream) = connection.split();
                    match self.listen(sink, stream).await {
                        Ok(()) => return,
                        Err(Heard(true)) => waits = delays(),
                        Err(Heard(false)) => {}
                    }
                }
                Err(fault) => tracing::debug!(?fault, "cannot listen to the queue store's signals"),
            }
            tokio::time::sleep(waits.next().unwrap_or(SILENCE_MAX)).await;
        }
    }

    /// Listens until the connection breaks (an error, and whether it ever worked) or nobody can ask for
    /// more.
    async fn listen(
        &mut self,
        mut sink: PubSubSink,
        mut stream: PubSubStream,
    ) -> Result<(), Heard> {
        self.followed.clear();
        self.follow(&mut sink, self.wanted.channels()).await.map_err(|()| Heard(false))?;
        let mut heard_at = Instant::now();
        loop {
            let check_at = heard_at + SILENCE_MAX;
            let leave_at = self.wanted.next_idle();
            let event = tokio::select! {
                biased;
                order = self.inbox.recv() => Event::Order(order),
                message = stream.next() => Event::Message(message),
                () = self.wanted.released() => Event::Released,
                () = tokio::time::sleep_until(leave_at.unwrap_or(check_at).min(check_at)) => {
                    if leave_at.is_some_and(|at| at < check_at) { Event::Idle } else { Event::Silence }
                }
            };
            let proof = match event {
                Event::Message(Some(message)) => {
                    self.pass_on(&message);
                    Ok(Proof::Heard)
                }
                Event::Message(None) => Err(()),
                Event::Order(None) => return Ok(()),
                Event::Order(Some(order)) => self.obey(&mut sink, order).await,
                // When the channel is to be left is looked up above.
                Event::Released => Ok(Proof::Unasked),
                Event::Idle => self.leave(&mut sink).await,
                Event::Silence => {
                    let ping = sink.ping::<redis::Value>();
                    let answer = tokio::time::timeout(self.link.timeout(), ping).await;
                    if matches!(answer, Ok(Ok(_))) { Ok(Proof::Heard) } else { Err(()) }
                }
            };
            // Nothing else puts the check off: a connection that was lost without a word would never get it.
            if proof.map_err(|()| Heard(true))? == Proof::Heard {
                heard_at = Instant::now();
            }
        }
    }

    async fn obey(&mut self, sink: &mut PubSubSink, order: Order) -> Result<Proof, ()> {
        let proof = self.follow(sink, order.channels).await?;
        // Whoever asked may have left; then the subscription is left as well, in time.
        let _ = order.done.send(());
        Ok(proof)
    }

    /// Subscribes to those of the channels that it does not follow yet.
    async fn follow(&mut self, sink: &mut PubSubSink, channels: Vec<String>) -> Result<Proof, ()> {
        let new: Vec<String> =
            channels.into_iter().filter(|channel| !self.followed.contains(channel)).collect();
        if new.is_empty() {
            return Ok(Proof::Unasked);
        }
        let answer = tokio::time::timeout(self.link.timeout(), sink.subscribe(&new)).await;
        self.followed.extend(new);
        if matches!(answer, Ok(Ok(()))) { Ok(Proof::Heard) } else { Err(()) }
    }

    /// Leaves the channels that nobody has listened to for a while.
    async fn leave(&mut self, sink: &mut PubSubSink) -> Result<Proof, ()> {
        let mut left = self.wanted.take_idle();
        left.retain(|channel| self.followed.remove(channel));
        if left.is_empty() {
            return Ok(Proof::Unasked);
        }
        let answer = tokio::time::timeout(self.link.timeout(), sink.unsubscribe(&left)).await;
        if matches!(answer, Ok(Ok(()))) { Ok(Proof::Heard) } else { Err(()) }
    }

    fn pass_on(&self, message: &redis::Msg) {
        let Some(shard) = self.wanted.shard(message.get_channel_name()) else { return };
        for signal in read(&shard, message.get_payload_bytes()) {
            // Fails when nobody listens at the moment, which is no loss.
            let _ = self.signals.send(signal);
        }
    }
}

/// A connection broke; whether it had worked before.
struct Heard(bool);

/// The signals in one message, as `lua/shard.lua` writes them. Stops at what it does not know: a newer
/// build may say more.
fn read(shard: &ShardId, mut text: &[u8]) -> Vec<Signal> {
    let mut signals = Vec::new();
    while let Some((letter, rest)) = text.split_first() {
        text = rest;
        match letter {
            b'r' => signals.push(Signal::Ready(shard.clone())),
            b'o' => signals.push(Signal::Outcomes(shard.clone())),
            b'g' => signals.push(Signal::Shut(shard.clone())),
            b'u' => signals.push(Signal::Unverified(shard.clone())),
            b'c' if text.remaining() >= 16 => {
                let Ok(id) = take_id(&mut text) else { break };
                signals.push(Signal::Cancel(shard.clone(), JobId::from_bytes(id)));
            }
            _ => break,
        }
    }
    signals
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::{Namespace, QueueName};

    #[test]
    fn messages_read_as_signals_up_to_what_is_strange() {
        let shard = ShardId::first(Namespace::default(), QueueName::default());
        let id = JobId::generate();
        let message = [b"roguc", id.as_bytes().as_slice(), b"?r"].concat();
        let expected = [
            Signal::Ready(shard.clone()),
            Signal::Outcomes(shard.clone()),
            Signal::Shut(shard.clone()),
            Signal::Unverified(shard.clone()),
            Signal::Cancel(shard.clone(), id),
        ];
        assert_eq!(read(&shard, &message), expected);
        assert_eq!(read(&shard, b"cshort"), []);
    }
}
