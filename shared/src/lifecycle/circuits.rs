//! Circuits of a namespace, over all its queues: what is set of them, what the shards have seen, and by what names they
//! are known.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Lifecycle;
use crate::engine::flow::{CircuitMode, FlowKey};
use crate::engine::model::Circuit as Known;
use crate::engine::{Engine, EngineError, ShardId};
use crate::ledger::circuits::{Circuit, CircuitSet, CircuitSettings};
use crate::ledger::{Ledger, LedgerError, Queue};
use crate::model::job::Job;
use crate::model::name::{CircuitName, Namespace, QueueName};

/// Shards asked or told at once.
const SHARDS_AT_ONCE: usize = 16;
/// Looks at a circuit that others change at the same time.
const TRIES_MAX: u32 = 10;
/// Names that a process remembers to be on record; beyond it, it starts anew.
const NOTED_MAX: usize = 50_000;
/// Names on their way to the ledger. Beyond it, they go with a later job.
const WAITING_MAX: usize = 1_000;

/// What became of a change to a circuit.
#[derive(Debug)]
pub enum Changed {
    /// It is on record; and whether every shard knows. Those that do not are told by the sweep.
    Done(Circuit, bool),
    /// The caller asked for another version than this one.
    OtherVersion(u64),
    /// As [`CircuitSet::Full`].
    Full,
    /// It keeps changing.
    Busy,
}

/// What the shards of a namespace have seen of circuits.
#[derive(Debug, Default)]
pub struct Sight {
    /// By circuit, each queue whose shard knows something of it.
    pub known: BTreeMap<FlowKey, Vec<(QueueName, Known)>>,
    /// Queues whose shard did not answer.
    pub silent: u64,
}

impl Lifecycle {
    /// Changes what is set of a circuit and tells every shard of the namespace, before it answers. Of `change` the version
    /// is asked first; `None` refuses it.
    ///
    /// # Errors
    /// The ledger did not answer. Shards that do not are no error.
    pub fn change_circuit<'a>(
        &'a self,
        namespace: &'a Namespace,
        name: &'a CircuitName,
        change: &'a (dyn Fn(u64, CircuitSettings) -> Option<CircuitSettings> + Sync),
    ) -> BoxFuture<'a, Result<Changed, LedgerError>> {
        Box::pin(change_circuit(self, namespace, name, change))
    }

    /// Nobody decides over a circuit any more, and every shard forgets what it has seen of it: it is closed.
    ///
    /// # Errors
    /// As [`Self::change_circuit`].
    pub fn reset_circuit<'a>(
        &'a self,
        namespace: &'a Namespace,
        name: &'a CircuitName,
    ) -> BoxFuture<'a, Result<Changed, LedgerError>> {
        Box::pin(async move {
            let at = self.inner.clock.now();
            let change = |_, settings: CircuitSettings| {
                Some(settings.forced(CircuitMode::Auto, at, "", None))
            };
            let changed = change_circuit(self, namespace, name, &change).await?;
            let Changed::Done(circuit, told) = changed else { return Ok(changed) };
            let key = FlowKey::of(name.as_str());
            let forget = move |engine: Engine, shard: ShardId, _: Queue| {
                async move { engine.reset_circuit(&shard, key).await.map(|_| ()) }.boxed()
            };
            // As in `change_circuit`.
            let forgot = each_shard(self, namespace, forget).await;
            let forgot = forgot.is_ok_and(|all| all.iter().all(|(_, forgot)| forgot.is_ok()));
            Ok(Changed::Done(circuit, told && forgot))
        })
    }

    /// What the shards of a namespace have seen of circuits. Asks every shard: one call each.
    ///
    /// # Errors
    /// The ledger did not answer, so the queues are not known.
    pub fn look_at_circuits<'a>(
        &'a self,
        namespace: &'a Namespace,
    ) -> BoxFuture<'a, Result<Sight, LedgerError>> {
        Box::pin(async move {
            let ask = |engine: Engine, shard: ShardId, _: Queue| {
                async move { engine.circuits(&shard).await }.boxed()
            };
            let mut sight = Sight::default();
            for (queue, answer) in each_shard(self, namespace, ask).await? {
                let Ok(circuits) = answer else {
                    sight.silent += 1;
                    continue;
                };
                for (key, known) in circuits {
                    sight.known.entry(key).or_default().push((queue.clone(), known));
                }
            }
            sight.known.values_mut().for_each(|queues| queues.sort_by(|a, b| a.0.cmp(&b.0)));
            Ok(sight)
        })
    }
}

async fn change_circuit(
    life: &Lifecycle,
    namespace: &Namespace,
    name: &CircuitName,
    change: &(dyn Fn(u64, CircuitSettings) -> Option<CircuitSettings> + Sync),
) -> Result<Changed, LedgerError> {
    let ledger = &life.inner.ledger;
    for _ in 0..TRIES_MAX {
        let known = ledger.circuit(namespace, name).await?;
        let (seen, settings) =
            known.map(|circuit| (circuit.version, circuit.settings)).unwrap_or_default();
        let Some(settings) = change(seen, settings) else {
            return Ok(Changed::OtherVersion(seen));
        };
        let circuit = match ledger.set_circuit(namespace, name, seen, &settings).await? {
            CircuitSet::Done(circuit) => circuit,
            CircuitSet::Changed => continue,
            CircuitSet::Full => return Ok(Changed::Full),
        };
        let tell = |engine: Engine, shard: ShardId, queue: Queue| {
            let settings = queue.shard_settings();
            async move { engine.configure(&shard, &settings).await.map(|_| ()) }.boxed()
        };
        // The change is on record: that not all queues could be read is no failure of it.
        let told = each_shard(life, namespace, tell).await;
        let told = told.is_ok_and(|all| all.iter().all(|(_, told)| told.is_ok()));
        return Ok(Changed::Done(circuit, told));
    }
    Ok(Changed::Busy)
}

/// Calls the shard of every queue of a namespace, some at once.
async fn each_shard<T>(
    life: &Lifecycle,
    namespace: &Namespace,
    call: impl Fn(Engine, ShardId, Queue) -> BoxFuture<'static, Result<T, EngineError>>,
) -> Result<Vec<(QueueName, Result<T, EngineError>)>, LedgerError> {
    let (mut all, mut walk) = (Vec::new(), life.inner.ledger.walk_queues(Some(namespace)));
    while let Some(queues) = walk.next().await? {
        let calls = futures::stream::iter(queues).map(|queue| {
            let shard = ShardId::first(queue.namespace.clone(), queue.name.clone());
            let name = queue.name.clone();
            call(life.inner.engine.clone(), shard, queue).map(|answer| (name, answer))
        });
        all.extend(calls.buffer_unordered(SHARDS_AT_ONCE).collect::<Vec<_>>().await);
    }
    Ok(all)
}

/// Brings the names of circuits into the ledger as jobs that have them go to the engine: shards know hashes only. One
/// insert for each name that this process has not met; a name that is lost on the way comes with a later job.
pub(super) struct Names {
    noted: Arc<Mutex<HashSet<Name>>>,
    tx: mpsc::Sender<Name>,
}

type Name = (Namespace, CircuitName);

impl Names {
    /// Starts its task, which ends after `shutdown`.
    pub(super) fn start(ledger: Ledger, shutdown: CancellationToken, tasks: &TaskTracker) -> Self {
        let (tx, rx) = mpsc::channel(WAITING_MAX);
        let noted: Arc<Mutex<HashSet<Name>>> = Arc::default();
        tasks.spawn(note(ledger, rx, Arc::clone(&noted), shutdown));
        Self { noted, tx }
    }

    /// Sees to the names of these jobs' circuits. Returns at once.
    pub(super) fn meet<'j>(&self, jobs: impl IntoIterator<Item = &'j Job>) {
        for job in jobs {
            let Some(text) = &job.spec.circuit else { continue };
            let Ok(circuit) = text.parse::<CircuitName>() else { continue };
            let name = (job.namespace.clone(), circuit);
            let mut noted = lock(&self.noted);
            if noted.contains(&name) || self.tx.try_send(name.clone()).is_err() {
                continue;
            }
            if noted.len() >= NOTED_MAX {
                noted.clear();
            }
            noted.insert(name);
        }
    }
}

fn lock(noted: &Mutex<HashSet<Name>>) -> MutexGuard<'_, HashSet<Name>> {
    noted.lock().expect("nothing panics while holding it")
}

async fn note(
    ledger: Ledger,
    mut rx: mpsc::Receiver<Name>,
    noted: Arc<Mutex<HashSet<Name>>>,
    shutdown: CancellationToken,
) {
    let mut names = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            got = rx.recv_many(&mut names, WAITING_MAX) => if got == 0 { return },
        }
        let mut by_namespace: BTreeMap<Namespace, Vec<CircuitName>> = BTreeMap::new();
        for (namespace, name) in names.drain(..) {
            by_namespace.entry(namespace).or_default().push(name);
        }
        for (namespace, names) in by_namespace {
            let Err(error) = ledger.note_circuits(&namespace, &names).await else { continue };
            tracing::debug!(%namespace, %error, "cannot note names of circuits; later jobs bring them again");
            let mut noted = lock(&noted);
            for name in names {
                noted.remove(&(namespace.clone(), name));
            }
        }
    }
}
