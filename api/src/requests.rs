//! What callers send: shapes, and the checks that turn them into domain values.
//!
//! Shapes borrow from the body. Checks collect every fault before they refuse.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use crate::error::{ApiError, Code, FieldError};
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};

pub mod circuit;
pub mod docs;
pub mod evaluate;
pub mod filter;
pub mod job;
pub mod lease;
pub mod queue;
pub mod quota;
pub mod report;
pub mod retry;
pub mod schedule;
pub mod shaping;
pub mod workflow;

/// A text that borrows from the body where it has no escapes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text<'a>(pub Cow<'a, str>);

impl Text<'_> {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowing;
        impl<'de> Visitor<'de> for Borrowing {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrowing)
    }
}

/// A field of a partial change: absent, `null`, or a value.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Change<T> {
    /// Not named: stays as it is.
    #[default]
    Keep,
    /// `null`: back to the default.
    Clear,
    /// This from now on.
    Set(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Change<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::<T>::deserialize(deserializer)?.map_or(Self::Clear, Self::Set))
    }
}

impl<T> Change<T> {
    /// Carries the change out.
    pub fn apply(self, field: &mut Option<T>) {
        match self {
            Self::Keep => {}
            Self::Clear => *field = None,
            Self::Set(value) => *field = Some(value),
        }
    }
    /// The new value, where there is one.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Keep | Self::Clear => None,
        }
    }
}

/// Collects what is wrong with a request.
#[derive(Debug, Default)]
pub struct Faults {
    base: String,
    errors: Vec<FieldError>,
    code: Option<Code>,
}

/// Faults listed in one answer.
const LISTED_MAX: usize = 50;

impl Faults {
    /// Of the part of a body at `base`.
    pub fn below(base: impl Into<String>) -> Self {
        Self { base: base.into(), ..Self::default() }
    }

    /// Goes on with another part of the body; what was noted stays. The place before is in the answer.
    pub fn move_to(&mut self, base: impl Into<String>) -> String {
        std::mem::replace(&mut self.base, base.into())
    }

    /// Nothing more is listed: looking further is of no use.
    pub fn is_full(&self) -> bool {
        self.errors.len() >= LISTED_MAX
    }

    /// How much was noted so far.
    pub fn len(&self) -> usize {
        self.errors.len()
    }

    /// Notes what another check has found; its pointers are whole.
    pub fn absorb(&mut self, error: &ApiError) {
        if error.code() != Code::Invalid {
            self.code.get_or_insert(error.code());
        }
        let room = LISTED_MAX.saturating_sub(self.errors.len());
        if error.errors().is_empty() {
            self.wrong("", error.detail());
        } else {
            self.errors.extend(error.errors().iter().take(room).cloned());
        }
    }

    /// Notes a value that is out of range or of the wrong form.
    pub fn wrong(&mut self, pointer: &str, message: impl Into<String>) {
        if self.errors.len() < LISTED_MAX {
            self.errors.push(FieldError::at(format!("{}{pointer}", self.base), message));
        }
    }

    /// As [`Self::wrong`], with a code that outranks 422.
    pub fn refused(&mut self, code: Code, pointer: &str, message: impl Into<String>) {
        self.code.get_or_insert(code);
        self.wrong(pointer, message);
    }

    /// Parses a text; notes why it does not parse.
    pub fn parse<T>(&mut self, pointer: &str, text: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        text.parse().map_err(|error: T::Err| self.wrong(pointer, error.to_string())).ok()
    }

    /// Checks a text that is stored in an index.
    pub fn indexed(&mut self, pointer: &str, text: &str, max: usize) {
        if text.is_empty() || text.len() > max {
            self.wrong(pointer, format!("must be 1 to {max} bytes long"));
        }
        self.printable(pointer, text);
    }

    /// Refuses characters that are not seen, or that turn the text around where it is shown.
    pub fn printable(&mut self, pointer: &str, text: &str) {
        if text.contains('\0') {
            self.refused(Code::NulCharacter, pointer, "must not hold U+0000");
        } else if text.chars().any(is_invisible) {
            self.wrong(pointer, "must not hold control or bidirectional formatting characters");
        }
    }

    /// # Errors
    /// What was noted.
    pub fn finish(self) -> Result<(), ApiError> {
        if self.errors.is_empty() {
            return Ok(());
        }
        match self.code {
            Some(code) => {
                let first = &self.errors[0];
                let place = first.pointer.as_deref().unwrap_or("");
                let detail = format!("{place}: {}", first.message);
                Err(ApiError::new(code, detail).with_errors(self.errors))
            }
            None => Err(ApiError::invalid(self.errors)),
        }
    }
}

fn is_invisible(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Deserialises a list with a bound, so that a body full of empty items costs no more than its bytes.
pub fn bounded<'de, D, T, const MAX: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Items<T, const MAX: usize>(std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Items<T, MAX> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "an array of at most {MAX} items")
        }
        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = seq.next_element()? {
                if items.len() == MAX {
                    return Err(A::Error::custom(format_args!("must hold at most {MAX} items")));
                }
                items.push(item);
            }
            Ok(items)
        }
    }
    deserializer.deserialize_seq(Items::<T, MAX>(std::marker::PhantomData))
}

/// As [`bounded`], where the list may be absent or `null`.
pub fn some_bounded<'de, D, T, const MAX: usize>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct AtMost<T, const MAX: usize>(Vec<T>);
    impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for AtMost<T, MAX> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            bounded::<D, T, MAX>(deserializer).map(Self)
        }
    }
    let items = Option::<AtMost<T, MAX>>::deserialize(deserializer)?;
    Ok(items.map(|items| items.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_borrow_where_they_can() {
        let plain: Text<'_> = serde_json::from_str(r#""abc""#).unwrap();
        assert!(matches!(plain.0, Cow::Borrowed("abc")));
        let escaped: Text<'_> = serde_json::from_str(r#""a\nb""#).unwrap();
        assert_eq!(escaped.as_str(), "a\nb");
    }

    #[test]
    fn what_cannot_be_seen_is_refused() {
        let check = |text: &str| {
            let mut faults = Faults::below("/x");
            faults.indexed("/tag", text, 10);
            faults.finish().err().map(|error| error.code())
        };
        assert_eq!(check("ok é 🙂"), None);
        assert_eq!(check("a\0b"), Some(Code::NulCharacter));
        for bad in ["", "a\r\nb", "\u{202e}x", "\u{1b}[2J", "\u{2028}", "12345678901"] {
            assert_eq!(check(bad), Some(Code::Invalid), "{bad:?}");
        }
    }
}
