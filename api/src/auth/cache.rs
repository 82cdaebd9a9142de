//! API keys looked up lately, so that a request seldom asks the ledger, and a made-up key hardly ever does.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use windlass_shared::ledger::{ApiKey, LedgerError};

use crate::app::App;
use crate::error::{ApiError, Code};

/// A looked-up key is believed for this long, known or not: a revocation bites within 5 s everywhere.
const BELIEVED_FOR: Duration = Duration::from_secs(4);
/// While the ledger is away nobody can revoke there; keys seen before keep working for this long.
const BELIEVED_WITHOUT_LEDGER: Duration = Duration::from_secs(60);
/// Keys remembered, and as many unknown public parts.
const KEPT_MAX: usize = 10_000;
/// Questions to the ledger at once, about keys seen before and about others: a flood of made-up keys takes
/// neither the whole pool nor the turns of known keys.
const QUESTIONS_MAX: usize = 8;
/// Parts that are being asked about, before those that are not any more are dropped.
const ASKING_KEPT: usize = 1_000;
/// Longest wait for a turn to ask, and for another's answer.
const TURN_MAX: Duration = Duration::from_secs(5);
/// Longest wait for the ledger about a key seen before; then it is away.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// While the ledger is away one request in this time asks it again about a key, and the others do not wait.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A key that the ledger knew.
#[derive(Clone)]
struct Known {
    key: Arc<ApiKey>,
    at: Instant,
    /// Something was revoked here since: ask again before it is believed.
    stale: bool,
    /// When the ledger last did not answer about it; `None`: it has since.
    in_vain: Option<Instant>,
}

impl Known {
    /// Whether it counts while the ledger does not answer.
    fn is_believed_without_ledger(&self) -> bool {
        !self.stale && self.at.elapsed() < BELIEVED_WITHOUT_LEDGER
    }
}

#[derive(Default)]
struct Seen {
    known: HashMap<String, Known>,
    unknown: HashMap<String, Instant>,
}

/// What a look at the cache says.
enum Look {
    /// This is the answer.
    Answer(Option<Arc<ApiKey>>),
    /// Seen before; to be asked about again.
    Again(Known),
    Never,
}

/// Keys looked up lately, by public part. Bounded; what is forgotten is looked up again.
pub struct KeyCache {
    seen: Mutex<Seen>,
    known_turns: Arc<Semaphore>,
    other_turns: Arc<Semaphore>,
    asking: Mutex<HashMap<String, Arc<Asking>>>,
}

type Asking = tokio::sync::Mutex<()>;

impl Default for KeyCache {
    fn default() -> Self {
        Self {
            seen: Mutex::default(),
            known_turns: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            other_turns: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            asking: Mutex::default(),
        }
    }
}

impl KeyCache {
    /// The record of a public part. The limit of failed log-ins is kept before the ledger is asked about a
    /// part that was not seen before, so that random keys of one address cost it a bounded rate; a part that
    /// the ledger knows does not count. Callers with the same part ask once, together.
    ///
    /// # Errors
    /// 429 where the address has asked too often; 503 where the ledger does not answer.
    pub async fn find(
        &self,
        app: &App,
        public: &str,
        address: Option<IpAddr>,
    ) -> Result<Option<Arc<ApiKey>>, ApiError> {
        match self.look(public) {
            Look::Answer(None) => {
                spend(app, address)?;
                return Ok(None);
            }
            Look::Answer(key) => return Ok(key),
            Look::Again(_) => {}
            // Whoever has no try left does not get in the way of others.
            Look::Never => address.map_or(Ok(()), |address| app.throttle.may_log_in(address))?,
        }
        let asking = self.asking(public);
        let alone = match self.away(public) {
            // Somebody asks already: to wait with them would be to hold a connection for nothing.
            Some(key) => match Arc::clone(&asking).try_lock_owned() {
                Ok(alone) => alone,
                Err(_) => return Ok(Some(key)),
            },
            None => {
                tokio::time::timeout(TURN_MAX, asking.lock_owned()).await.map_err(|_| busy())?
            }
        };
        // Somebody else may have asked while this one waited.
        let (turns, seen) = match self.look(public) {
            Look::Answer(key) => return Ok(key),
            Look::Again(known) => (&self.known_turns, Some(known)),
            Look::Never => (&self.other_turns, None),
        };
        let turn = tokio::time::timeout(TURN_MAX, Arc::clone(turns).acquire_owned());
        let turn = turn.await.map_err(|_| busy())?.expect("the semaphore is never closed");
        if let Some(known) = seen {
            return self.ask_again(app, public, known, (alone, turn)).await;
        }
        // Within a turn, so that a crowd of good keys behind one address does not use up its tries before the first
        // of them are given back.
        spend(app, address)?;
        let key = app.life.ledger().key(public).await?.map(Arc::new);
        if let (Some(_), Some(address)) = (&key, address) {
            app.throttle.refund(address);
        }
        self.keep(public, key.clone());
        Ok(key)
    }

    /// Asks about a key seen before, which counts while the ledger does not answer. The question goes on when nobody
    /// waits for it any more, and nobody asks beside it: a slow answer counts, too.
    async fn ask_again(
        &self,
        app: &App,
        public: &str,
        known: Known,
        turns: (OwnedMutexGuard<()>, OwnedSemaphorePermit),
    ) -> Result<Option<Arc<ApiKey>>, ApiError> {
        let (asker, name) = (app.clone(), public.to_owned());
        let asked = tokio::spawn(async move {
            let _turns = turns;
            let key = asker.life.ledger().key(&name).await?.map(Arc::new);
            asker.keys.keep(&name, key.clone());
            Ok(key)
        });
        let late = || LedgerError::Unavailable("the ledger does not answer".into());
        // A panic has been reported by the runtime.
        let asked = tokio::time::timeout(ANSWER_MAX, asked).await;
        match asked.map_or_else(|_| Err(late()), |asked| asked.unwrap_or_else(|_| Err(late()))) {
            Ok(key) => Ok(key),
            Err(error @ LedgerError::Unavailable(_)) => {
                self.note_in_vain(public);
                let believed = known.is_believed_without_ledger().then_some(known.key);
                believed.map(Some).ok_or_else(|| error.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What those who ask about a part hold, one at a time.
    fn asking(&self, public: &str) -> Arc<Asking> {
        let mut asking = self.asking.lock().expect("nothing panics while holding it");
        if asking.len() >= ASKING_KEPT {
            // Whoever asks or waits holds it. What stays is bounded by the requests under way.
            asking.retain(|_, asking| Arc::strong_count(asking) > 1);
        }
        Arc::clone(asking.entry(public.to_owned()).or_default())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("nothing panics while holding it")
    }

    fn look(&self, public: &str) -> Look {
        let seen = self.seen();
        if let Some(known) = seen.known.get(public) {
            let lately = |at: Instant| at.elapsed() < AGAIN_AFTER;
            let is_away = known.in_vain.is_some_and(lately) && known.is_believed_without_ledger();
            return if is_away || !known.stale && known.at.elapsed() < BELIEVED_FOR {
                Look::Answer(Some(known.key.clone()))
            } else {
                Look::Again(known.clone())
            };
        }
        match seen.unknown.get(public) {
            Some(at) if at.elapsed() < BELIEVED_FOR => Look::Answer(None),
            Some(_) | None => Look::Never,
        }
    }

    /// The key, if the ledger was away when it was last asked about it, and it counts all the same.
    fn away(&self, public: &str) -> Option<Arc<ApiKey>> {
        let seen = self.seen();
        let known = seen.known.get(public)?;
        let is_away = known.in_vain.is_some() && known.is_believed_without_ledger();
        is_away.then(|| known.key.clone())
    }

    fn note_in_vain(&self, public: &str) {
        if let Some(known) = self.seen().known.get_mut(public) {
            known.in_vain = Some(Instant::now());
        }
    }

    fn keep(&self, public: &str, key: Option<Arc<ApiKey>>) {
        let mut seen = self.seen();
        let now = Instant::now();
        match key {
            Some(key) => {
                seen.unknown.remove(public);
                make_room(&mut seen.known, |known| known.at.elapsed() < BELIEVED_WITHOUT_LEDGER);
                seen.known
                    .insert(public.to_owned(), Known { key, at: now, stale: false, in_vain: None });
            }
            None => {
                seen.known.remove(public);
                make_room(&mut seen.unknown, |at| at.elapsed() < BELIEVED_FOR);
                seen.unknown.insert(public.to_owned(), now);
            }
        }
    }

    /// Looks keys up anew from now on: one was revoked here.
    pub fn forget(&self) {
        let mut seen = self.seen();
        seen.unknown.clear();
        seen.known.values_mut().for_each(|known| known.stale = true);
    }
}

fn busy() -> ApiError {
    ApiError::new(Code::Overloaded, "too many keys are being looked up")
}

fn spend(app: &App, address: Option<IpAddr>) -> Result<(), ApiError> {
    address.map_or(Ok(()), |address| app.throttle.log_in(address))
}

/// Old ones go first; where all are fresh, all go: what is known is only looked up again.
fn make_room<T>(map: &mut HashMap<String, T>, fresh: impl Fn(&T) -> bool) {
    if map.len() >= KEPT_MAX {
        map.retain(|_, value| fresh(value));
        if map.len() >= KEPT_MAX {
            map.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use windlass_shared::ledger::Role;
    use windlass_shared::model::id::KeyId;
    use windlass_shared::model::time::Timestamp;

    use super::*;

    fn key(public: &str) -> Arc<ApiKey> {
        Arc::new(ApiKey {
            id: KeyId::generate(),
            public: public.into(),
            secret_hash: [0; 32],
            name: "n".into(),
            role: Role::Viewer,
            namespace: None,
            created_at: Timestamp::from_micros(0),
            expires_at: None,
            revoked_at: None,
        })
    }

    #[test]
    fn made_up_keys_are_remembered_in_bounds_and_push_no_known_key_out() {
        let cache = KeyCache::default();
        cache.keep("good", Some(key("good")));
        for i in 0..2 * KEPT_MAX + 5 {
            cache.keep(&format!("bad{i}"), None);
        }
        assert!(cache.seen().unknown.len() <= KEPT_MAX);
        assert!(matches!(cache.look("good"), Look::Answer(Some(_))));
        assert!(matches!(cache.look(&format!("bad{}", 2 * KEPT_MAX + 4)), Look::Answer(None)));
    }

    #[test]
    fn after_a_revocation_nothing_is_believed_unasked_but_known_keys_stay_known() {
        let cache = KeyCache::default();
        cache.keep("good", Some(key("good")));
        cache.keep("bad", None);
        cache.forget();
        assert!(matches!(cache.look("good"), Look::Again(Known { stale: true, .. })));
        assert!(matches!(cache.look("bad"), Look::Never));
        cache.keep("good", None);
        assert!(matches!(cache.look("good"), Look::Answer(None)));
    }

    #[test]
    fn while_the_ledger_is_away_one_asks_and_the_others_do_not_wait() {
        let cache = KeyCache::default();
        cache.keep("good", Some(key("good")));
        let age = |by: Duration| {
            let mut seen = cache.seen();
            let known = seen.known.get_mut("good").expect("kept");
            for at in std::iter::once(&mut known.at).chain(&mut known.in_vain) {
                *at = at.checked_sub(by).expect("the machine is up for longer");
            }
        };
        age(BELIEVED_FOR);
        assert!(matches!(cache.look("good"), Look::Again(_)));
        assert!(cache.away("good").is_none(), "nobody knows yet that it is away");
        cache.note_in_vain("good");
        assert!(matches!(cache.look("good"), Look::Answer(Some(_))), "asked a moment ago");
        age(AGAIN_AFTER);
        assert!(matches!(cache.look("good"), Look::Again(_)), "one is to ask again");
        assert!(cache.away("good").is_some(), "who finds somebody asking need not wait");
        age(BELIEVED_WITHOUT_LEDGER);
        assert!(cache.away("good").is_none(), "but not for ever");
        cache.keep("good", Some(key("good")));
        cache.note_in_vain("good");
        cache.forget();
        assert!(cache.away("good").is_none(), "nor after a revocation here");
        assert!(matches!(cache.look("good"), Look::Again(_)));
    }
}
