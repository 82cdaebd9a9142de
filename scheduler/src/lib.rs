//! The scheduler: records outcomes, sweeps, runs periodic duties.
