//! Instants on the wire and in the stores.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An instant in UTC, in microseconds since 1970. Shown with milliseconds (RFC 3339).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From microseconds since 1970.
    pub const fn from_micros(us: i64) -> Self {
        Self(us)
    }
    /// From milliseconds since 1970.
    pub const fn from_millis(ms: i64) -> Self {
        Self(ms.saturating_mul(1000))
    }
    /// Microseconds since 1970.
    pub const fn micros(self) -> i64 {
        self.0
    }
    /// Milliseconds since 1970, rounded down.
    pub const fn millis(self) -> i64 {
        self.0.div_euclid(1000)
    }
    /// Later by `d`; stays at the end of time where that would overflow.
    pub fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(d.as_micros()).unwrap_or(i64::MAX)))
    }
    /// Earlier by `d`; stays at the beginning of time where that would overflow.
    pub fn minus(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(d.as_micros()).unwrap_or(i64::MAX)))
    }
    /// Time from `earlier` to `self`; zero where `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(t) => write!(f, "{t:.3}"),
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

impl std::str::FromStr for Timestamp {
    type Err = jiff::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.parse::<jiff::Timestamp>()?.as_microsecond()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(|_| serde::de::Error::custom("not an RFC 3339 time"))
    }
}

/// A length of time on the wire: accepted as `"1m30s"` or as a number of seconds, returned as text. Whole
/// milliseconds: fractions of one are rounded up when read, and not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

impl Span {
    /// Longest text that is read as a span.
    pub const TEXT_BYTES_MAX: usize = 40;
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms_total = self.0.as_millis();
        if ms_total == 0 {
            return f.write_str("0s");
        }
        let (s_total, ms) = (ms_total / 1000, ms_total % 1000);
        let (m_total, s) = (s_total / 60, s_total % 60);
        let (h, m) = (m_total / 60, m_total % 60);
        for (n, unit) in [(h, "h"), (m, "m"), (s, "s"), (ms, "ms")] {
            if n > 0 {
                write!(f, "{n}{unit}")?;
            }
        }
        Ok(())
    }
}

impl std::str::FromStr for Span {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "not a duration such as \"250ms\", \"1m30s\" or a number of seconds";
        let mut total_ms: u64 = 0;
        let mut rest = text;
        if rest.is_empty() || rest.len() > Self::TEXT_BYTES_MAX {
            return Err(WRONG);
        }
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let n: u64 = rest[..digits].parse().map_err(|_| WRONG)?;
            rest = &rest[digits..];
            let letters = rest.bytes().take_while(u8::is_ascii_lowercase).count();
            let unit_ms: u64 = match &rest[..letters] {
                "ms" => 1,
                "s" => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(WRONG),
            };
            rest = &rest[letters..];
            let part = n.checked_mul(unit_ms).ok_or(WRONG)?;
            total_ms = total_ms.checked_add(part).ok_or(WRONG)?;
        }
        Ok(Self(Duration::from_millis(total_ms)))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"1m30s\" or a number of seconds")
            }
            fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Span, E> {
                v.parse().map_err(E::custom)
            }
            fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<Span, E> {
                if v > 1_000_000_000 {
                    return Err(E::custom("longer than any allowed duration"));
                }
                Ok(Span(Duration::from_secs(v)))
            }
            fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<Span, E> {
                u64::try_from(v)
                    .map_err(|_| E::custom("must not be negative"))
                    .and_then(|v| self.visit_u64(v))
            }
            fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Span, E> {
                if !(0.0..=1e9).contains(&v) {
                    return Err(E::custom("must be from 0 to 1e9 seconds"));
                }
                Ok(Span(Duration::from_millis((v * 1e3).ceil() as u64)))
            }
        }
        d.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_survive_a_round_trip_and_reject_nonsense() {
        for (text, ms) in
            [("250ms", 250), ("1m30s", 90_000), ("2h", 7_200_000), ("1h1ms", 3_600_001)]
        {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.0, Duration::from_millis(ms));
            assert_eq!(span.to_string(), text);
        }
        for text in ["", "s", "5", "-1s", "1 s", "1w", "99999999999999999999s"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        assert_eq!(serde_json::from_str::<Span>("1.5").unwrap().0, Duration::from_millis(1500));
        assert!(serde_json::from_str::<Span>("-1").is_err());
        // What was read can be shown and read again: rows of the ledger hold it as text.
        for tiny in ["0.0000001", "0.0005", "1e-300"] {
            let span: Span = serde_json::from_str(tiny).unwrap();
            assert_eq!(span.to_string().parse::<Span>().unwrap(), span, "{tiny}");
        }
        assert_eq!(Span(Duration::from_micros(5)).to_string(), "0s");
    }

    #[test]
    fn timestamps_show_milliseconds() {
        let t = Timestamp::from_millis(1_000);
        assert_eq!(t.to_string(), "1970-01-01T00:00:01.000Z");
        assert_eq!("1970-01-01T00:00:01Z".parse::<Timestamp>().unwrap(), t);
    }
}
