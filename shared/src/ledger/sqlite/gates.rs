//! Leadership, and the gates of shards.

use std::time::Duration;

use super::Result;
use crate::engine::{ProcessId, ShardId};
use crate::ledger::{Epoch, Leader, ShardRecord};
use crate::model::id::{LedgerId, WorkerId};

#[allow(missing_docs, reason = "documented once, at `Ledger`")]
impl super::Sqlite {
    pub fn id(&self) -> LedgerId {
        unimplemented!("being written")
    }
    pub async fn lead(&self, _: WorkerId, _: &str, _: Duration) -> Result<Option<Epoch>> {
        unimplemented!("being written")
    }
    pub async fn resign(&self, _: Epoch) -> Result<()> {
        unimplemented!("being written")
    }
    pub async fn leader(&self) -> Result<Option<Leader>> {
        unimplemented!("being written")
    }
    pub async fn shard(&self, _: &ShardId) -> Result<ShardRecord> {
        unimplemented!("being written")
    }
    pub async fn first_generation(&self, _: &ShardId) -> Result<bool> {
        unimplemented!("being written")
    }
    pub async fn next_generation(&self, _: &ShardId, _: Epoch) -> Result<Option<u64>> {
        unimplemented!("being written")
    }
    pub async fn note_opened(&self, _: &ShardId, _: u64, _: ProcessId) -> Result<bool> {
        unimplemented!("being written")
    }
}
