//! What the ledger does: each function is one transaction.

use crate::checks::{Broken, Check};
use crate::rules::{Rule, Rules};
use crate::shard::{Ended, Outcome};
use crate::state::Ledger;

/// Records an outcome if the guards let it pass; whether they did.
///
/// The guards: the job has not ended, and the fence is higher than the recorded one, or equal with only its start on record.
pub fn record(ledger: &mut Ledger, outcome: Outcome, rules: Rules, broken: &mut Broken) -> bool {
    if outcome.ended == Ended::Other {
        return false;
    }
    if rules.keep(Rule::LedgerEnd) && ledger.succeeded {
        return false;
    }
    let newer = outcome.fence > ledger.fence || (outcome.fence == ledger.fence && ledger.started);
    if rules.keep(Rule::LedgerFence) && !newer {
        return false;
    }
    if outcome.fence < ledger.fence {
        broken.add(Check::FenceFell);
    }
    ledger.fence = outcome.fence;
    ledger.started = false;
    ledger.attempts = outcome.attempts;
    if outcome.ended == Ended::Succeeded {
        if ledger.succeeded {
            broken.add(Check::TwoEnds);
        }
        ledger.succeeded = true;
    }
    true
}

/// Makes the child ready.
pub fn release_child(ledger: &mut Ledger, broken: &mut Broken) {
    if !ledger.succeeded {
        broken.add(Check::ChildEarly);
    }
    if ledger.child > 0 {
        broken.add(Check::ChildTwice);
    }
    ledger.child = (ledger.child + 1).min(2);
}
