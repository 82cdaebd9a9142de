//! The verbs of a job's life, in order: submit, settle, record, release, reconcile.
