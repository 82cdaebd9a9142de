//! Cron patterns: five fields, or six with seconds in front, or an `@` name.
//!
//! Reading and searching are the crate croner's. What it lets through and should not is refused here first:
//! an empty item (a search without end), two names run together, `L` as a weekday by itself, a step over the
//! field's range, `LW` beside other days. The tests say which is which.

use std::fmt;
use std::str::FromStr;

use croner::Cron;
use croner::parser::{CronParser, Year};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Longest pattern, in bytes.
pub const PATTERN_BYTES_MAX: usize = 256;

/// What a pattern is refused for, in words for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(String);

/// A checked cron pattern: a set of civil times, to the second.
///
/// A day matches when its month matches and: day of month and weekday are both `*` or `?`, or the one that is not
/// matches, or, where both say something, either does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    cron: Box<Cron>,
    every_hour: bool,
}

impl Pattern {
    /// The first match after `civil`; `None`: there is none up to the year 5000. A search of a few microseconds, of
    /// some milliseconds where nothing matches for centuries.
    pub fn next_after(&self, civil: DateTime) -> Option<DateTime> {
        let from = civil.to_zoned(TimeZone::UTC).ok()?;
        Some(self.cron.find_next_occurrence(&from, false).ok()?.datetime())
    }

    /// Whether the hour field begins with `*`: such a pattern means "all the time", not "at that hour".
    pub const fn is_every_hour(&self) -> bool {
        self.every_hour
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.len() > PATTERN_BYTES_MAX {
            let words = format!("must be at most {PATTERN_BYTES_MAX} bytes long");
            return Err(PatternError(words));
        }
        let fields = match text.trim().strip_prefix('@') {
            Some(name) => named(name)?.to_owned(),
            None => text.trim().to_owned(),
        };
        let words: Vec<&str> = fields.split_ascii_whitespace().collect();
        let hour = words.len().wrapping_sub(4);
        let kinds = match words.len() {
            5 => &FIELDS[1..],
            6 => &FIELDS[..],
            n => {
                return Err(PatternError(format!(
                    "has {n} fields; 5 (minute hour day-of-month month weekday) or 6 (with second in front) are needed, \
                     or one of @yearly @monthly @weekly @daily @hourly"
                )));
            }
        };
        for (field, word) in kinds.iter().zip(&words) {
            field.check(word).map_err(|why| PatternError(format!("{}: {why}", field.name)))?;
        }
        let parser = CronParser::builder().year(Year::Disallowed).build();
        let cron = parser.parse(&fields).map_err(|error| PatternError(error.to_string()))?;
        let every_hour = words[hour].starts_with('*');
        Ok(Self { text: text.trim().to_owned(), cron: Box::new(cron), every_hour })
    }
}

impl serde::Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text)
    }
}

impl<'de> serde::Deserialize<'de> for Pattern {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn named(name: &str) -> Result<&'static str, PatternError> {
    match name.to_ascii_lowercase().as_str() {
        "yearly" | "annually" => Ok("0 0 1 1 *"),
        "monthly" => Ok("0 0 1 * *"),
        "weekly" => Ok("0 0 * * 0"),
        "daily" | "midnight" => Ok("0 0 * * *"),
        "hourly" => Ok("0 * * * *"),
        "reboot" => Err(PatternError(
            "@reboot has no meaning here: a schedule outlives its processes".into(),
        )),
        other if other.starts_with("every") => {
            Err(PatternError("write `every` in place of `cron` for an interval".into()))
        }
        _ => Err(PatternError(
            "not one of @yearly @annually @monthly @weekly @daily @midnight @hourly".into(),
        )),
    }
}

/// One field of a pattern.
struct Field {
    name: &'static str,
    least: u32,
    most: u32,
    /// Names that stand for numbers, from `least` on.
    names: &'static [&'static str],
    sort: Sort,
}

#[derive(PartialEq)]
enum Sort {
    Plain,
    DayOfMonth,
    Weekday,
}

const FIELDS: [Field; 6] = [
    Field { name: "second", least: 0, most: 59, names: &[], sort: Sort::Plain },
    Field { name: "minute", least: 0, most: 59, names: &[], sort: Sort::Plain },
    Field { name: "hour", least: 0, most: 23, names: &[], sort: Sort::Plain },
    Field { name: "day of month", least: 1, most: 31, names: &[], sort: Sort::DayOfMonth },
    Field {
        name: "month",
        least: 1,
        most: 12,
        names: &[
            "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
        ],
        sort: Sort::Plain,
    },
    Field {
        name: "weekday",
        least: 0,
        most: 7,
        names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
        sort: Sort::Weekday,
    },
];

impl Field {
    /// The field as a whole: `*`, `?`, or a list of items.
    fn check(&self, word: &str) -> Result<(), String> {
        if word == "?" && self.sort != Sort::Plain {
            return Ok(());
        }
        let items: Vec<&str> = word.split(',').collect();
        if items.len() > 1 && items.iter().any(|item| item.eq_ignore_ascii_case("LW")) {
            return Err("`LW` stands alone".into());
        }
        items.into_iter().try_for_each(|item| self.check_item(item))
    }

    fn check_item(&self, item: &str) -> Result<(), String> {
        if item.is_empty() {
            return Err("an item of the list is empty".into());
        }
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (item, None),
        };
        if let Some(step) = step {
            self.check_step(range, step)?;
        }
        if range == "*" {
            return Ok(());
        }
        if let Some((from, to)) = range.split_once('-') {
            let (from, to) = (self.number(from)?, self.number(to)?);
            // croner reads SUN at the end of a range as 7, as people do.
            let to = if self.sort == Sort::Weekday && to == 0 { 7 } else { to };
            if from > to {
                return Err(format!("`{range}` ends before it begins"));
            }
            return Ok(());
        }
        if step.is_none() && self.is_special(range)? {
            return Ok(());
        }
        self.number(range).map(drop)
    }

    fn check_step(&self, range: &str, step: &str) -> Result<(), String> {
        let length = self.most - self.least + 1;
        let number: Option<u32> = digits(step);
        if !number.is_some_and(|n| (1..=length).contains(&n)) {
            return Err(format!("`{step}` is no step from 1 to {length}"));
        }
        if range != "*" && !range.contains('-') {
            return Err(format!("`{range}/{step}`: a step needs `*` or a range in front"));
        }
        Ok(())
    }

    /// `L`, `LW`, `15W` of days of month; `5L`, `MON#2` of weekdays.
    fn is_special(&self, item: &str) -> Result<bool, String> {
        let upper = item.to_ascii_uppercase();
        match self.sort {
            Sort::Plain => Ok(false),
            Sort::DayOfMonth => match upper.strip_suffix('W') {
                Some("L") => Ok(true),
                Some(day) => self.number(day).map(|_| true),
                None => Ok(upper == "L"),
            },
            Sort::Weekday => {
                if let Some((day, nth)) = upper.split_once('#') {
                    self.number(day)?;
                    let is_nth = digits(nth).is_some_and(|n| (1..=5).contains(&n));
                    return if is_nth { Ok(true) } else { Err(format!("`#{nth}` is no #1 to #5")) };
                }
                match upper.strip_suffix('L') {
                    Some("") => Err("`L` needs a weekday in front, such as `5L`".into()),
                    Some(day) => self.number(day).map(|_| true),
                    None => Ok(false),
                }
            }
        }
    }

    /// A number in range, or a name.
    fn number(&self, text: &str) -> Result<u32, String> {
        let place = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        if let Some(place) = place {
            return Ok(self.least + u32::try_from(place).unwrap_or_default());
        }
        match digits(text) {
            Some(n) if (self.least..=self.most).contains(&n) => Ok(n),
            Some(_) => Err(format!("`{text}` is not from {} to {}", self.least, self.most)),
            None => Err(format!("`{text}` is not understood")),
        }
    }
}

/// At most four digits and nothing else.
fn digits(text: &str) -> Option<u32> {
    let plain = (1..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    fn croner(text: &str) -> Result<Cron, croner::errors::CronError> {
        CronParser::builder().year(Year::Disallowed).build().parse(text)
    }

    fn matches(text: &str, n: usize) -> Vec<String> {
        let pattern: Pattern = text.parse().unwrap();
        let mut at = date(2026, 11, 22).at(1, 37, 5, 0);
        let mut found = Vec::new();
        while found.len() < n {
            let Some(next) = pattern.next_after(at) else { break };
            found.push(next.to_string());
            at = next;
        }
        found
    }

    #[test]
    fn patterns_mean_what_they_do_elsewhere() {
        let cases: [(&str, [&str; 3]); 13] = [
            ("*/20 * * * *", ["2026-11-22T01:40:00", "2026-11-22T02:00:00", "2026-11-22T02:20:00"]),
            (
                "*/20 * * * * *",
                ["2026-11-22T01:37:20", "2026-11-22T01:37:40", "2026-11-22T01:38:00"],
            ),
            ("@daily", ["2026-11-23T00:00:00", "2026-11-24T00:00:00", "2026-11-25T00:00:00"]),
            ("@Midnight", ["2026-11-23T00:00:00", "2026-11-24T00:00:00", "2026-11-25T00:00:00"]),
            ("@weekly", ["2026-11-29T00:00:00", "2026-12-06T00:00:00", "2026-12-13T00:00:00"]),
            (
                "0 0 * * fri-sun",
                ["2026-11-27T00:00:00", "2026-11-28T00:00:00", "2026-11-29T00:00:00"],
            ),
            ("0 0 * * 7", ["2026-11-29T00:00:00", "2026-12-06T00:00:00", "2026-12-13T00:00:00"]),
            (
                "0 0 1,15 * MON",
                ["2026-11-23T00:00:00", "2026-11-30T00:00:00", "2026-12-01T00:00:00"],
            ),
            ("0 0 L * ?", ["2026-11-30T00:00:00", "2026-12-31T00:00:00", "2027-01-31T00:00:00"]),
            ("0 0 LW * *", ["2026-11-30T00:00:00", "2026-12-31T00:00:00", "2027-01-29T00:00:00"]),
            ("0 0 31W * *", ["2026-12-31T00:00:00", "2027-01-29T00:00:00", "2027-03-31T00:00:00"]),
            (
                "0 0 * * MON#2",
                ["2026-12-14T00:00:00", "2027-01-11T00:00:00", "2027-02-08T00:00:00"],
            ),
            ("0 0 * * 5L", ["2026-11-27T00:00:00", "2026-12-25T00:00:00", "2027-01-29T00:00:00"]),
        ];
        for (text, expected) in cases {
            assert_eq!(matches(text, 3), expected, "{text}");
        }
    }

    #[test]
    fn a_pattern_that_never_matches_is_found_out_quickly() {
        let began = std::time::Instant::now();
        assert!(matches("0 0 30 2 *", 1).is_empty());
        assert!(began.elapsed() < std::time::Duration::from_secs(2));
    }

    #[test]
    fn nonsense_is_refused_in_words() {
        let long = format!("{} * * * *", "1,".repeat(200));
        for (text, word) in [
            ("", "fields"),
            ("* * * *", "fields"),
            ("* * * * * * *", "fields"),
            ("*/0 * * * *", "step"),
            ("*/61 * * * *", "step"),
            ("5/10 * * * *", "range in front"),
            ("59-0 * * * *", "ends before"),
            ("60 * * * *", "from 0 to 59"),
            ("0 24 * * *", "hour"),
            ("0 0 0 * *", "day of month"),
            ("0 0 * 13 *", "month"),
            ("0 0 * * 8", "weekday"),
            ("0 0 * * 1#6", "#5"),
            ("0 0 L-3 * *", "understood"),
            ("@reboot", "reboot"),
            ("@every 5m", "every"),
            ("@noon", "@yearly"),
            ("x @daily", "fields"),
            ("* * * * \u{ff0a}", "understood"),
            ("*/15/2 * * * *", "step"),
            ("1-2-3 * * * *", "understood"),
            ("-1 * * * *", "understood"),
            ("0 0 ?,1 * *", "understood"),
            ("? * * * *", "understood"),
            (long.as_str(), "bytes"),
        ] {
            let error = text.parse::<Pattern>().expect_err(text).to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    // What croner 4.0.3 gets wrong, each as its maintainers would want to see it. When one of these fails, croner has
    // mended it and the check above may go.

    #[test]
    fn croner_takes_an_empty_item_and_searches_for_seconds() {
        // Expected: an error. Got: a pattern that matches nothing, whose search for the next match takes 6 s of CPU.
        for text in [", * * * *", "1,,2 * * * *"] {
            assert!(croner(text).is_ok());
            assert!(text.parse::<Pattern>().unwrap_err().to_string().contains("empty"));
        }
    }

    #[test]
    fn croner_reads_names_that_run_together_as_other_numbers() {
        // Expected: an error. Got: SUNMON is 01, Monday; JANFEB is 12, December.
        for text in ["0 0 * * SUNMON", "0 0 1 JANFEB *"] {
            assert!(croner(text).is_ok());
            assert!(text.parse::<Pattern>().unwrap_err().to_string().contains("understood"));
        }
    }

    #[test]
    fn croner_takes_l_as_a_weekday_that_never_comes() {
        assert!(croner("0 0 * * L").is_ok());
        assert!("0 0 * * L".parse::<Pattern>().unwrap_err().to_string().contains("5L"));
    }

    #[test]
    fn croner_takes_a_step_over_the_range() {
        // Expected: an error. Got: the same as 0.
        assert!(croner("*/100 * * * *").is_ok());
        assert!("*/100 * * * *".parse::<Pattern>().unwrap_err().to_string().contains("step"));
    }

    #[test]
    fn croner_forgets_l_beside_lw() {
        // Expected: the last weekday and the last day: Friday the 29th and Sunday the 31st. Got: the 29th only.
        let cron = croner("0 0 LW,L 1 *").unwrap();
        let from = date(2027, 1, 30).at(0, 0, 0, 0).to_zoned(TimeZone::UTC).unwrap();
        let next = cron.find_next_occurrence(&from, false).unwrap();
        assert_ne!(next.datetime().date(), date(2027, 1, 31));
        assert!("0 0 LW,L * *".parse::<Pattern>().unwrap_err().to_string().contains("alone"));
    }
}
