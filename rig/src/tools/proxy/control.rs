//! The proxy's faults over HTTP. For one trusted user on loopback: there is no authentication.
//!
//! | request | effect |
//! |---|---|
//! | `GET /` | faults, statistics, rules |
//! | `PUT /faults` | replaces the faults |
//! | `POST /heal` | no faults and no rules any more |
//! | `POST /cut` | resets all connections |
//! | `POST /half-open/{client,server}` | that side sees a reset, the other nothing |
//! | `POST /lose-reply` | adds a rule: a [`Choice`] |
//! | `POST /duplicate` | adds a rule: a [`Choice`] and `after_ms` |
//! | `DELETE /rules` | removes all rules |

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::{Choice, Faults, Protocol, Proxy, RuleId, RuleReport, Side, Stats};

/// What `GET /` answers.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// Where the proxy listens.
    pub listen: SocketAddr,
    /// Where it leads.
    pub to: SocketAddr,
    /// The faults now.
    pub faults: Faults,
    /// What has passed.
    pub stats: Stats,
    /// What the rules have seen.
    pub rules: Vec<RuleReport>,
}

/// A rule of `POST /duplicate`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Duplicate {
    /// Which requests.
    #[serde(flatten)]
    pub choice: Choice,
    /// How long after the first sending.
    #[serde(default)]
    pub after_ms: u64,
}

type Failure = (StatusCode, String);

/// Routes that steer `proxy`.
pub fn routes(proxy: Arc<Proxy>) -> Router {
    Router::new()
        .route("/", get(report))
        .route("/faults", put(set))
        .route("/heal", post(heal))
        .route("/cut", post(cut))
        .route("/half-open/{side}", post(half_open))
        .route("/lose-reply", post(lose_reply))
        .route("/duplicate", post(duplicate))
        .route("/rules", delete(clear))
        .with_state(proxy)
}

async fn report(State(proxy): State<Arc<Proxy>>) -> Json<Report> {
    Json(Report {
        listen: proxy.address(),
        to: proxy.target(),
        faults: proxy.faults(),
        stats: proxy.stats(),
        rules: proxy.rules(),
    })
}

async fn set(State(proxy): State<Arc<Proxy>>, Json(faults): Json<Faults>) -> Result<(), Failure> {
    proxy.set(faults).await.map_err(port_taken)
}

async fn heal(State(proxy): State<Arc<Proxy>>) -> Result<(), Failure> {
    proxy.heal().await.map_err(port_taken)
}

async fn cut(State(proxy): State<Arc<Proxy>>) -> Json<usize> {
    Json(proxy.cut())
}

async fn half_open(State(proxy): State<Arc<Proxy>>, Path(side): Path<Side>) -> Json<usize> {
    Json(proxy.half_open(side))
}

async fn lose_reply(
    State(proxy): State<Arc<Proxy>>,
    Json(choice): Json<Choice>,
) -> Result<Json<RuleId>, Failure> {
    needs(&proxy, Protocol::Resp)?;
    proxy.lose_reply(choice).map(Json).ok_or_else(too_many)
}

async fn duplicate(
    State(proxy): State<Arc<Proxy>>,
    Json(rule): Json<Duplicate>,
) -> Result<Json<RuleId>, Failure> {
    needs(&proxy, Protocol::Http)?;
    let after = Duration::from_millis(rule.after_ms);
    proxy.duplicate(rule.choice, after).map(Json).ok_or_else(too_many)
}

async fn clear(State(proxy): State<Arc<Proxy>>) {
    proxy.clear_rules();
}

fn needs(proxy: &Proxy, protocol: Protocol) -> Result<(), Failure> {
    if proxy.shared.options.protocol == protocol {
        return Ok(());
    }
    let name = if protocol == Protocol::Resp { "resp" } else { "http" };
    Err((StatusCode::CONFLICT, format!("start the proxy with --protocol {name} for this rule\n")))
}

fn too_many() -> Failure {
    (StatusCode::CONFLICT, "there are too many rules; DELETE /rules first\n".to_owned())
}

fn port_taken(error: std::io::Error) -> Failure {
    (StatusCode::CONFLICT, format!("{error}\n"))
}
