//! From the end of a command to an output, or to an error.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use serde::Serialize;
use windlass_shared::limits::VALUE_BYTES_MAX;
use windlass_shared::model::time::Span;

use super::capture::{Capture, Kept};
use super::payload::invalid;
use super::process::{Finished, Why};
use crate::error::HandlerError;
use crate::handler::Output;

/// Of an output, for all but the two streams: field names, quotes, numbers.
const FRAME_BYTES: usize = 256;
/// Of a stream, in the message of a failed attempt.
const TAIL_BYTES: usize = 2 << 10;

/// The output.
#[derive(Serialize)]
struct Ended {
    exit_code: i32,
    stdout: String,
    stderr: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stdout_truncated: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stderr_truncated: bool,
}

/// What an attempt makes of the end of its command.
pub(super) fn conclude(finished: &Finished) -> Result<Output, HandlerError> {
    let failed = |code: &str, what: String| {
        Err(HandlerError::retryable(code, format!("{what}{}", last_words(finished))))
    };
    match finished.why {
        Why::Ended(status) => match (status.code(), status.signal()) {
            (Some(0), _) => output(finished, status),
            (Some(code), _) => {
                failed("command_failed", format!("the command ended with exit code {code}"))
            }
            (None, signal) => {
                let signal = signal.unwrap_or_default();
                failed("command_killed", format!("the command was killed by signal {signal}"))
            }
        },
        Why::TimedOut(limit) => {
            failed("timeout", format!("the command was over its limit of {}", Span(limit)))
        }
        Why::TooMuchMemory(bytes) => failed(
            "out_of_memory",
            format!("the command held {bytes} bytes of memory and was killed"),
        ),
        Why::TooManyProcesses(count) => failed(
            "too_many_processes",
            format!("the command had {count} processes and was killed"),
        ),
        Why::Cancelled => Err(HandlerError::cancelled()),
        Why::Unknown => failed("command_killed", "the command's warden was killed".into()),
    }
}

/// What the whole tree used; without what is not known.
pub(super) fn usage(finished: &Finished) -> serde_json::Value {
    let cpu_ms = u64::try_from(finished.cpu.as_millis()).unwrap_or(u64::MAX);
    let mut usage = serde_json::json!({ "cpu_ms": cpu_ms });
    if let Some(bytes) = finished.memory_peak_bytes {
        usage["memory_peak_bytes"] = bytes.into();
    }
    usage
}

/// The end of what the command said, standard error first, to go behind a message.
pub(super) fn last_words(finished: &Finished) -> String {
    let (err, out) = (finished.stderr.end(TAIL_BYTES), finished.stdout.end(TAIL_BYTES));
    match (err.as_str(), out.as_str(), finished.why) {
        ("", "", _) => String::new(),
        // One that ended by itself has said why it failed, if at all, there.
        ("", _, Why::Ended(_)) => String::new(),
        ("", out, _) => format!("; stdout ends with: {out}"),
        (err, ..) => format!("; stderr ends with: {err}"),
    }
}

fn output(finished: &Finished, status: ExitStatus) -> Result<Output, HandlerError> {
    let (stdout, stderr) =
        shared_room(&finished.stdout, &finished.stderr, VALUE_BYTES_MAX - FRAME_BYTES);
    Output::of(&Ended {
        exit_code: status.code().unwrap_or_default(),
        stdout: stdout.text,
        stderr: stderr.text,
        stdout_truncated: stdout.truncated,
        stderr_truncated: stderr.truncated,
    })
}

/// As much of two streams as fits into a JSON text together: each has half, and what the other leaves.
fn shared_room(stdout: &Capture, stderr: &Capture, room: usize) -> (Kept, Kept) {
    let half = room / 2;
    let err = stderr.kept(half);
    let out = stdout.kept(room - crate::handlers::json_text::json_len(&err.text).min(half));
    let err_room = room - crate::handlers::json_text::json_len(&out.text).min(room);
    let err = if err_room > half { stderr.kept(err_room) } else { err };
    (out, err)
}

/// Why a command could not be started.
pub(super) fn not_started(error: &io::Error) -> HandlerError {
    if error.kind() == io::ErrorKind::ArgumentListTooLong {
        return invalid("`args` and `env` are too long together");
    }
    // Another worker may have the program, and this one may have more memory later.
    HandlerError::retryable(
        "command_not_started",
        format!("the command cannot be started: {error}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handlers::json_text::json_len;

    fn capture(bytes: usize, byte: u8) -> Capture {
        let mut capture = Capture::new(16 << 20);
        capture.push(&vec![byte; bytes]);
        capture
    }

    #[test]
    fn two_streams_share_the_room_of_an_output() {
        for (out, err, byte, cut) in [
            (10, 10, b'a', (false, false)),
            (900, 10, b'a', (false, false)),
            (10, 900, b'a', (false, false)),
            (10_000, 10, b'a', (true, false)),
            (10, 10_000, b'a', (false, true)),
            (10_000, 10_000, b'a', (true, true)),
            (10_000, 10_000, 1, (true, true)),
        ] {
            let (out, err) = shared_room(&capture(out, byte), &capture(err, byte), 1_000);
            assert_eq!((out.truncated, err.truncated), cut);
            let used = json_len(&out.text) + json_len(&err.text);
            assert!(used <= 1_000, "{used}");
            assert!(used >= 850 || !(cut.0 || cut.1), "{used}");
        }
    }
}
