//! Each rule of the protocol taken out, and what then breaks. A rule without which nothing breaks has no place in the protocol.

use crate::checks::Check;
use crate::rules::{Rule, Rules, Scope};
use crate::scopes;
use crate::search::{Found, Until, search};

/// A protocol that is worse by some rules, and the check that has to notice.
pub struct Mutation {
    pub name: &'static str,
    pub removed: &'static [Rule],
    pub scope: Scope,
    pub breaks: Check,
}

const fn without(
    name: &'static str,
    removed: &'static [Rule],
    scope: Scope,
    breaks: Check,
) -> Mutation {
    Mutation { name, removed, scope, breaks }
}

pub const MUTATIONS: &[Mutation] = &[
    without("no sweep", &[Rule::Sweep], scopes::SLOW, Check::Stuck),
    without("the ledger compares no fences", &[Rule::LedgerFence], scopes::SLOW, Check::FenceFell),
    without("ended jobs take outcomes", &[Rule::LedgerEnd], scopes::SLOW, Check::TwoEnds),
    without("a push has no not_after", &[Rule::NotAfter], scopes::SLOW, Check::LateStart),
    without("no tombstone", &[Rule::Tombstone], scopes::SLOW, Check::LateStart),
    without("no gate", &[Rule::Gate], scopes::WIPE, Check::CleanLossRepeats),
    without("no replay of settles", &[Rule::Replay], scopes::ROLLBACK, Check::CleanLossRepeats),
    without("no adoption", &[Rule::Adopt], scopes::WIPE, Check::CleanLossRepeats),
    without(
        "no gate, no adoption, no replay",
        &[Rule::Gate, Rule::Adopt, Rule::Replay],
        scopes::WIPE,
        Check::CleanLossRepeats,
    ),
    without("confirm before commit", &[Rule::CommitFirst], scopes::SLOW, Check::LateStart),
    without(
        "child released after the transaction, by who recorded the end",
        &[Rule::ReleaseInside],
        scopes::SLOW,
        Check::Stuck,
    ),
    without(
        "child released after the transaction, by who reads the outcome",
        &[Rule::ReleaseInside, Rule::ReleaseOnce],
        scopes::SLOW,
        Check::ChildTwice,
    ),
    without(
        "child released before the transaction",
        &[Rule::ReleaseInside, Rule::ReleaseAfter],
        scopes::SLOW,
        Check::ChildEarly,
    ),
    without("no lease token", &[Rule::Token], scopes::CLOCK, Check::StaleSettle),
    without(
        "confirm by number only",
        &[Rule::ConfirmByHead],
        scopes::ROLLBACK,
        Check::CleanLossRepeats,
    ),
    without(
        "settles forgotten in any generation, by a rollback",
        &[Rule::ForgetInGeneration],
        scopes::ROLLBACK,
        Check::CleanLossRepeats,
    ),
    without(
        "settles forgotten in any generation, by a flush",
        &[Rule::ForgetInGeneration],
        scopes::WIPE_OTHER,
        Check::CleanLossRepeats,
    ),
    without(
        "the opening compares no generation",
        &[Rule::OpenComparesGeneration],
        scopes::LEADERS,
        Check::CleanLossRepeats,
    ),
    without(
        "a leader opens a shard whose shut gate is gone",
        &[Rule::OpenNeedsShut],
        scopes::LEADERS,
        Check::CleanLossRepeats,
    ),
    without(
        "the first opener opens a shard whose shut gate is gone",
        &[Rule::OpenNeedsShut],
        scopes::FRESH,
        Check::CleanLossRepeats,
    ),
    without(
        "opened for the process that serves now",
        &[Rule::OpenNamesProcess],
        scopes::DOUBT,
        Check::CleanLossRepeats,
    ),
    without("no amnesty after a silence", &[Rule::Amnesty], scopes::STEADY, Check::StartsAdded),
    without("no grace after an opening", &[Rule::Grace], scopes::SILENCE, Check::StartsAdded),
    without("nothing is dropped", &[Rule::ReverseCompare], scopes::ROLLBACK, Check::LateStart),
    without(
        "leases whose end is on record are left",
        &[Rule::ReplaceEnded],
        scopes::RETRY,
        Check::CleanLossRepeats,
    ),
    without(
        "waiting forms that have not counted a recorded attempt are left",
        &[Rule::ReplaceUncounted],
        scopes::RETRY_NOTED,
        Check::CleanLossRepeats,
    ),
    without(
        "the first opening is not guarded by the ledger",
        &[Rule::FirstOpening],
        scopes::WIPE,
        Check::CleanLossRepeats,
    ),
    without(
        "a push names no generation",
        &[Rule::PushNamesGeneration],
        scopes::WIPE,
        Check::LateStart,
    ),
    without(
        "the direct path leaves the job in the engine",
        &[Rule::DirectWithdraws],
        scopes::STEADY,
        Check::LateStart,
    ),
    without(
        "the direct path commits in another generation",
        &[Rule::DirectInGeneration],
        scopes::LEADERS,
        Check::LateStart,
    ),
    without(
        "the direct path commits after the window",
        &[Rule::DirectInWindow],
        scopes::SECOND,
        Check::LateStart,
    ),
    without(
        "the direct path does not wait for the outbox",
        &[Rule::DirectAfterOutbox],
        scopes::SLOW,
        Check::ReclaimedRecorded,
    ),
    without(
        "the direct path refuses what waits in the outbox",
        &[Rule::DirectKnown],
        scopes::RETRY,
        Check::CleanLossRepeats,
    ),
    without(
        "the tombstone of a retry lets in every form of its fence",
        &[Rule::RetryTombstone],
        scopes::RETRY_STEADY,
        Check::StartsAdded,
    ),
    without(
        "adopting is refused by any settle",
        &[Rule::AdoptOverOlder],
        scopes::SECOND,
        Check::StartsAdded,
    ),
    without(
        "adopting after the window, of what is not there",
        &[Rule::LateAdopt],
        scopes::WIPE_MISS,
        Check::LateStart,
    ),
    without(
        "adopting after the window, of what another holds",
        &[Rule::LateAdopt],
        scopes::CLOCK,
        Check::LeaseTaken,
    ),
];

/// Those that only a larger world notices: searched on request.
pub const LONG_MUTATIONS: &[Mutation] = &[without(
    "a retry that a later lease has counted is refused",
    &[Rule::DirectCounted],
    scopes::RETRY_CRASH_LONG,
    Check::StartsAdded,
)];

/// Searches until the mutation's check breaks.
pub fn find(mutation: &Mutation) -> Found {
    let rules = Rules::without(mutation.removed);
    search(&mutation.scope, rules, Until::Breaks(mutation.breaks))
}
