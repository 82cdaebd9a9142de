//! Identifiers. Each is a newtype with a private field; `Display` is the wire form.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// A text that is not an identifier of the named sort.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not {0}")]
pub struct ParseIdError(&'static str);

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Takes over a UUID made elsewhere.
            pub const fn from_uuid(id: Uuid) -> Self {
                Self(id)
            }
            /// The UUID itself, for the stores.
            pub const fn uuid(self) -> Uuid {
                self.0
            }
            /// From 16 raw bytes, as stored in the engine.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
            /// The 16 raw bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0.hyphenated())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                // Only the hyphenated form: one spelling per id, so that ids compare as text too.
                if text.len() != 36 {
                    return Err(ParseIdError($what));
                }
                Uuid::try_parse(text).map(Self).map_err(|_| ParseIdError($what))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

uuid_id!(
    /// A job. UUIDv7, so that ids sort by time of submission.
    JobId,
    "a job id (a UUID)"
);
uuid_id!(
    /// A workflow run.
    WorkflowId,
    "a workflow id (a UUID)"
);
uuid_id!(
    /// A payload, output or other large value kept in the ledger by reference.
    BlobId,
    "a blob id (a UUID)"
);
uuid_id!(
    /// One start of one worker process. A restarted worker has another one; names are labels only.
    WorkerId,
    "a worker id (a UUID)"
);
uuid_id!(
    /// 128 random bits that prove the holding of the leases taken by one claim call.
    LeaseId,
    "a lease token (a UUID)"
);
uuid_id!(
    /// A bulk operation that runs in the background and can be followed.
    OperationId,
    "an operation id (a UUID)"
);
uuid_id!(
    /// One life of a schedule: one of the same name made later has another.
    ScheduleId,
    "a schedule id (a UUID)"
);
uuid_id!(
    /// One time that something was wrong with a subject.
    AlertId,
    "an alert id (a UUID)"
);
uuid_id!(
    /// A backup of the ledger. UUIDv7, so that ids sort by when they were made.
    BackupId,
    "a backup id (a UUID)"
);
uuid_id!(
    /// What one ledger is, and no copy or restored backup of it.
    LedgerId,
    "a ledger id (a UUID)"
);
uuid_id!(
    /// An API key's record; not the secret.
    KeyId,
    "a key id (a UUID)"
);

impl JobId {
    /// A fresh id for a job accepted now. The time comes from the wall clock of this process and
    /// only orders ids; no promise rests on it.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
    /// The smallest id whose time is `unix_ms`: a bound for lists by time of creation.
    pub fn first_at(unix_ms: u64) -> Self {
        let mut bytes = [0u8; 16];
        bytes[..6].copy_from_slice(&unix_ms.to_be_bytes()[2..]);
        bytes[6] = 0x70;
        bytes[8] = 0x80;
        Self(Uuid::from_bytes(bytes))
    }
}

impl JobId {
    /// When the id was drawn, by the clock of the host that drew it; `None` for ids that hold no time.
    pub fn drawn_at(self) -> Option<super::time::Timestamp> {
        drawn_at(self.0)
    }
}

fn drawn_at(id: Uuid) -> Option<super::time::Timestamp> {
    let (seconds, nanos) = id.get_timestamp()?.to_unix();
    let micros = seconds.checked_mul(1_000_000)?.checked_add(u64::from(nanos / 1_000))?;
    Some(super::time::Timestamp::from_micros(i64::try_from(micros).ok()?))
}

impl BlobId {
    /// A fresh id.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl WorkflowId {
    /// A fresh id.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl OperationId {
    /// A fresh id.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl ScheduleId {
    /// A fresh id.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl AlertId {
    /// A fresh id.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// As [`JobId::drawn_at`].
    pub fn drawn_at(self) -> Option<super::time::Timestamp> {
        drawn_at(self.0)
    }
}

impl KeyId {
    /// A fresh id.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl WorkerId {
    /// A fresh id for a process that starts now.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl LeaseId {
    /// 122 random bits from the operating system's generator.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

/// The number of one lease of one job; it only rises (reliability: fencing tokens).
///
/// Microseconds of engine time, or the last fence + 1 where that is higher, so it stays below 2^53
/// and is exact in Lua and JSON numbers.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Fence(pub u64);

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
