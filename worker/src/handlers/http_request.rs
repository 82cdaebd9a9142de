//! `http.request`: one HTTP request, guarded against being led to where it must not go.
//!
//! Every address that a name resolves to is checked, and the connection is made to a checked one; literal
//! addresses are checked as written; redirects are not followed; no proxy of the environment is used.
//!
//! The payload is `{"method", "url", "headers", "query", "json"|"body", "expect_status", "timeout"}`, the
//! output `{"status", "headers", "json"|"body"|"body_base64"}`. Success is a status of 200 to 299 unless
//! `expect_status` says otherwise; a redirect is an answer like any other, and not a success by itself.
//!
//! | code | when | tried again |
//! |---|---|---|
//! | `http_status_NNN` | an unexpected status | 408, 425, 429, 5xx: yes, after `Retry-After`; else no |
//! | `http_connect` | no connection: name, TCP or TLS | yes |
//! | `http_timeout` | no complete answer in time | yes |
//! | `http_body` | the answer broke off or is not HTTP | yes |
//! | `http_blocked_address` | the target is not one that jobs may reach | no |
//! | `invalid_payload` | the payload makes no request | no |

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use reqwest::Client;
use windlass_shared::model::time::Span;

use crate::context::Context;
use crate::error::HandlerError;
use crate::handler::{Handler, Output, parse};

mod address;
mod request;
mod response;
mod statuses;
mod target;

#[cfg(test)]
mod tests;

use address::Reach;
use request::{Args, Stamp};
use target::{CheckedResolver, Refused};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For everything from resolving the name to the last byte, where the payload says nothing.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(30);
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const IDLE_PER_HOST_MAX: usize = 8;
/// An answer with more headers is refused as broken.
const HEADERS_MAX: usize = 100;
const HEADER_BYTES_MAX: u32 = 64 << 10;

/// The handler. Cheap to clone: connections are shared.
#[derive(Clone)]
pub(super) struct HttpRequest {
    client: Client,
    reach: Reach,
}

impl HttpRequest {
    /// A handler that reaches public addresses only, or with `allow_private` also private and loopback ones.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(super) fn new(allow_private: bool) -> anyhow::Result<Self> {
        let reach = if allow_private { Reach::Private } else { Reach::Public };
        Self::with_resolver(CheckedResolver::system(reach))
    }

    fn with_resolver(resolver: CheckedResolver) -> anyhow::Result<Self> {
        let reach = resolver.reach;
        let client = Client::builder()
            .dns_resolver(Arc::new(resolver))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .user_agent("windlass")
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
            .http1_max_headers(HEADERS_MAX)
            .http2_max_header_list_size(HEADER_BYTES_MAX)
            .build()?;
        Ok(Self { client, reach })
    }

    /// Makes one request within `limit`, the job's. Dropped, it closes the connection; the receiver may
    /// have got the request all the same.
    async fn perform(
        &self,
        args: Args,
        stamp: Stamp,
        limit: Duration,
    ) -> Result<Output, HandlerError> {
        let total = args.timeout.map_or(TOTAL_TIMEOUT, |span| span.0).min(limit);
        match tokio::time::timeout(total, self.exchange(args, &stamp)).await {
            Ok(result) => result,
            Err(_) => {
                let message = format!("no complete answer within {}", Span(total));
                Err(HandlerError::retryable("http_timeout", message))
            }
        }
    }

    async fn exchange(&self, args: Args, stamp: &Stamp) -> Result<Output, HandlerError> {
        let expected = args.expect_status.clone().unwrap_or_default();
        let request = request::build(&self.client, self.reach, stamp, args)?;
        let response = self.client.execute(request).await.map_err(network_error)?;
        // The resolver has checked where the connection may go; this is the second wall.
        if let Some(peer) = response.remote_addr() {
            target::check_address(peer.ip(), self.reach).map_err(|refused| refused.failure())?;
        }
        response::accept(response, &expected).await
    }
}

impl Handler for HttpRequest {
    fn call(&self, ctx: Context) -> BoxFuture<'static, Result<Output, HandlerError>> {
        let handler = self.clone();
        Box::pin(async move {
            let args: Args = parse(&ctx.payload())?;
            let stamp = Stamp {
                job_id: ctx.job_id().to_string(),
                attempt: ctx.attempt(),
                fence: ctx.fence().0,
                traceparent: ctx.traceparent().map(str::to_owned),
            };
            Box::pin(handler.perform(args, stamp, ctx.spec().timeout.0)).await
        })
    }
}

fn network_error(error: reqwest::Error) -> HandlerError {
    if let Some(refused) = causes(&error).find_map(|cause| cause.downcast_ref::<Refused>()) {
        return refused.failure();
    }
    let code = if error.is_connect() {
        "http_connect"
    } else if error.is_timeout() {
        "http_timeout"
    } else {
        "http_body"
    };
    // The URL may hold secrets in its path and query. The causes say what happened; they don't name it.
    let error = error.without_url();
    let mut message = error.to_string();
    for cause in causes(&error) {
        let cause = cause.to_string();
        if !message.contains(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    HandlerError::retryable(code, message)
}

fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |cause| cause.source())
}
