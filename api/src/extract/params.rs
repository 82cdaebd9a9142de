//! Queries: parameters are taken one by one, and what is left over is an error.

use axum::extract::{FromRequestParts, Query};
use http::request::Parts;
use windlass_shared::limits;

use crate::error::{ApiError, Code, FieldError};

/// The parameters of a query, taken one by one; what is left over is an error.
pub struct Params {
    pairs: Vec<(String, String)>,
    errors: Vec<FieldError>,
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let Query(pairs) = Query::try_from_uri(&parts.uri)
            .map_err(|_| ApiError::new(Code::InvalidRequest, "the query cannot be read"))?;
        Ok(Self { pairs, errors: Vec::new() })
    }
}

impl Params {
    /// Every value of a parameter that may repeat.
    pub fn all(&mut self, name: &str) -> Vec<String> {
        let mut values = Vec::new();
        self.pairs.retain_mut(|(key, value)| {
            let hit = key == name;
            if hit {
                values.push(std::mem::take(value));
            }
            !hit
        });
        values
    }

    /// The value of a parameter that may come once.
    pub fn one(&mut self, name: &str) -> Option<String> {
        let mut values = self.all(name);
        if values.len() > 1 {
            self.wrong(name, "is given more than once");
        }
        values.pop()
    }

    /// As [`Self::one`], parsed; a value that does not parse is noted.
    pub fn parsed<T, E: std::fmt::Display>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let value = self.one(name)?;
        match parse(&value) {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong(name, error.to_string());
                None
            }
        }
    }

    /// `true` or `false`; absent is `false`.
    pub fn flag(&mut self, name: &str) -> bool {
        let parsed = self.parsed(name, |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("must be true or false"),
        });
        parsed.unwrap_or(false)
    }

    /// A whole number in a range.
    pub fn number(&mut self, name: &str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        self.parsed(name, |text| {
            let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|n| is_number && range.contains(n)).ok_or_else(|| {
                format!("must be a whole number from {} to {}", range.start(), range.end())
            })
        })
    }

    /// The length of a page, 1 to [`limits::PAGE_MAX`], 50 if not given.
    pub fn limit(&mut self) -> u32 {
        let limit = self.number("limit", 1..=u64::from(limits::PAGE_MAX)).unwrap_or(50);
        u32::try_from(limit).unwrap_or(limits::PAGE_MAX)
    }

    /// Notes that a parameter is wrong.
    pub fn wrong(&mut self, name: &str, message: impl Into<String>) {
        self.errors.push(FieldError::parameter(name, message));
    }

    /// To be called when all parameters have been taken.
    ///
    /// # Errors
    /// 422 that lists what is wrong and what is unknown.
    pub fn finish(mut self) -> Result<(), ApiError> {
        for (name, _) in std::mem::take(&mut self.pairs).into_iter().take(10) {
            self.wrong(
                &name.chars().take(100).collect::<String>(),
                "is not a parameter of this call",
            );
        }
        if self.errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(self.errors)) }
    }
}

/// For calls that have no query parameters.
pub struct NoParams;

impl<S: Send + Sync> FromRequestParts<S> for NoParams {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        if parts.uri.query().is_some_and(|query| !query.is_empty()) {
            Params::from_request_parts(parts, state).await?.finish()?;
        }
        Ok(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_taken_apart_and_nothing_is_left_over() {
        let params = |query: &str| {
            let Query(pairs) =
                Query::try_from_uri(&format!("/x?{query}").parse().unwrap()).unwrap();
            Params { pairs, errors: Vec::new() }
        };
        let mut good = params("limit=7&tag=a&tag=b%20c&follow=true");
        assert_eq!((good.limit(), good.flag("follow")), (7, true));
        assert_eq!(good.all("tag"), ["a", "b c"]);
        assert!(good.finish().is_ok());
        for bad in
            ["limit=0", "limit=501", "limit=1e9", "limit=+5", "limit=", "limit=1&limit=2", "x=1"]
        {
            let mut params = params(bad);
            params.limit();
            assert_eq!(params.finish().unwrap_err().code(), Code::Invalid, "{bad}");
        }
    }
}
