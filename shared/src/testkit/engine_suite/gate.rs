//! gate, shut, open_gate and report, and what a gate holds back.

use super::*;
