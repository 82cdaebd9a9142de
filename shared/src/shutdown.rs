//! Stopping in order: a token that says "drain", and a tracker of the tasks that must end first.
