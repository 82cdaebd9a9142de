//! Delays between attempts: pure functions of the policy, the attempt and a random number.
