//! When something of the installation's upkeep happened last: what ages of backups and drills are reckoned from.

use std::collections::BTreeMap;

use futures::future::BoxFuture;

use super::{Ledger, Result, dispatch};
use crate::model::time::Timestamp;

/// Something that happens again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Upkeep {
    /// Backups became wanted: a scheduler with a store for them runs. Noted once.
    BackupsWanted,
    /// A backup was made; its instant.
    Backup,
    /// A drill passed.
    Drill,
    /// A drill failed.
    DrillFailed,
}

impl Upkeep {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::BackupsWanted, Self::Backup, Self::Drill, Self::DrillFailed];

    /// The stores' word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BackupsWanted => "backups_wanted",
            Self::Backup => "backup",
            Self::Drill => "drill",
            Self::DrillFailed => "drill_failed",
        }
    }

    pub(super) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == word)
    }
}

/// What has happened, and when last.
pub type LastUpkeep = BTreeMap<Upkeep, Timestamp>;

impl Ledger {
    /// Notes that this happened at `at` (ledger time); `None`: now, unless it has happened before. An earlier time than the
    /// one on record changes nothing. Safe to repeat.
    pub fn note_upkeep(&self, what: Upkeep, at: Option<Timestamp>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { dispatch!(self, note_upkeep(what, at)) })
    }

    /// When each happened last.
    pub fn last_upkeep(&self) -> BoxFuture<'_, Result<LastUpkeep>> {
        Box::pin(async move { dispatch!(self, last_upkeep()) })
    }
}
