//! Handlers: code that performs a kind.

use std::future::Future;
use std::marker::PhantomData;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::error::HandlerError;

/// What a handler returns: one JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output(Bytes);

impl Output {
    /// JSON `null`.
    pub const fn null() -> Self {
        Self(Bytes::from_static(b"null"))
    }

    /// A value, serialised.
    ///
    /// # Errors
    /// Permanent `invalid_output` when it cannot be written as JSON (a map with keys that are no text).
    pub fn of(value: &impl Serialize) -> Result<Self, HandlerError> {
        let bytes = serde_json::to_vec(value)
            .map_err(|e| HandlerError::permanent("invalid_output", e.to_string()))?;
        Ok(Self(bytes.into()))
    }

    /// Bytes that are JSON already, such as a payload. They are not checked.
    pub const fn json(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// The JSON text.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

/// Performs a kind. A job may be run twice (its lease was lost, its settle was lost): handlers must
/// tolerate that, or use [`Context::fence`].
pub trait Handler: Send + Sync + 'static {
    /// Performs one attempt. The future is dropped when the attempt is stopped; a panic fails the attempt
    /// with the code `panic` and harms nobody else.
    fn call(&self, ctx: Context) -> BoxFuture<'static, Result<Output, HandlerError>>;
}

impl Handler for Box<dyn Handler> {
    fn call(&self, ctx: Context) -> BoxFuture<'static, Result<Output, HandlerError>> {
        (**self).call(ctx)
    }
}

/// An async function whose second argument is read from the payload, as a handler that can be kept in a list. A payload
/// that does not fit fails the job for good with `invalid_payload`.
pub fn typed<A, O, E, F, Fut>(function: F) -> Box<dyn Handler>
where
    F: Fn(Context, A) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<O, E>> + Send + 'static,
    A: DeserializeOwned + Send + 'static,
    O: Serialize + Send + 'static,
    E: Into<HandlerError> + Send + 'static,
{
    Box::new(Typed::new(function))
}

/// An async function over a payload type, as a [`Handler`].
pub(crate) struct Typed<F, A> {
    function: F,
    args: PhantomData<fn(A)>,
}

impl<F, A> Typed<F, A> {
    pub(crate) const fn new(function: F) -> Self {
        Self { function, args: PhantomData }
    }
}

impl<F, Fut, A, O, E> Handler for Typed<F, A>
where
    F: Fn(Context, A) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<O, E>> + Send + 'static,
    A: DeserializeOwned + Send + 'static,
    O: Serialize + Send + 'static,
    E: Into<HandlerError> + Send + 'static,
{
    fn call(&self, ctx: Context) -> BoxFuture<'static, Result<Output, HandlerError>> {
        match parse(&ctx.payload()) {
            Ok(args) => {
                let run = (self.function)(ctx, args);
                Box::pin(async move { Output::of(&run.await.map_err(Into::into)?) })
            }
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

/// Reads a payload as `A`.
///
/// # Errors
/// Permanent `invalid_payload` that says where in the payload the fault is.
pub(crate) fn parse<A: DeserializeOwned>(payload: &[u8]) -> Result<A, HandlerError> {
    let mut reader = serde_json::Deserializer::from_slice(payload);
    let parsed = serde_path_to_error::deserialize(&mut reader).map_err(|e| {
        let path = e.path().to_string();
        let at = if path == "." { String::new() } else { format!("at `{path}`: ") };
        HandlerError::permanent("invalid_payload", format!("{at}{}", e.into_inner()))
    });
    parsed.and_then(|value| {
        let rest = reader.end();
        rest.map_err(|e| HandlerError::permanent("invalid_payload", e.to_string())).map(|()| value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Cause;

    #[derive(Debug, serde::Deserialize)]
    struct Mail {
        #[serde(rename = "to")]
        _to: Vec<Person>,
    }

    #[derive(Debug, serde::Deserialize)]
    struct Person {
        #[serde(rename = "age")]
        _age: u8,
    }

    #[test]
    fn a_payload_that_does_not_fit_is_a_permanent_error_that_names_the_path() {
        for (payload, part) in [
            (r#"{"to": [{"age": 3}, {"age": "old"}]}"#, "at `to[1].age`: invalid type"),
            (r#"{}"#, "missing field `to`"),
            (r#"{"to": []} x"#, "trailing characters"),
            ("nonsense", "expected"),
        ] {
            let Err(HandlerError(Cause::Failed { error, .. })) = parse::<Mail>(payload.as_bytes())
            else {
                panic!("{payload} was taken");
            };
            assert_eq!(error.code, "invalid_payload");
            assert!(!error.retryable);
            assert!(error.message.contains(part), "{}", error.message);
        }
        assert!(parse::<Mail>(br#"{"to": [{"age": 3}]}"#).is_ok());
    }
}
