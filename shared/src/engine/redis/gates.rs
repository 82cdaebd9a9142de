//! The verbs of the gate, and those that compare a shard with the ledger: one typed function per script.

use super::Redis;
use crate::engine::*;
use std::time::Duration;

fn missing<T>() -> Result<T, EngineError> {
    Err(EngineError::Unfit("this verb is being written".to_owned()))
}

#[allow(missing_docs, reason = "documented once, at `Engine`")]
impl Redis {
    pub async fn gate(&self, _: &ShardId) -> Result<GateView, EngineError> {
        missing()
    }
    pub async fn shut(
        &self,
        _: &ShardId,
        _: LedgerId,
        _: u64,
        _: Timestamp,
    ) -> Result<Shut, EngineError> {
        missing()
    }
    pub async fn open_gate(&self, _: &ShardId, _: &Opening) -> Result<Opened, EngineError> {
        missing()
    }
    pub async fn adopt(
        &self,
        _: &ShardId,
        _: WorkerId,
        _: Duration,
        _: &[Adoption],
    ) -> Result<Vec<Adopted>, EngineError> {
        missing()
    }
    pub async fn report(&self, _: &ShardId, _: WorkerId) -> Result<(), EngineError> {
        missing()
    }
    pub async fn scan(&self, _: &ShardId, _: u64) -> Result<ScanPage, EngineError> {
        missing()
    }
    pub async fn drop_jobs(
        &self,
        _: &ShardId,
        _: &[(JobId, Fence)],
        _: bool,
    ) -> Result<Vec<bool>, EngineError> {
        missing()
    }
}
