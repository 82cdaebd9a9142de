//! Which jobs a walk over those that should be in the engine looks for.

use super::JobPage;
use crate::engine::flow::Group;
use crate::model::id::JobId;
use crate::model::job::JobSpec;
use crate::model::name::{Kind, Namespace, QueueName};
use crate::model::time::Timestamp;

/// Jobs of a queue that are neither terminal nor blocked; see [`Ledger::unfinished`](super::Ledger::unfinished).
#[derive(Debug, Clone, Copy)]
pub struct Unfinished<'a> {
    /// Whose.
    pub namespace: &'a Namespace,
    /// Where they wait.
    pub queue: &'a QueueName,
    /// Due before this.
    pub due_before: Timestamp,
    /// Unchanged since this.
    pub changed_before: Timestamp,
    /// With ids after this one.
    pub after: Option<JobId>,
    /// Most of one page.
    pub limit: u32,
    /// Of which groups.
    pub groups: Groups<'a>,
    /// Most jobs that one page looks at where it may pass over some; [`WALK_WINDOW`] but for tests.
    pub window: u32,
}

/// Of which groups jobs are looked for. Jobs with keys that were accepted by a build without groups count as unkeyed.
#[derive(Debug, Clone, Copy)]
pub enum Groups<'a> {
    /// All but these.
    AllBut(&'a [Group]),
    /// This one.
    Only(Group),
}

/// Most jobs that one page looks at where it may pass over some.
pub const WALK_WINDOW: u32 = 20_000;

impl Groups<'_> {
    /// Whether a page may have to look at many jobs that are not wanted: those of one group have an index.
    pub(super) fn may_skip(self) -> bool {
        match self {
            Self::AllBut(groups) => !groups.is_empty(),
            Self::Only(group) => group == Group::UNKEYED,
        }
    }
}

impl<'a> Unfinished<'a> {
    /// Of all groups, from the beginning.
    pub fn new(
        namespace: &'a Namespace,
        queue: &'a QueueName,
        (due_before, changed_before): (Timestamp, Timestamp),
        limit: u32,
    ) -> Self {
        let groups = Groups::AllBut(&[]);
        let window = WALK_WINDOW;
        Self { namespace, queue, due_before, changed_before, after: None, limit, groups, window }
    }

    /// How many jobs to look at first: enough where most are wanted.
    pub(super) fn near(&self) -> u32 {
        self.limit.min(self.window)
    }

    /// Whether a page has so many jobs that its walk gets on, though it may pass over some.
    pub(super) fn is_rich(&self, page: &JobPage) -> bool {
        page.jobs.len() >= self.limit as usize / 4
    }
}

/// The group of a job as its row has it; none of those without keys.
pub(super) fn group_of(spec: &JobSpec, kind: &Kind) -> Option<i32> {
    let flow = spec.flow(kind)?;
    Some(number(Group::of(Some(&flow))))
}

/// As rows have it.
pub(super) fn number(group: Group) -> i32 {
    i32::try_from(group.number()).expect("groups are numbers of 24 bits")
}
