//! The pure model of one shard: no I/O, no clock, no randomness.
