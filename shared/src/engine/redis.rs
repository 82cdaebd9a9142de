//! The engine on Redis: single, Sentinel or Cluster.

use std::time::Duration;

use super::*;

/// The engine on Redis: single, Sentinel or Cluster.
pub struct Redis {}

#[allow(unused_variables, missing_docs, clippy::todo, reason = "stubs")]
impl Redis {
    /// Connects and checks that the store is fit.
    pub async fn open(_settings: &crate::config::EngineSettings) -> Result<Self, EngineError> {
        todo!()
    }
    pub async fn push(
        &self,
        shard: &ShardId,
        jobs: &[Push],
        not_after: Timestamp,
    ) -> Result<PushReply, EngineError> {
        todo!()
    }
    pub async fn claim(
        &self,
        shard: &ShardId,
        request: &ClaimRequest,
    ) -> Result<ClaimReply, EngineError> {
        todo!()
    }
    pub async fn extend(
        &self,
        shard: &ShardId,
        held: &[Held],
        lease: Duration,
    ) -> Result<Vec<Extended>, EngineError> {
        todo!()
    }
    pub async fn settle(
        &self,
        shard: &ShardId,
        settles: &[Settle],
    ) -> Result<Vec<Settled>, EngineError> {
        todo!()
    }
    pub async fn promote(&self, shard: &ShardId, max: u32) -> Result<u32, EngineError> {
        todo!()
    }
    pub async fn reap(&self, shard: &ShardId, max: u32) -> Result<u32, EngineError> {
        todo!()
    }
    pub async fn configure(
        &self,
        shard: &ShardId,
        settings: &ShardSettings,
    ) -> Result<bool, EngineError> {
        todo!()
    }
    pub async fn cancel(
        &self,
        shard: &ShardId,
        jobs: &[(JobId, Fence)],
        how: Withdraw,
    ) -> Result<Vec<CancelReply>, EngineError> {
        todo!()
    }
    pub async fn outcomes(&self, shard: &ShardId, max: u32) -> Result<Vec<Outcome>, EngineError> {
        todo!()
    }
    pub async fn confirm(&self, shard: &ShardId, up_to: u64) -> Result<(), EngineError> {
        todo!()
    }
    pub async fn exists(&self, shard: &ShardId, ids: &[JobId]) -> Result<Vec<bool>, EngineError> {
        todo!()
    }
    pub async fn peek(&self, shard: &ShardId, id: JobId) -> Result<Option<Live>, EngineError> {
        todo!()
    }
    pub async fn leased(
        &self,
        shard: &ShardId,
        after: Option<(Timestamp, JobId)>,
        claimed_by: Timestamp,
        max: u32,
    ) -> Result<Vec<Running>, EngineError> {
        todo!()
    }
    pub async fn stats(&self, shard: &ShardId) -> Result<ShardStats, EngineError> {
        todo!()
    }
    pub async fn now(&self) -> Result<Timestamp, EngineError> {
        todo!()
    }
    pub async fn subscribe(&self, shards: &[ShardId]) -> Result<Signals, EngineError> {
        todo!()
    }
    pub async fn publish(
        &self,
        namespace: &Namespace,
        events: &[feed::Event],
    ) -> Result<(), EngineError> {
        todo!()
    }
    pub async fn feed(
        &self,
        namespace: &Namespace,
        after: Option<u64>,
        max: u32,
    ) -> Result<feed::FeedPage, EngineError> {
        todo!()
    }
}
