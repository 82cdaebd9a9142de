//! Rates of kinds, from text.

use std::collections::BTreeMap;
use std::time::Duration;

use super::values;
use crate::ledger::RateLimit;
use crate::model::name::Kind;
use crate::model::time::Span;

/// Largest number of a rate.
const COUNT_MAX: u32 = 1_000_000;
/// Longest time of a rate.
const PER_MAX: Duration = Duration::from_secs(24 * 3600);
/// Most kinds with a rate.
const KINDS_MAX: usize = 100;

const EXAMPLE: &str = "such as http.request=50/s,mail.send=600/1m burst 10";

/// `http.request=50/s,mail.send=600/1m burst 10`: kinds, each with a rate.
pub(super) fn kinds(text: &str) -> Result<BTreeMap<Kind, RateLimit>, String> {
    let mut found = BTreeMap::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let (kind, rate_text) =
            item.split_once('=').ok_or_else(|| format!("must be rates of kinds, {EXAMPLE}"))?;
        let kind: Kind = kind.trim().parse().map_err(|why| format!("a kind {why}, {EXAMPLE}"))?;
        let rate = rate(rate_text.trim())?;
        if found.insert(kind, rate).is_some() {
            return Err("names a kind twice".into());
        }
    }
    if found.len() > KINDS_MAX {
        return Err(format!("names more than {KINDS_MAX} kinds"));
    }
    Ok(found)
}

/// `50/s`, `600/1m`, `600/1m burst 10`.
fn rate(text: &str) -> Result<RateLimit, String> {
    let wrong = || {
        format!(
            "a rate is a number (1 to {COUNT_MAX}) per time (1ms to {}), {EXAMPLE}",
            Span(PER_MAX)
        )
    };
    let count = |text: &str| values::whole(text, 1..=COUNT_MAX).map_err(|_| wrong());
    let (starts, burst) = match text.split_once(" burst ") {
        Some((starts, burst)) => (starts, Some(count(burst.trim())?)),
        None => (text, None),
    };
    let (limit, per) = starts.trim().split_once('/').ok_or_else(wrong)?;
    let per = if per.starts_with(|c: char| c.is_ascii_digit()) {
        per.parse::<Span>()
    } else {
        format!("1{per}").parse::<Span>()
    };
    let per = per.ok().filter(|per| !per.0.is_zero() && per.0 <= PER_MAX).ok_or_else(wrong)?;
    Ok(RateLimit { limit: count(limit)?, per, burst })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_a_number_per_time_and_perhaps_a_burst() {
        for (text, limit, per_ms, burst) in [
            ("50/s", 50, 1_000, None),
            ("1/1s", 1, 1_000, None),
            ("600/1m burst 10", 600, 60_000, Some(10)),
            ("7/m", 7, 60_000, None),
            ("1000000/h burst 1", 1_000_000, 3_600_000, Some(1)),
            ("5/250ms", 5, 250, None),
            ("2/1m30s", 2, 90_000, None),
            ("3/24h", 3, 86_400_000, None),
        ] {
            let per = Span(Duration::from_millis(per_ms));
            assert_eq!(rate(text), Ok(RateLimit { limit, per, burst }), "{text}");
        }
        for text in [
            "",
            "50",
            "/s",
            "0/s",
            "-1/s",
            "50/",
            "50/0s",
            "50/25h",
            "50/w",
            "1000001/s",
            "1.5/s",
            "50/s burst",
            "50/s burst 0",
            "50/s burst x",
            "50/s10",
        ] {
            let why = rate(text).unwrap_err();
            assert!(why.contains("http.request=50/s"), "{text}: {why}");
        }
    }

    #[test]
    fn kinds_have_one_rate_each() {
        assert_eq!(kinds("").unwrap().len(), 0);
        let found = kinds("a.b:c = 1/s, d=2/m burst 3 ,").unwrap();
        let shown: Vec<_> = found.iter().map(|(k, r)| (k.as_str(), r.limit, r.burst)).collect();
        assert_eq!(shown, [("a.b:c", 1, None), ("d", 2, Some(3))]);
        for text in ["a", "=1/s", "a=", "a=1/s,a=2/s", "a b=1/s", "a=1/s;b=1/s"] {
            assert!(kinds(text).is_err(), "{text}");
        }
        let many: Vec<String> = (0..=KINDS_MAX).map(|n| format!("k{n}=1/s")).collect();
        assert!(kinds(&many.join(",")).is_err());
    }
}
