//! Who makes a backup: one at a time.
//!
//! The claim is the object `running`: a backup's id, and a number that changes whenever its maker says that it is still being
//! made. No clock is compared with another one: a claim that has not changed for [`STALE`] of the taker's own time is of a process that
//! died, and is replaced where it still is what was seen. Ids differ, so that two who make a backup at once, as by a claim
//! that was removed by hand, do each other no harm.

use std::fs::{OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt as _, PutMode, UpdateVersion};
use tokio::time::Instant;

use windlass_shared::clock::Clock;

use super::super::BackupError;
use super::{Store, id_of};

/// Who makes a backup says so this often.
pub(in super::super) const EVERY: Duration = Duration::from_secs(10);
/// Who has not for this long is gone.
const STALE: Duration = Duration::from_secs(120);
/// A claim is looked at this often while it may be stale.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A call whose answer was lost is repeated so often.
const TRIES: u32 = 2;
/// Longest claim that is read.
const BYTES_MAX: u64 = 1 << 10;

/// A claim as it was seen.
pub(super) struct Claim {
    text: Bytes,
    version: UpdateVersion,
}

impl Claim {
    /// Which backup is being made; empty: it cannot be read.
    fn id(&self) -> String {
        let text = std::str::from_utf8(&self.text).unwrap_or_default();
        text.split(' ').next().and_then(id_of).unwrap_or_default()
    }
}

/// Another one each time. The time in it is no more than that.
fn text_of(id: &str) -> Bytes {
    Bytes::from(format!("{id} {}", Clock::System.now().micros()))
}

impl Store {
    fn running(&self) -> Path {
        self.prefix.clone().join("running")
    }

    pub(super) async fn claimed(&self) -> Result<Option<Claim>, BackupError> {
        let found = match self.objects.get(&self.running()).await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let (e_tag, version) = (found.meta.e_tag.clone(), found.meta.version.clone());
        if found.meta.size > BYTES_MAX {
            return Err(BackupError::Settings("`running` in the store is none of ours".into()));
        }
        Ok(Some(Claim { text: found.bytes().await?, version: UpdateVersion { e_tag, version } }))
    }

    /// Says that this backup is being made, unless another one is. Where there is a claim, it is watched: until it changes,
    /// or is stale. When dropped, it may have been taken.
    ///
    /// # Errors
    /// [`BackupError::Busy`] with the other's id.
    pub(in super::super) async fn claim(&self, id: &str) -> Result<(), BackupError> {
        self.claim_after(id, STALE).await
    }

    /// The same, with another time after which a claim is stale.
    pub(in super::super) async fn claim_after(
        &self,
        id: &str,
        stale: Duration,
    ) -> Result<(), BackupError> {
        let (mut seen, until) = (None::<(Claim, Instant)>, Instant::now() + stale + STALE);
        while Instant::now() < until {
            match (self.claimed().await?, &seen) {
                (None, _) => {
                    if self.begin(id).await? {
                        return Ok(());
                    }
                }
                // The answer to an earlier try was lost.
                (Some(found), _) if found.id() == id => return Ok(()),
                (Some(found), None) => seen = Some((found, Instant::now())),
                (Some(found), Some((earlier, _))) if earlier.text != found.text => {
                    return Err(BackupError::Busy(found.id()));
                }
                (Some(found), Some((_, since))) if since.elapsed() >= stale => {
                    if self.replace(&found, id).await? {
                        tracing::warn!(backup = found.id(), "a backup was given up by who made it");
                        return Ok(());
                    }
                    return Err(BackupError::Busy(found.id()));
                }
                (Some(_), Some(_)) => {}
            }
            tokio::time::sleep(LOOK_EVERY.min(stale)).await;
        }
        Err(BackupError::Busy(String::new()))
    }

    /// Where there is no claim; whether that is so.
    async fn begin(&self, id: &str) -> Result<bool, BackupError> {
        let mut tries = 0;
        loop {
            match self.put(&self.running(), text_of(id), PutMode::Create).await {
                Ok(()) => return Ok(true),
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => return Ok(false),
                Err(error) if tries == TRIES => return Err(error.into()),
                // The client repeats nothing that may have come to pass.
                Err(error) => match self.claimed().await? {
                    Some(found) => return Ok(found.id() == id),
                    None => tracing::debug!(%error, "once more"),
                },
            }
            tries += 1;
        }
    }

    /// Replaces a claim; `false`: it is not what was seen any more.
    async fn replace(&self, seen: &Claim, id: &str) -> Result<bool, BackupError> {
        let Some(running) = self.file(&self.running()) else {
            let mode = PutMode::Update(seen.version.clone());
            return match self.put(&self.running(), text_of(id), mode).await {
                Ok(()) => Ok(true),
                Err(
                    Error::AlreadyExists { .. }
                    | Error::Precondition { .. }
                    | Error::NotFound { .. },
                ) => Ok(false),
                Err(error) => Err(error.into()),
            };
        };
        // A folder cannot replace on a condition: one at a time looks and replaces.
        let what = || BackupError::file("cannot lock the folder of backups");
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let lock = options.open(running.with_extension("lock")).map_err(what())?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(what()(error)),
        }
        if self.claimed().await?.is_none_or(|found| found.text != seen.text) {
            return Ok(false);
        }
        self.put(&self.running(), text_of(id), PutMode::Overwrite).await?;
        Ok(true)
    }

    /// Says that it still is.
    ///
    /// # Errors
    /// [`BackupError::Busy`]: it was taken for gone, and another one has begun.
    pub(in super::super) async fn extend_claim(&self, id: &str) -> Result<(), BackupError> {
        if let Some(found) = self.claimed().await?
            && found.id() != id
        {
            return Err(BackupError::Busy(found.id()));
        }
        Ok(self.put(&self.running(), text_of(id), PutMode::Overwrite).await?)
    }

    /// It is over.
    pub(in super::super) async fn give_up_claim(&self, id: &str) {
        // What stays is stale in a while.
        for _ in 0..=TRIES {
            match self.claimed().await {
                Ok(Some(found)) if found.id() == id => {}
                _ => return,
            }
            if self.objects.delete(&self.running()).await.is_ok() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use windlass_shared::config::BackupSettings;

    use super::*;

    /// Goal: who was slow, and not gone, keeps the claim.
    #[tokio::test]
    async fn a_claim_that_has_changed_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let settings = BackupSettings::new(folder.path().display().to_string(), "");
        for store in [Store::open(&settings).unwrap(), Store::in_memory()] {
            let [one, other] = [(); 2].map(|()| uuid::Uuid::now_v7().to_string());
            store.claim(&one).await.unwrap();
            let seen = store.claimed().await.unwrap().unwrap();
            store.extend_claim(&one).await.unwrap();
            assert!(!store.replace(&seen, &other).await.unwrap());
            store.extend_claim(&one).await.unwrap();
            let seen = store.claimed().await.unwrap().unwrap();
            assert!(store.replace(&seen, &other).await.unwrap());
            assert!(matches!(store.extend_claim(&one).await, Err(BackupError::Busy(_))));
        }
    }
}
