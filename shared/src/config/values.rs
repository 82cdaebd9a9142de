//! From text to typed values, with bounds. Errors say what is wrong, never what was given: the value may
//! be a secret.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::model::name::QueueName;
use crate::model::time::Span;

/// Most queues that one worker serves.
const QUEUES_MAX: usize = 64;
/// Largest weight of a queue.
const WEIGHT_MAX: u32 = 100;

pub(super) fn whole(text: &str, range: RangeInclusive<u32>) -> Result<u32, String> {
    let wrong = || format!("must be a whole number from {} to {}", range.start(), range.end());
    let n: u32 = text.parse().map_err(|_| wrong())?;
    if range.contains(&n) { Ok(n) } else { Err(wrong()) }
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("must be true or false".into()),
    }
}

/// `"15s"`, `"1m30s"`, or a bare number of seconds.
pub(super) fn duration(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let wrong = || {
        let (least, most) = (Span(*range.start()), Span(*range.end()));
        format!("must be a duration such as \"15s\" or \"1m30s\", from {least} to {most}")
    };
    let parsed = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?,
        Err(_) => text.parse::<Span>().map_err(|_| wrong())?.0,
    };
    if range.contains(&parsed) { Ok(parsed) } else { Err(wrong()) }
}

/// `"512MiB"`, `"1GiB"`, or a bare number of bytes.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let found = units.iter().find_map(|(unit, power)| Some((text.strip_suffix(unit)?, *power)));
    let (number, power) = found.unwrap_or((text, 0));
    let read = number.trim_end().parse::<u64>().ok();
    read.and_then(|n| n.checked_mul(1u64 << power))
        .ok_or_else(|| "must be a number of bytes, such as 512MiB, 1GiB or 2TiB".into())
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    numeric.parse().map_err(|_| {
        "must be an IP address and a port, such as 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080".into()
    })
}

/// `default,io:3`: names with weights. What follows the last `:` is a weight when it is all digits; a queue
/// whose own name ends so is written with its weight.
pub(super) fn queues(text: &str) -> Result<Vec<(QueueName, u32)>, String> {
    let mut queues: Vec<(QueueName, u32)> = Vec::new();
    for item in text.split(',').map(str::trim) {
        let (name, weight) = match item.rsplit_once(':') {
            Some((name, digits))
                if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) =>
            {
                (name, whole(digits, 1..=WEIGHT_MAX).map_err(|why| format!("a weight {why}"))?)
            }
            _ => (item, 1),
        };
        let name: QueueName =
            name.parse().map_err(|why| format!("a queue's name {why}, as in default,io:3"))?;
        if queues.iter().any(|(other, _)| *other == name) {
            return Err(format!("names queue {name} twice"));
        }
        queues.push((name, weight));
    }
    if queues.len() > QUEUES_MAX {
        return Err(format!("names more than {QUEUES_MAX} queues"));
    }
    Ok(queues)
}

/// A word of `allowed`.
pub(super) fn word<T: Copy>(text: &str, allowed: &[(&str, T)]) -> Result<T, String> {
    allowed.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = allowed.iter().map(|(name, _)| *name).collect();
        format!("must be one of: {}", names.join(", "))
    })
}

/// A prefix of keys that needs no escaping anywhere.
pub(super) fn prefix(text: &str) -> Result<String, String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if text.is_empty() || text.len() > 32 || !text.bytes().all(legal) {
        return Err("must be 1 to 32 characters of a-z A-Z 0-9 . _ -".into());
    }
    Ok(text.to_owned())
}

/// A label for people: no control characters.
pub(super) fn label(text: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().count() > 64 || text.chars().any(char::is_control) {
        return Err("must be 1 to 64 characters, none of them a control character".into());
    }
    Ok(text.to_owned())
}

/// An address that begins with one of these schemes.
pub(super) fn url(text: &str, schemes: &[&str]) -> Result<String, String> {
    if schemes.iter().any(|scheme| text.starts_with(scheme) && text.len() > scheme.len()) {
        return Ok(text.to_owned());
    }
    Err(format!("must begin with one of: {}", schemes.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, expected) in [
            ("0", 0),
            ("4096", 4_096),
            ("512MiB", 512 << 20),
            ("1 GiB", 1 << 30),
            ("3TiB", 3 << 40),
            ("1KiB", 1 << 10),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "GiB", "-1", "1GB", "1.5GiB", "99999999999TiB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn queues_take_weights_and_names_with_colons() {
        let shown = |text: &str| -> Vec<(String, u32)> {
            queues(text).unwrap().into_iter().map(|(q, w)| (q.to_string(), w)).collect()
        };
        assert_eq!(shown("default"), [("default".to_owned(), 1)]);
        assert_eq!(shown("default, io:3"), [("default".to_owned(), 1), ("io".to_owned(), 3)]);
        assert_eq!(shown("a:b"), [("a:b".to_owned(), 1)]);
        assert_eq!(shown("a:7:2"), [("a:7".to_owned(), 2)]);
        for text in ["", "a,", "a,a:2", "a:0", "a:101", "ü", "a b"] {
            assert!(queues(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_text_or_seconds_within_bounds() {
        let range = Duration::from_secs(1)..=Duration::from_secs(100);
        assert_eq!(duration("15s", range.clone()), Ok(Duration::from_secs(15)));
        assert_eq!(duration("15", range.clone()), Ok(Duration::from_secs(15)));
        assert_eq!(duration("1.5", range.clone()), Ok(Duration::from_millis(1500)));
        for text in ["", "0.5", "101", "-1", "nan", "inf", "1e300", "15 s", "soon"] {
            let why = duration(text, range.clone()).unwrap_err();
            assert!(why.contains("from 1s to 1m40s"), "{text}: {why}");
        }
    }

    #[test]
    fn addresses_need_a_port() {
        assert!(address("localhost:80").unwrap().ip().is_loopback());
        assert!(address("[::1]:80").unwrap().ip().is_loopback());
        assert!(address("0.0.0.0:0").is_ok());
        for text in ["", "127.0.0.1", ":8080", "example.org:80", "127.0.0.1:99999"] {
            assert!(address(text).is_err(), "{text}");
        }
    }
}
