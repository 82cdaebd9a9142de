//! adopt, scan and drop_jobs.

use super::*;
