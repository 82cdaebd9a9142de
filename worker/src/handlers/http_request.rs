//! `http.request`: one HTTP request, guarded against being led to where it must not go.
//!
//! Every address that a name resolves to is checked, and the connection is made to a checked one; literal
//! addresses are checked as written; redirects are not followed; no proxy of the environment is used.

use std::time::Duration;

use futures::future::BoxFuture;
use reqwest::Client;
use windlass_shared::limits::TIMEOUT_MAX;

use crate::context::Context;
use crate::error::HandlerError;
use crate::handler::{Handler, Output, parse};
use crate::reporter::pump::chain;

mod address;
mod request;
mod response;
mod target;

use address::Reach;
use request::Args;
use target::{CheckedResolver, Refused};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const TOTAL_TIMEOUT: Duration = Duration::from_secs(30);
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const IDLE_PER_HOST_MAX: usize = 8;
const HEADERS_MAX: usize = 100;
const HEADER_BYTES_MAX: u32 = 64 << 10;

/// The handler.
pub(super) struct HttpRequest {
    client: Client,
    reach: Reach,
}

impl HttpRequest {
    /// A handler that reaches public addresses only, unless `allow_private`.
    pub(super) fn new(allow_private: bool) -> anyhow::Result<Self> {
        let reach = if allow_private { Reach::Private } else { Reach::Public };
        Self::with_resolver(CheckedResolver::system(reach))
    }

    fn with_resolver(resolver: CheckedResolver) -> anyhow::Result<Self> {
        let reach = resolver.reach;
        let client = Client::builder()
            .dns_resolver(std::sync::Arc::new(resolver))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .user_agent(concat!("windlass/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
            .http1_max_headers(HEADERS_MAX)
            .http2_max_header_list_size(HEADER_BYTES_MAX)
            .build()?;
        Ok(Self { client, reach })
    }
}

impl Handler for HttpRequest {
    fn call(&self, ctx: Context) -> BoxFuture<'static, Result<Output, HandlerError>> {
        let (client, reach) = (self.client.clone(), self.reach);
        Box::pin(async move {
            let args: Args = parse(&ctx.payload())?;
            let total = args.timeout.map_or(TOTAL_TIMEOUT, |span| span.0.min(TIMEOUT_MAX));
            match tokio::time::timeout(total, exchange(&client, reach, &ctx, args)).await {
                Ok(result) => result,
                Err(_) => {
                    let total = windlass_shared::model::time::Span(total);
                    Err(HandlerError::retryable("http_timeout", format!("no complete answer within {total}")))
                }
            }
        })
    }
}

async fn exchange(
    client: &Client,
    reach: Reach,
    ctx: &Context,
    args: Args,
) -> Result<Output, HandlerError> {
    let expected = args.expect_status.clone();
    let request = request::build(client, reach, ctx, args)?;
    let response = client.execute(request).await.map_err(network_error)?;
    // The resolver has checked where the connection may go; this is the second wall.
    if let Some(peer) = response.remote_addr() {
        target::check_address(peer.ip(), reach).map_err(refused)?;
    }
    response::accept(response, expected.as_ref()).await
}

fn refused(refused: Refused) -> HandlerError {
    HandlerError::permanent("http_target_refused", refused.0)
}

fn network_error(error: reqwest::Error) -> HandlerError {
    if let Some(found) = find_refused(&error) {
        return refused(found);
    }
    // Addresses may hold secrets in their query.
    let error = error.without_url();
    let code = if error.is_connect() {
        "http_connect"
    } else if error.is_timeout() {
        "http_timeout"
    } else {
        "http_failed"
    };
    HandlerError::retryable(code, chain(&error))
}

fn find_refused(error: &reqwest::Error) -> Option<Refused> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(refused) = error.downcast_ref::<Refused>() {
            return Some(refused.clone());
        }
        cause = error.source();
    }
    None
}
