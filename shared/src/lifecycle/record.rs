//! Outcomes from the engine into the ledger.
