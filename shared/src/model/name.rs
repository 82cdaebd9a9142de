//! Names that users give. Parsing validates; a value of these types is always legal.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not a legal name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty or over the limit.
    #[error("must be 1 to {max} characters long")]
    Length {
        /// The most characters allowed.
        max: usize,
    },
    /// A character outside the allowed set.
    #[error("may only contain the characters {allowed}")]
    Character {
        /// The allowed set, as text for people.
        allowed: &'static str,
    },
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $max:expr, $allowed:literal, $test:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                if text.is_empty() || text.len() > $max {
                    return Err(NameError::Length { max: $max });
                }
                let test: fn(u8) -> bool = $test;
                if !text.bytes().all(test) {
                    return Err(NameError::Character { allowed: $allowed });
                }
                Ok(Self(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
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

name!(
    /// A tenant's border: jobs, queues, keys and names of one namespace are unseen by the others.
    Namespace,
    64,
    "a-z 0-9 . _ -",
    |b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-')
);
name!(
    /// A queue's name.
    QueueName,
    128,
    "A-Z a-z 0-9 . _ : -",
    |b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-')
);
name!(
    /// The name that selects a job's handler.
    Kind,
    128,
    "A-Z a-z 0-9 . _ : -",
    |b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-')
);
name!(
    /// The name of a circuit: the dependency that it stands for.
    CircuitName,
    128,
    "A-Z a-z 0-9 . _ : -",
    |b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-')
);
name!(
    /// A schedule's name; unique in its namespace.
    ScheduleName,
    64,
    "a-z 0-9 . _ -",
    |b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-')
);

impl Default for Namespace {
    /// `default`, where everything lives until more namespaces are made.
    fn default() -> Self {
        Self("default".into())
    }
}

/// What the names of shadow namespaces begin with; a UUID follows.
const SHADOW: &str = "check-";

impl Namespace {
    /// `system`: where the installation's own jobs live. Only the schedulers' own worker runs them.
    pub fn system() -> Self {
        Self("system".into())
    }

    /// The shadow namespace of one load check.
    pub fn shadow(check: uuid::Uuid) -> Self {
        Self(format!("{SHADOW}{check}").into())
    }

    /// Whether it is named as [`Self::shadow`] names.
    pub fn is_shadow(&self) -> bool {
        let id = self.0.strip_prefix(SHADOW);
        // As it is written, and in no other of the forms that a UUID has.
        id.is_some_and(|id| uuid::Uuid::try_parse(id).is_ok_and(|uuid| uuid.to_string() == id))
    }

    /// Whether it is the installation's own: [`Self::system`], or the shadow of a check. Only admins change anything in
    /// these.
    pub fn is_own(&self) -> bool {
        *self == Self::system() || self.is_shadow()
    }
}

impl QueueName {
    /// `system`: the queue of the installation's own jobs, in the namespace of the same name.
    pub fn system() -> Self {
        Self("system".into())
    }
}

impl Default for QueueName {
    /// `default`.
    fn default() -> Self {
        Self("default".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_namespaces_are_told_from_those_of_users() {
        let id = uuid::Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_00ab);
        assert!(Namespace::shadow(id).is_shadow() && Namespace::shadow(id).is_own());
        assert!(Namespace::system().is_own() && !Namespace::system().is_shadow());
        let hex = format!("check-{}", id.simple());
        for name in ["default", "check-", "check-1", "checks", "system2", hex.as_str()] {
            let name: Namespace = name.parse().unwrap();
            assert!(!name.is_own() && !name.is_shadow(), "{name}");
        }
    }
}
