//! Faults planted in the scripts.
