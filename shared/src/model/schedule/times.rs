//! When a schedule is due: civil times of a pattern in a zone, or an interval.
//!
//! # Rules where the clock is put forward or back
//! A pattern is a set of civil times. Each of them that the zone's clock shows once is one instant. Further:
//! * **gap** (civil times that are passed over): `shift` makes one instant of all that match in it, the first one
//!   after the gap; `skip` makes none.
//! * **repeat** (civil times that are shown twice): `first`, `last`, or `both`.
//!
//! The instants are a set: what is due twice at one instant is due once. An `every` counts seconds and knows no zone.

use jiff::Timestamp as Point;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use serde::{Deserialize, Serialize};

use super::cron::Pattern;
use crate::model::time::{Span, Timestamp};

/// A search ends this many years after its beginning.
const HORIZON_YEARS: i64 = 100;
const YEAR_SECONDS: i64 = 366 * 24 * 3600;
/// Files beside the zones that say what one host is set to, which is another on the next.
const OF_A_HOST: [&str; 2] = ["localtime", "posixrules"];

/// What becomes of civil times that are passed over when clocks go forward.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gap {
    /// Due at the first instant after the gap, once.
    #[default]
    Shift,
    /// Not due.
    Skip,
}

/// Which of the two counts of a civil time that is shown twice when clocks go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repeat {
    /// The earlier.
    First,
    /// The later.
    Last,
    /// Each.
    Both,
}

/// A zone of the IANA database by its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Zone {
    name: String,
    zone: TimeZone,
}

impl Zone {
    /// `None`: there is no such zone.
    pub fn named(name: &str) -> Option<Self> {
        // A bound on what is looked up; the longest name there is has 32.
        if name.is_empty() || name.len() > 64 || OF_A_HOST.contains(&name) {
            return None;
        }
        // The host's database where it has one: governments move their clocks more often than Windlass is released.
        let zone = TimeZone::get(name).ok()?;
        let name = zone.iana_name().unwrap_or(name).to_owned();
        Some(Self { name, zone })
    }

    /// As the database writes it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first instant of a date; `None` at the end of time.
    pub fn start_of(&self, date: jiff::civil::Date) -> Option<Timestamp> {
        let start = date.to_zoned(self.zone.clone()).ok()?;
        Some(Timestamp::from_micros(start.timestamp().as_microsecond()))
    }

    /// What its clocks show at an instant.
    pub fn civil(&self, at: Timestamp) -> DateTime {
        self.zone.to_datetime(second_of(at))
    }
}

impl Default for Zone {
    /// UTC.
    fn default() -> Self {
        Self { name: "UTC".into(), zone: TimeZone::UTC }
    }
}

impl Serialize for Zone {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.name)
    }
}

impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let name = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        Self::named(&name).ok_or_else(|| serde::de::Error::custom(format!("no zone `{name}`")))
    }
}

/// When a schedule is due.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Timing {
    /// At the civil times of a pattern.
    Cron {
        /// Which.
        pattern: Pattern,
        /// See the module's rules.
        #[serde(default)]
        gap: Gap,
        /// See the module's rules; `None`: [`Pattern::usual_repeat`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        repeat: Option<Repeat>,
    },
    /// At `anchor`, and every so often after it.
    Every {
        /// How often; at least a second.
        every: Span,
        /// From when on.
        anchor: Timestamp,
    },
}

impl Timing {
    /// The first due instant after `after`; `None`: none within a hundred years. Pure, and steady: the same arguments
    /// give the same instant wherever the time zone database is the same.
    pub fn next_after(&self, zone: &Zone, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Cron { pattern, gap, repeat } => {
                let repeat = repeat.unwrap_or_else(|| pattern.usual_repeat());
                Search { pattern, gap: *gap, repeat, zone: &zone.zone }.next_after(after)
            }
            Self::Every { every, anchor } => next_of(*every, *anchor, after),
        }
    }
}

fn next_of(every: Span, anchor: Timestamp, after: Timestamp) -> Option<Timestamp> {
    let step = i64::try_from(every.0.as_micros()).ok().filter(|step| *step > 0)?;
    let since = after.micros().checked_sub(anchor.micros())?;
    if since < 0 {
        return Some(anchor);
    }
    let next = (since / step).checked_add(1)?.checked_mul(step)?;
    anchor.micros().checked_add(next).map(Timestamp::from_micros)
}

/// The second that has begun.
fn second_of(at: Timestamp) -> Point {
    let second = at.micros().div_euclid(1_000_000);
    Point::from_second(second).unwrap_or(if second < 0 { Point::MIN } else { Point::MAX })
}

impl Pattern {
    /// What a pattern does with civil times that are shown twice, unless it is told: one whose hour begins with `*`
    /// means "all the time" and goes on through both; one that names hours is due once.
    pub fn usual_repeat(&self) -> Repeat {
        if self.is_every_hour() { Repeat::Both } else { Repeat::First }
    }
}

struct Search<'a> {
    pattern: &'a Pattern,
    gap: Gap,
    repeat: Repeat,
    zone: &'a TimeZone,
}

impl Search<'_> {
    /// Walks from one change of the zone's offset to the next: in between, civil time and instants run together.
    fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let mut from = second_of(after);
        let last = from.as_second().saturating_add(HORIZON_YEARS * YEAR_SECONDS);
        // What matches next while clocks only go forward.
        let mut ahead: Option<DateTime> = None;
        while from.as_second() <= last {
            let offset = self.zone.to_offset(from);
            let change = self.zone.following(from).next();
            let end = change.as_ref().map_or(Point::MAX, |change| change.timestamp());
            let here = offset.to_datetime(from);
            let mut civil = match ahead.filter(|ahead| *ahead > here) {
                Some(ahead) => ahead,
                None => self.pattern.next_after(here)?,
            };
            loop {
                let Ok(instant) = offset.to_timestamp(civil) else { return None };
                if instant >= end {
                    break;
                }
                if self.counts(civil, offset) {
                    return Some(Timestamp::from_micros(instant.as_microsecond()));
                }
                civil = self.pattern.next_after(civil)?;
            }
            let change = change?;
            if self.is_due_at(change.timestamp(), offset, change.offset()) {
                return Some(Timestamp::from_micros(end.as_microsecond()));
            }
            ahead = (change.offset() >= offset).then_some(civil);
            from = end;
        }
        None
    }

    /// Whether this showing of a civil time is one that counts.
    fn counts(&self, civil: DateTime, offset: Offset) -> bool {
        match self.zone.to_ambiguous_timestamp(civil).offset() {
            AmbiguousOffset::Fold { before, after } => match self.repeat {
                Repeat::First => offset == before,
                Repeat::Last => offset == after,
                Repeat::Both => true,
            },
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Gap { .. } => true,
        }
    }

    /// Whether the very instant of a change is due: for what its clocks show, or for what they pass over.
    fn is_due_at(&self, at: Point, before: Offset, after: Offset) -> bool {
        let shown = after.to_datetime(at);
        if self.has(shown) && self.counts(shown, after) {
            return true;
        }
        let passed = before.to_datetime(at);
        passed < shown
            && self.gap == Gap::Shift
            && (self.has(passed)
                || self.pattern.next_after(passed).is_some_and(|civil| civil < shown))
    }

    fn has(&self, civil: DateTime) -> bool {
        let before = civil.checked_sub(jiff::Span::new().seconds(1)).ok();
        before.and_then(|before| self.pattern.next_after(before)) == Some(civil)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(
        pattern: &str,
        zone: &str,
        gap: Gap,
        repeat: Repeat,
        from: &str,
        n: usize,
    ) -> Vec<String> {
        let repeat = Some(repeat);
        let timing = Timing::Cron { pattern: pattern.parse().unwrap(), gap, repeat };
        let zone = Zone::named(zone).unwrap();
        let mut at: Timestamp = from.parse().unwrap();
        let mut found = Vec::new();
        while found.len() < n
            && let Some(next) = timing.next_after(&zone, at)
        {
            assert!(next > at);
            found.push(second_of(next).to_string());
            at = next;
        }
        found
    }

    /// Berlin: 2027-03-28 02:00 becomes 03:00 (01:00Z), 2027-10-31 03:00 becomes 02:00 (01:00Z).
    #[test]
    fn the_gap_is_shifted_or_skipped() {
        let at =
            |gap| due("30 2 * * *", "Europe/Berlin", gap, Repeat::First, "2027-03-27T12:00:00Z", 2);
        assert_eq!(at(Gap::Shift), ["2027-03-28T01:00:00Z", "2027-03-29T00:30:00Z"]);
        assert_eq!(at(Gap::Skip), ["2027-03-29T00:30:00Z", "2027-03-30T00:30:00Z"]);
        // Four matches in the gap and one just after are due once.
        let many = due(
            "*/15 2,3 * * *",
            "Europe/Berlin",
            Gap::Shift,
            Repeat::First,
            "2027-03-28T00:00:00Z",
            3,
        );
        assert_eq!(many, ["2027-03-28T01:00:00Z", "2027-03-28T01:15:00Z", "2027-03-28T01:30:00Z"]);
    }

    #[test]
    fn the_repeated_hour_counts_once_or_twice() {
        let at = |repeat| {
            due("30 2 * * *", "Europe/Berlin", Gap::Shift, repeat, "2027-10-30T12:00:00Z", 2)
        };
        assert_eq!(at(Repeat::First), ["2027-10-31T00:30:00Z", "2027-11-01T01:30:00Z"]);
        assert_eq!(at(Repeat::Last), ["2027-10-31T01:30:00Z", "2027-11-01T01:30:00Z"]);
        assert_eq!(at(Repeat::Both), ["2027-10-31T00:30:00Z", "2027-10-31T01:30:00Z"]);
        // The edges of the hour: 02:00 is shown twice, 03:00 once.
        let edge = |repeat| {
            due("0 2,3 * * *", "Europe/Berlin", Gap::Shift, repeat, "2027-10-30T12:00:00Z", 3)
        };
        assert_eq!(
            edge(Repeat::First),
            ["2027-10-31T00:00:00Z", "2027-10-31T02:00:00Z", "2027-11-01T01:00:00Z"]
        );
        assert_eq!(
            edge(Repeat::Last),
            ["2027-10-31T01:00:00Z", "2027-10-31T02:00:00Z", "2027-11-01T01:00:00Z"]
        );
        assert_eq!(
            edge(Repeat::Both),
            ["2027-10-31T00:00:00Z", "2027-10-31T01:00:00Z", "2027-10-31T02:00:00Z"]
        );
    }

    #[test]
    fn a_search_begins_after_its_instant_wherever_that_is() {
        // In the second showing of the hour, which `first` does not count.
        let late = due(
            "30 2 * * *",
            "Europe/Berlin",
            Gap::Shift,
            Repeat::First,
            "2027-10-31T01:10:00Z",
            1,
        );
        assert_eq!(late, ["2027-11-01T01:30:00Z"]);
        // At the instant that a gap was shifted to.
        let at = due(
            "30 2 * * *",
            "Europe/Berlin",
            Gap::Shift,
            Repeat::First,
            "2027-03-28T01:00:00Z",
            1,
        );
        assert_eq!(at, ["2027-03-29T00:30:00Z"]);
        // Between two seconds.
        let between =
            due("* * * * * *", "UTC", Gap::Shift, Repeat::First, "2027-01-01T00:00:00.5Z", 1);
        assert_eq!(between, ["2027-01-01T00:00:01Z"]);
    }

    #[test]
    fn rare_and_impossible_dates_end() {
        assert!(
            due(
                "0 0 30 2 *",
                "Europe/Berlin",
                Gap::Shift,
                Repeat::First,
                "2027-01-01T00:00:00Z",
                1
            )
            .is_empty()
        );
        let leap =
            due("0 0 29 2 *", "Asia/Tokyo", Gap::Shift, Repeat::First, "2027-01-01T00:00:00Z", 2);
        assert_eq!(leap, ["2028-02-28T15:00:00Z", "2032-02-28T15:00:00Z"]);
    }

    #[test]
    fn an_interval_counts_from_its_anchor() {
        let timing =
            |every| Timing::Every { every: Span(every), anchor: Timestamp::from_millis(10_500) };
        let zone = Zone::default();
        let next = |ms| {
            let at = Timestamp::from_millis(ms);
            timing(std::time::Duration::from_secs(3)).next_after(&zone, at).unwrap().millis()
        };
        assert_eq!((next(-5_000), next(10_499), next(10_500)), (10_500, 10_500, 13_500));
        assert_eq!((next(13_499), next(13_500)), (13_500, 16_500));
        let none =
            timing(std::time::Duration::MAX).next_after(&zone, Timestamp::from_micros(i64::MAX));
        assert_eq!(none, None);
    }

    #[test]
    fn zones_are_those_of_the_database() {
        assert_eq!(Zone::named("europe/berlin").unwrap().name(), "Europe/Berlin");
        for name in [
            "",
            "Nowhere/City",
            "../etc/passwd",
            "/etc/localtime",
            "CET-1CEST",
            "localtime",
            &"x".repeat(100),
        ] {
            assert!(Zone::named(name).is_none(), "{name}");
        }
    }
}
