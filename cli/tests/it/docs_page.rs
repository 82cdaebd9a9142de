//! The page `/docs` in a real browser.

use std::process::Command;

use crate::binary::{Dev, windlass};

/// Browsers that can print a page's document, by their usual names.
const BROWSERS: [&str; 5] =
    ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome"];

fn browser() -> &'static str {
    let found = BROWSERS.into_iter().find(|name| {
        Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success())
    });
    found.unwrap_or_else(|| {
        panic!("none of {BROWSERS:?} is installed; scripts/test.sh installs one")
    })
}

/// The document after its scripts have run.
pub fn rendered(url: &str) -> String {
    let profile = tempfile::tempdir().expect("a folder");
    let output = Command::new("timeout")
        .args(["60", browser(), "--headless", "--no-sandbox", "--disable-gpu"])
        .args(["--disable-dev-shm-usage", "--virtual-time-budget=10000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(url)
        .output()
        .expect("the browser starts");
    let page = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    page
}

#[test]
fn the_documentation_shows_every_operation_and_opens_the_one_that_is_named() {
    let data = tempfile::tempdir().expect("a folder");
    let dev = Dev::start(data.path(), &[]);
    let page = rendered(&format!("{}/docs#submit_job", dev.url));
    for (id, path) in [
        ("submit_job", "/v1/jobs"),
        ("submit_batch", "/v1/jobs/batch"),
        ("patch_queue", "/v1/queues/{queue}"),
        ("settle_leases", "/v1/leases/settle"),
        ("create_key", "/v1/api-keys"),
        ("readiness", "/readiness"),
    ] {
        let place = page.find(&format!("<details id=\"{id}\"")).unwrap_or_else(|| panic!("{id}"));
        let summary = page[place..].split("</summary>").next().expect("one");
        assert!(summary.contains(&format!("<span class=\"path\">{path}</span>")), "{summary}");
    }
    // Of the one that is named, and of no other, the fields and the form are there.
    assert_eq!(page.matches("class=\"try\"").count(), 1, "one is open");
    for text in ["max_attempts", "retry.backoff", "Idempotency-Key", "Makes repeating safe"] {
        assert!(page.contains(text), "{text}");
    }
    let version = windlass(&["--version"], &[]).out;
    let version = version.trim().trim_start_matches("windlass ");
    assert!(page.contains(version), "{version}");
}
