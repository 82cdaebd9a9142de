//! The worker: claims jobs, runs handlers, settles.
