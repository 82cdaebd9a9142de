//! Fault tools: what hurts a fleet from outside its processes.
