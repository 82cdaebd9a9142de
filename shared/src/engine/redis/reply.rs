//! Reading the replies of scripts. What is not as its script's header says is an error, never a panic.

use bytes::Bytes;
use redis::Value;

use super::fault::unknown_reply;
use super::layout::Damaged;
use crate::engine::EngineError;

/// The items of one reply, read from the front.
pub(super) struct Reply {
    script: &'static str,
    items: std::vec::IntoIter<Value>,
}

impl Reply {
    /// Takes a script's list.
    pub(super) fn new(script: &'static str, value: Value) -> Result<Self, EngineError> {
        match value {
            Value::Array(items) => Ok(Self { script, items: items.into_iter() }),
            other => Err(unknown_reply(script, format!("{other:?}"))),
        }
    }

    /// The error for a reply that this build does not know.
    pub(super) fn unknown(&self, what: impl std::fmt::Debug) -> EngineError {
        unknown_reply(self.script, format!("{what:?}"))
    }

    /// How many items are left.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// The next item, a string of any bytes.
    pub(super) fn bytes(&mut self) -> Result<Bytes, EngineError> {
        match self.items.next() {
            Some(Value::BulkString(bytes)) => Ok(bytes.into()),
            other => Err(self.unknown(other)),
        }
    }

    /// The next item, a word.
    pub(super) fn word(&mut self) -> Result<String, EngineError> {
        let bytes = self.bytes()?;
        String::from_utf8(bytes.into()).map_err(|error| self.unknown(error))
    }

    /// The next item, which must be this word.
    pub(super) fn expect(&mut self, word: &str) -> Result<(), EngineError> {
        let found = self.word()?;
        if found == word { Ok(()) } else { Err(self.unknown(found)) }
    }

    /// The next item, a number.
    pub(super) fn number(&mut self) -> Result<i64, EngineError> {
        match self.items.next() {
            Some(Value::Int(number)) => Ok(number),
            other => Err(self.unknown(other)),
        }
    }

    /// The next item, a number that is never negative.
    pub(super) fn count(&mut self) -> Result<u64, EngineError> {
        let number = self.number()?;
        u64::try_from(number).map_err(|_| self.unknown(number))
    }

    /// The next item: a letter for each of `count` jobs, as `known` reads them.
    pub(super) fn letters<T>(
        &mut self,
        count: usize,
        known: impl Fn(u8) -> Option<T>,
    ) -> Result<Vec<T>, EngineError> {
        let letters = self.bytes()?;
        let read: Option<Vec<T>> = letters.iter().map(|letter| known(*letter)).collect();
        match read {
            Some(read) if read.len() == count => Ok(read),
            _ => Err(self.unknown(letters)),
        }
    }

    /// The next item, a list.
    pub(super) fn list(&mut self) -> Result<Self, EngineError> {
        match self.items.next() {
            Some(Value::Array(items)) => Ok(Self { script: self.script, items: items.into_iter() }),
            other => Err(self.unknown(other)),
        }
    }

    /// Turns damage of a value into the script's error.
    pub(super) fn sound<T>(&self, value: Result<T, Damaged>) -> Result<T, EngineError> {
        value.map_err(|_| self.unknown("a damaged value"))
    }

    /// Checks that nothing is left.
    pub(super) fn end(mut self) -> Result<(), EngineError> {
        match self.items.next() {
            None => Ok(()),
            more => Err(self.unknown(more)),
        }
    }
}
