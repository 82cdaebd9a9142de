//! `If-Match`: a change is made only to the version that the caller has seen.

use http::{HeaderMap, header};

use crate::error::{ApiError, Code};

/// The entity tag of a version.
pub fn tag(version: u64) -> String {
    format!("\"{version}\"")
}

/// What the caller asks of the present version.
#[derive(Debug, PartialEq, Eq)]
pub enum Condition {
    /// There is one.
    Any,
    /// It is this one.
    Version(u64),
}

/// The condition of a request, if it has one.
///
/// # Errors
/// 400 for a header that is neither `*` nor one version.
pub fn of(headers: &HeaderMap) -> Result<Option<Condition>, ApiError> {
    let mut values = headers.get_all(header::IF_MATCH).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or("").trim();
    // The bare number as it stands in the body is understood, too.
    let unquoted = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let version = Some(unquoted).filter(|text| {
        (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    });
    match (text, version, values.next()) {
        ("*", _, None) => Ok(Some(Condition::Any)),
        // A number that no version can be is a version that is not the present one.
        (_, Some(digits), None) => Ok(Some(Condition::Version(digits.parse().unwrap_or(u64::MAX)))),
        _ => Err(ApiError::new(
            Code::InvalidHeader,
            "If-Match must be * or one version, as in the ETag header: \"7\"",
        )),
    }
}

impl Condition {
    /// # Errors
    /// 412 where the present version is another one, or there is none.
    pub fn check(&self, present: Option<u64>) -> Result<(), ApiError> {
        let detail = match (self, present) {
            (Self::Any, Some(_)) => return Ok(()),
            (Self::Version(wanted), Some(present)) if *wanted == present => return Ok(()),
            (Self::Version(_), Some(present)) => format!("the version is {present} now"),
            (Self::Any | Self::Version(_), None) => "it does not exist".to_owned(),
        };
        Err(ApiError::new(Code::VersionConflict, detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_strong_tag_or_a_star() {
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::IF_MATCH, value.parse().unwrap());
            }
            of(&headers)
        };
        assert_eq!(with(&[]).unwrap(), None);
        assert_eq!(with(&["*"]).unwrap(), Some(Condition::Any));
        assert_eq!(with(&["\"7\""]).unwrap(), Some(Condition::Version(7)));
        assert_eq!(with(&["7"]).unwrap(), Some(Condition::Version(7)));
        let huge = format!("\"{}\"", "9".repeat(20));
        assert_eq!(with(&[&huge]).unwrap(), Some(Condition::Version(u64::MAX)));
        for bad in [
            vec![""],
            vec!["\"7"],
            vec!["\""],
            vec!["W/\"7\""],
            vec!["\"7\", \"8\""],
            vec!["*", "*"],
        ] {
            assert_eq!(with(&bad).unwrap_err().code(), Code::InvalidHeader, "{bad:?}");
        }
    }

    #[test]
    fn only_the_version_that_was_seen_is_changed() {
        assert!(Condition::Version(7).check(Some(7)).is_ok());
        assert!(Condition::Any.check(Some(1)).is_ok());
        for (condition, present) in [
            (Condition::Version(7), Some(8)),
            (Condition::Version(7), None),
            (Condition::Any, None),
        ] {
            let error = condition.check(present).unwrap_err();
            assert_eq!(error.code(), Code::VersionConflict);
        }
    }
}
