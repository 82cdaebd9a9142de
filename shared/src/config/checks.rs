//! What is legal by itself and unsafe together, or in this place.
//!
//! Unsafe states of the stores themselves (`fsync` off, an eviction policy) are found when they are opened.

use super::layers::Layer;
use super::load::{Problem, Process, Profile, Settings};
use super::mask::password_of;
use super::{EngineSettings, Source};

/// Passwords that every example on the web uses.
const EXAMPLE_PASSWORDS: [&str; 10] = [
    "postgres",
    "windlass",
    "password",
    "changeme",
    "change-me",
    "secret",
    "redis",
    "admin",
    "example",
    "test",
];

pub(super) fn check(settings: &Settings, layer: &Layer) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut refuse = |key: &str, text: &str| {
        let source = layer.get(key).map_or(Source::Default, |v| v.source.clone());
        problems.push(Problem::of_value(key, source, text.into()));
    };
    let production = settings.profile == Profile::Production;

    if !settings.api.auth_required {
        if production {
            refuse("auth.mode", "must not be off in profile production");
        } else if !every_listener_is_loopback(settings) {
            refuse("auth.mode", "must not be off unless every listener is on loopback");
        }
    }
    if production && settings.worker.http_allow_private {
        refuse("http.allow_private", "must not be true in profile production");
    }
    if production {
        for key in ["ledger.url", "engine.url"] {
            let password = layer.get(key).and_then(|v| password_of(&v.text));
            if password.is_some_and(|p| EXAMPLE_PASSWORDS.contains(&p)) {
                refuse(key, "has a password that examples use, which profile production refuses");
            }
        }
    }
    if matches!(settings.process, Process::Api | Process::Worker | Process::Scheduler) {
        if settings.ledger.as_ref().is_some_and(super::LedgerSettings::is_sqlite) {
            refuse(
                "ledger.url",
                "names SQLite, which only `windlass dev` can use; use postgres://",
            );
        }
        if settings.engine.as_ref().is_some_and(EngineSettings::is_embedded) {
            refuse("engine.url", "is embedded, which only `windlass dev` can use; use redis://");
        }
    }
    if let Process::Dev { .. } = settings.process
        && settings.ledger.as_ref().is_some_and(|l| !l.is_sqlite())
        && settings.engine.as_ref().is_some_and(EngineSettings::is_embedded)
    {
        refuse(
            "engine.url",
            "is embedded while the ledger is shared: two `dev` on one ledger would run jobs twice; use redis://",
        );
    }
    problems
}

fn every_listener_is_loopback(settings: &Settings) -> bool {
    let serves_api = !matches!(settings.process, Process::Worker | Process::Scheduler);
    let public = serves_api.then_some(settings.api.listen);
    public.iter().chain(&settings.admin_listen).all(|address| address.ip().is_loopback())
}
