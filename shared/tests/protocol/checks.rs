//! What must hold. The numbers are those of the promises in `docs/protocol.md`.

use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Check {
    Stuck,
    TwoEnds,
    FenceFell,
    ReclaimedRecorded,
    StaleSettle,
    LeaseTaken,
    LateStart,
    StartsAdded,
    CleanLossRepeats,
    ChildTwice,
    ChildEarly,
    OutOfLeases,
}

impl Check {
    pub const ALL: [Self; 12] = [
        Self::Stuck,
        Self::TwoEnds,
        Self::FenceFell,
        Self::ReclaimedRecorded,
        Self::StaleSettle,
        Self::LeaseTaken,
        Self::LateStart,
        Self::StartsAdded,
        Self::CleanLossRepeats,
        Self::ChildTwice,
        Self::ChildEarly,
        Self::OutOfLeases,
    ];

    fn text(self) -> &'static str {
        match self {
            Self::Stuck => "I1: from here the job, or its child, can never reach its end",
            Self::TwoEnds => "I2: the job ends twice",
            Self::FenceFell => "I3: a lower fence is recorded after a higher one",
            Self::ReclaimedRecorded => {
                "I3: the ledger takes the result of a lease that this generation reclaimed"
            }
            Self::StaleSettle => {
                "I3: the engine takes a stale holder's settle for the present holder's"
            }
            Self::LeaseTaken => "I10: a lease that has not run out is taken from its live holder",
            Self::LateStart => "I11: the job starts after its end is recorded",
            Self::StartsAdded => {
                "I9: more starts than one, one for the retry, and one for each lease that was lost"
            }
            Self::CleanLossRepeats => {
                "I9: a start too many although the store lost data and no lease"
            }
            Self::ChildTwice => "I20: the child is released twice",
            Self::ChildEarly => "I20: the child is released before its parent's end is recorded",
            Self::OutOfLeases => "the model: a history needs more leases than it has places",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// The checks that one step breaks.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Broken(u16);

impl Broken {
    pub fn add(&mut self, check: Check) {
        self.0 |= 1 << check as u16;
    }

    pub fn has(self, check: Check) -> bool {
        self.0 & (1 << check as u16) != 0
    }

    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}
