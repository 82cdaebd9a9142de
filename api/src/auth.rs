//! Who calls, in which namespace, and whether their role allows the call.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use windlass_shared::ledger::{ApiKey, Role};
use windlass_shared::model::id::KeyId;
use windlass_shared::model::name::Namespace;

use crate::app::App;
use crate::error::{ApiError, Code};
use crate::keys;
use crate::throttle;

mod cache;
mod origin;
pub mod roles;

pub use cache::KeyCache;

/// Selects the namespace of a caller whose key is bound to none.
pub const NAMESPACE_HEADER: &str = "windlass-namespace";

/// Longest `Authorization` header that is looked at.
const HEADER_MAX: usize = 256;

/// Who sent a request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The key's record; `None` where no key is needed.
    pub key: Option<KeyId>,
    /// For logs and records of who did what: the key's name, or `local`.
    pub name: Arc<str>,
    /// What they may do.
    pub role: Role,
    /// Where they act.
    pub namespace: Namespace,
    /// Where they may act; `None` is everywhere.
    pub bound_to: Option<Namespace>,
    /// How the key is found again, for streams.
    public: Option<Arc<str>>,
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        parts.extensions.get().cloned().ok_or_else(|| {
            // Only a route that was mounted outside of the authenticated part gets here: refuse.
            ApiError::new(Code::Unauthenticated, "this call needs a key")
        })
    }
}

/// The middleware: authenticates, authorises, throttles, and notes the [`Caller`].
pub async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let caller = match admit(&app, &parts).await {
        Ok(caller) => caller,
        Err(error) => {
            let mut response = error.into_response();
            if response.status() == StatusCode::METHOD_NOT_ALLOWED {
                response.headers_mut().insert(header::ALLOW, allowed(&parts));
            }
            return response;
        }
    };
    let rate = match app.throttle.check(caller.key) {
        Ok(rate) => rate,
        Err((error, rate)) => {
            let mut response = error.into_response();
            throttle::decorate(&mut response, rate);
            return response;
        }
    };
    parts.extensions.insert(caller);
    let mut response = next.run(Request::from_parts(parts, body)).await;
    if let Some(rate) = rate {
        throttle::decorate(&mut response, rate);
    }
    response
}

async fn admit(app: &App, request: &Parts) -> Result<Caller, ApiError> {
    let caller = identify(app, request).await?;
    let path = route(request);
    if !roles::methods(path).any(|method| method == request.method.as_str()) {
        let detail = format!("{} is not allowed here", request.method);
        return Err(ApiError::new(Code::MethodNotAllowed, detail));
    }
    if !roles::allows(caller.role, &request.method, path) {
        return Err(ApiError::new(
            Code::Forbidden,
            format!("keys with the role {} do not include this call", roles::name(caller.role)),
        ));
    }
    let bound_to = caller.bound_to.as_ref();
    let refusal = roles::refusal(caller.role, &caller.namespace, bound_to, &request.method, path);
    if let Some(why) = refusal {
        return Err(ApiError::new(Code::NamespaceDenied, why));
    }
    Ok(caller)
}

fn route(request: &Parts) -> &str {
    request.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str)
}

/// The methods of a route, for `Allow`.
fn allowed(request: &Parts) -> HeaderValue {
    let methods: Vec<&str> = roles::methods(route(request)).collect();
    HeaderValue::try_from(methods.join(",")).expect("methods are ASCII words")
}

async fn identify(app: &App, request: &Parts) -> Result<Caller, ApiError> {
    let asked = namespace_header(&request.headers)?;
    if !app.settings.auth_required {
        origin::check(request)?;
        return Ok(Caller {
            key: None,
            name: "local".into(),
            role: Role::Admin,
            namespace: asked.unwrap_or_default(),
            bound_to: None,
            public: None,
        });
    }
    let address = request.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let Some(presented) = bearer(&request.headers)?.and_then(keys::parse) else {
        return Err(refuse(app, address, "an API key is needed: Authorization: Bearer wl_..."));
    };
    // Counts the attempt unless the key is a known one.
    let record = app.keys.find(app, &presented.public, address).await?;
    let is_known = record.is_some();
    let matches = presented.matches(record.as_ref().map(|key| &key.secret_hash));
    let Some(record) = record.filter(|key| matches && is_live(app, key)) else {
        let address = address.filter(|_| is_known);
        return Err(refuse(app, address, "the API key is not known, or no longer valid"));
    };
    let namespace = match (&record.namespace, asked) {
        (Some(bound), Some(asked)) if *bound != asked => {
            return Err(ApiError::new(
                Code::NamespaceDenied,
                "the key is bound to another namespace",
            ));
        }
        (Some(bound), _) => bound.clone(),
        (None, asked) => asked.unwrap_or_default(),
    };
    Ok(Caller {
        key: Some(record.id),
        name: record.name.as_str().into(),
        role: record.role,
        namespace,
        bound_to: record.namespace.clone(),
        public: Some(record.public.as_str().into()),
    })
}

fn is_live(app: &App, key: &ApiKey) -> bool {
    let now = app.life.clock().now();
    key.revoked_at.is_none() && key.expires_at.is_none_or(|at| at > now)
}

/// 401; with an address, which the attempt is counted for, 429 once that has failed too often.
fn refuse(app: &App, address: Option<IpAddr>, why: &str) -> ApiError {
    metrics::counter!("windlass_http_unauthenticated_total").increment(1);
    match address.map(|address| app.throttle.log_in(address)) {
        Some(Err(error)) => error,
        Some(Ok(())) | None => ApiError::new(Code::Unauthenticated, why),
    }
}

fn namespace_header(headers: &HeaderMap) -> Result<Option<Namespace>, ApiError> {
    let mut values = headers.get_all(NAMESPACE_HEADER).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let wrong = |why: &str| ApiError::new(Code::InvalidHeader, format!("Windlass-Namespace {why}"));
    if values.next().is_some() {
        return Err(wrong("is given twice"));
    }
    let text = value.to_str().map_err(|_| wrong("is not text"))?;
    text.parse().map(Some).map_err(|error| wrong(&format!("{error}")))
}

/// The one credential of a request. `None`: there is none that can be read.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(ApiError::new(Code::Unauthenticated, "Authorization is given twice"));
    }
    let text = value.to_str().ok().filter(|text| text.len() <= HEADER_MAX);
    Ok(text
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, key)| key))
}

/// Whether a caller who opened a stream may still see it.
pub async fn still_valid(app: &App, caller: &Caller) -> bool {
    let Some(public) = &caller.public else {
        return true;
    };
    match app.keys.find(app, public, None).await {
        Ok(key) => key.is_some_and(|key| is_live(app, &key)),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for value in values {
            map.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn the_key_comes_from_one_authorization_header() {
        assert_eq!(bearer(&headers(&[])).unwrap(), None);
        assert_eq!(bearer(&headers(&["Bearer abc"])).unwrap(), Some("abc"));
        assert_eq!(bearer(&headers(&["bearer abc"])).unwrap(), Some("abc"));
        assert_eq!(bearer(&headers(&["Basic abc"])).unwrap(), None);
        assert_eq!(bearer(&headers(&["Bearerabc"])).unwrap(), None);
        assert!(bearer(&headers(&["Bearer a", "Bearer b"])).is_err());
        assert_eq!(bearer(&headers(&[&format!("Bearer {}", "a".repeat(9000))])).unwrap(), None);
    }

    #[test]
    fn the_namespace_header_is_checked() {
        let with = |value: &str| {
            let mut map = HeaderMap::new();
            map.insert(NAMESPACE_HEADER, value.parse().unwrap());
            namespace_header(&map)
        };
        assert_eq!(with("team-a").unwrap(), Some("team-a".parse().unwrap()));
        for bad in ["", "A", "../x", "a b", &"a".repeat(65)] {
            assert_eq!(with(bad).unwrap_err().code(), Code::InvalidHeader, "{bad}");
        }
    }
}
