//! Open streams (server-sent events): bounded for each key and in total.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use windlass_shared::model::id::KeyId;

use crate::error::{ApiError, Code};

/// Open streams of one key.
const PER_KEY_MAX: usize = 50;
/// Open streams of this process.
const TOTAL_MAX: usize = 1_000;

/// Counts the open streams of a process.
#[derive(Default)]
pub struct Streams {
    open: Arc<Mutex<HashMap<Option<KeyId>, usize>>>,
}

/// One open stream; gives its place back when dropped.
pub struct Place {
    open: Arc<Mutex<HashMap<Option<KeyId>, usize>>>,
    key: Option<KeyId>,
}

impl Streams {
    /// Takes a place for a stream.
    ///
    /// # Errors
    /// 429 when the key, or the process, has no place left.
    pub fn open(&self, key: Option<KeyId>) -> Result<Place, ApiError> {
        let mut open = self.open.lock().expect("nothing panics while holding it");
        let total: usize = open.values().sum();
        let own = open.entry(key).or_insert(0);
        if *own >= PER_KEY_MAX || total >= TOTAL_MAX {
            return Err(ApiError::new(Code::RateLimited, "too many open streams")
                .retry_after(Duration::from_secs(5)));
        }
        *own += 1;
        Ok(Place { open: self.open.clone(), key })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock().expect("nothing panics while holding it");
        if let Some(count) = open.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let streams = Streams::default();
        let mut places: Vec<_> = (0..PER_KEY_MAX).map(|_| streams.open(None).unwrap()).collect();
        assert!(streams.open(None).is_err());
        assert!(streams.open(Some(KeyId::generate())).is_ok());
        places.pop();
        assert!(streams.open(None).is_ok());
        drop(places);
        assert!(streams.open.lock().unwrap().is_empty());
    }
}
