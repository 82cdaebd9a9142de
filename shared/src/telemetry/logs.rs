//! Logs on standard error: JSON, one object per line, or text for people.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::flood::Flood;
use super::lines::{Escape, Lines};
use crate::config::{LogFormat, LogSettings};

/// Longest text of filter directives, in bytes.
const DIRECTIVES_BYTES_MAX: usize = 4096;
/// The worker runtime logs every poll at debug, which would cost more than the jobs; to see it all the
/// same, name it in the directives.
const QUIET: &str = "apalis=warn,apalis_core=warn";

/// Whether `directives` are a filter.
///
/// # Errors
/// In words.
pub fn check_directives(directives: &str) -> Result<(), String> {
    filter(directives).map(|_| ())
}

fn filter(directives: &str) -> Result<EnvFilter, String> {
    if directives.len() > DIRECTIVES_BYTES_MAX {
        return Err(format!("is longer than {DIRECTIVES_BYTES_MAX} bytes"));
    }
    EnvFilter::try_new(format!("{QUIET},{directives}"))
        .map_err(|_| "must be filter directives, such as info or warn,windlass_worker=debug".into())
}

/// Sends the events of this process to standard error, and panics with them. Call once, in `main`.
///
/// A panic is logged with its place only: its text may quote a payload or a secret.
///
/// # Errors
/// Wrong directives, or logs that are set up already.
pub fn init(settings: &LogSettings) -> Result<(), String> {
    let terminal = std::io::stderr().is_terminal();
    let format = match settings.format {
        LogFormat::Auto if terminal => LogFormat::Text,
        LogFormat::Auto => LogFormat::Json,
        given => given,
    };
    let subscriber = subscriber(format, terminal, filter(&settings.level)?, std::io::stderr);
    subscriber.try_init().map_err(|e| e.to_string())?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let thread = std::thread::current();
        tracing::error!(panic.place = place, thread = thread.name(), "a thread panicked");
    }));
    Ok(())
}

fn subscriber<W>(
    format: LogFormat,
    terminal: bool,
    filter: EnvFilter,
    to: W,
) -> Box<dyn tracing::Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer();
    let subscriber = tracing_subscriber::registry().with(filter).with(Flood::new());
    match format {
        LogFormat::Json => {
            let lines = lines
                .json()
                .flatten_event(true)
                .with_current_span(true)
                .with_span_list(false)
                .with_writer(Lines { escape: Escape::Json, to });
            Box::new(subscriber.with(lines))
        }
        LogFormat::Text | LogFormat::Auto => {
            let escape = if terminal { Escape::Terminal } else { Escape::Text };
            let lines = lines.with_ansi(terminal).with_writer(Lines { escape, to });
            Box::new(subscriber.with(lines))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, directives: &str) -> String {
        let captured = Captured::default();
        let to = captured.clone();
        let subscriber = subscriber(format, false, filter(directives).unwrap(), move || to.clone());
        tracing::subscriber::with_default(subscriber, || {
            let evil = "a\r\n2026 INFO admin login ok\x1b[2J\u{9b}\0\u{2028}";
            let span = tracing::info_span!("claim", queue = evil);
            let _entered = span.enter();
            tracing::info!(job.id = %evil, note = ?evil, "took {evil}");
            tracing::debug!("hidden unless asked for");
        });
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_event_is_one_json_object_on_one_line() {
        let text = logged(LogFormat::Json, "info");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.trim_end().chars().all(|c| !c.is_control()), "{text:?}");
        let event: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(event["level"], "INFO");
        assert!(event["job.id"].as_str().unwrap().starts_with("a\r\n2026"));
        assert!(event["timestamp"].is_string());
    }

    #[test]
    fn an_event_is_one_line_of_text() {
        let text = logged(LogFormat::Text, "info");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.trim_end().chars().all(|c| !c.is_control()), "{text:?}");
    }

    #[test]
    fn a_flood_from_one_place_is_cut_and_others_are_heard() {
        let captured = Captured::default();
        let to = captured.clone();
        let filter = filter("info").unwrap();
        let subscriber = subscriber(LogFormat::Json, false, filter, move || to.clone());
        tracing::subscriber::with_default(subscriber, || {
            for n in 0..10_000 {
                tracing::warn!(n, "the same again");
            }
            tracing::warn!("something else");
        });
        let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        // A second may end during the test, and another share begin.
        assert!((200..5_000).contains(&text.lines().count()), "{}", text.lines().count());
        assert!(text.contains("something else"));
    }

    #[test]
    fn directives_decide_what_is_logged() {
        assert_eq!(logged(LogFormat::Json, "debug").lines().count(), 2);
        assert_eq!(logged(LogFormat::Json, "warn").lines().count(), 0);
        assert!(check_directives("info,windlass_worker=loud").is_err());
    }
}
