//! The HTTP API.
//!
//! A request goes through [`serve`] (bounds of connections and bodies), `observe` (request id, span,
//! metrics, panic guard), [`auth`] (who, where, may they, how often) and ends in a handler of `routes`,
//! which reads it with `extract` and `requests`, calls one verb of the life cycle, and answers with a
//! `views` type or an [`error::ApiError`].

pub mod app;
pub mod auth;
mod claims;
mod cursor;
pub mod error;
mod extract;
mod gates;
mod health;
mod if_match;
mod json;
pub mod keys;
mod observe;
mod openapi;
mod queue_cache;
mod requests;
mod resume;
mod routes;
pub mod serve;
mod streams;
mod strict;
mod system;
mod throttle;
pub mod token;
mod values;
mod views;
pub mod yaml;

pub use app::{App, Parts, RenderMetrics};
pub use openapi::document;
pub use routes::{admin_router, router};
