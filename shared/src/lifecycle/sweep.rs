//! Jobs in the ledger that the engine lost, or never got, are pushed again.
