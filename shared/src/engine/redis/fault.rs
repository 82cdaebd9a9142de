//! What can go wrong between us and the store, sorted by what is to be done.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::engine::{BoxError, EngineError};

/// Most bytes of a strange reply that are kept.
const REPLY_MAX: usize = 200;

/// Why a command has no answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// No connection, no answer in time, or a state that passes (loading, failover).
    Down(BoxError),
    /// The script is not in the server's cache: send it whole.
    NoScript(RedisError),
    /// At `maxmemory`.
    NoMemory(RedisError),
    /// Wrong login, or a command that the login may not use.
    Denied(String),
    /// A script failed on what it found, or the reply makes no sense.
    Confused(String),
}

impl Fault {
    /// Nothing came in time.
    pub(super) fn late() -> Self {
        Self::Down("no answer in time".into())
    }

    /// Why no connection was made. Refusals pass (too many clients, loading), but for a wrong login.
    pub(super) fn of_connecting(error: RedisError) -> Self {
        match Self::from(error.clone()) {
            Self::Confused(_) => Self::Down(Box::new(error)),
            other => other,
        }
    }

    /// As the contract says it; `script` is what was asked for.
    pub(super) fn into_error(self, script: &'static str) -> EngineError {
        match self {
            Self::Down(cause) => EngineError::Unavailable(cause),
            Self::NoScript(cause) | Self::NoMemory(cause) => {
                EngineError::Unavailable(Box::new(cause))
            }
            Self::Denied(why) => EngineError::Unfit(why),
            Self::Confused(reply) => unknown_reply(script, reply),
        }
    }
}

/// Counts and tells a reply, or a value in the store, that this build does not know.
pub(super) fn unknown_reply(script: &'static str, reply: String) -> EngineError {
    metrics::counter!("windlass_engine_garbage_total", "script" => script).increment(1);
    EngineError::UnknownReply { script, reply: cut(reply) }
}

impl From<RedisError> for Fault {
    fn from(error: RedisError) -> Self {
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoScript) => return Self::NoScript(error),
            ErrorKind::AuthenticationFailed | ErrorKind::Server(ServerErrorKind::NoPerm) => {
                return Self::Denied(format!("redis refuses the login or a command: {error}"));
            }
            ErrorKind::InvalidClientConfig | ErrorKind::RESP3NotSupported => {
                return Self::Denied(format!("the engine's address is wrong: {error}"));
            }
            ErrorKind::Server(ServerErrorKind::ResponseError | ServerErrorKind::CrossSlot)
            | ErrorKind::Parse
            | ErrorKind::UnexpectedReturnType => return Self::Confused(error.to_string()),
            // Everything else is of the network or of a state that passes, or has a code of its own.
            _ => {}
        }
        match error.code() {
            Some("OOM") => Self::NoMemory(error),
            Some("NOAUTH" | "WRONGPASS") => Self::Denied(
                "redis asks for a login that the engine's address does not have".into(),
            ),
            Some("WRONGTYPE") => Self::Confused(error.to_string()),
            _ => Self::Down(Box::new(error)),
        }
    }
}

/// Whether to connect anew before the next command. A time-out counts: behind a dead peer every later
/// answer would be late too.
pub(super) fn breaks_connection(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        // This server was the master once: ask where the master is.
        || error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
}

/// A text of bounded length.
fn cut(mut text: String) -> String {
    if text.len() > REPLY_MAX {
        let end = (0..=REPLY_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}
