//! What `dev` and `api` have in common.

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use windlass_api::app::{App, Parts, RenderMetrics};
use windlass_shared::config::{Profile, Settings};
use windlass_shared::lifecycle::Lifecycle;

/// The API over these settings.
pub fn app(
    settings: &Settings,
    life: Lifecycle,
    metrics: RenderMetrics,
    shutdown: CancellationToken,
) -> App {
    App::new(Parts {
        life,
        settings: settings.api.clone(),
        cursor_key: cursor_key(settings),
        environment: environment(settings.profile).into(),
        metrics,
        shutdown,
    })
}

/// Part of the text of new API keys, so that people and scanners see which sort leaked.
pub fn environment(profile: Profile) -> &'static str {
    match profile {
        Profile::Development => "dev",
        Profile::Staging => "staging",
        Profile::Production => "live",
        Profile::Test => "test",
    }
}

/// Signs cursors. A cursor grants nothing (a page is read with the caller's own rights), so a key that all
/// replicas can derive is enough: from the setting, else from the ledger's address.
fn cursor_key(settings: &Settings) -> [u8; 32] {
    use secrecy::ExposeSecret;
    let secret = settings.cursor_secret.as_ref().or(settings.ledger.as_ref().map(|l| &l.url));
    let mut hash = Sha256::new_with_prefix(b"windlass cursor v1\0");
    hash.update(secret.map(|s| s.expose_secret().as_bytes()).unwrap_or_default());
    hash.finalize().into()
}
