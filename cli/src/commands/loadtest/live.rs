//! How far a load is, on standard error: redrawn in place on a terminal, else a line now and then.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use windlass_loadtest::run::Progress;

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Seconds in the picture of the rate.
const HISTORY: usize = 40;
const BAR: usize = 30;
const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Shows progress. Says nothing where it is told to be quiet.
pub(super) struct Live {
    is_quiet: bool,
    is_terminal: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Lines that the last picture has.
    drawn: usize,
    rates: Vec<u64>,
    errors: u64,
    said: Option<(Instant, String)>,
}

impl Live {
    pub(super) fn new(is_quiet: bool) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        Self { is_quiet, is_terminal, state: Mutex::default() }
    }

    /// Takes note of how far it is.
    pub(super) fn show(&self, progress: &Progress<'_>) {
        if self.is_quiet {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(second) = progress.second {
            state.rates.push(second.answered);
            state.errors += second.errors;
        }
        if self.is_terminal {
            let lines = picture(progress, &state);
            redraw(&mut state, &lines);
            return;
        }
        let is_new = state
            .said
            .as_ref()
            .is_none_or(|(at, doing)| doing != progress.doing || at.elapsed() >= LINE_EVERY);
        if is_new {
            state.said = Some((Instant::now(), progress.doing.to_owned()));
            // Who does not listen is not told.
            let _ = writeln!(std::io::stderr(), "{}", line(progress, state.errors));
        }
    }

    /// Takes the picture away.
    pub(super) fn end(&self) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        redraw(&mut state, &[]);
    }
}

fn line(progress: &Progress<'_>, errors: u64) -> String {
    let mut line = format!(
        "{}: {:.0} %, {} jobs accepted, {errors} errors",
        progress.doing,
        progress.part * 100.0,
        progress.accepted
    );
    if let Some(second) = progress.second {
        line.push_str(&format!(
            ", {}/s, p50 {:.1} ms, p99 {:.1} ms",
            second.answered, second.answer_p50_ms, second.answer_p99_ms
        ));
    }
    line
}

fn picture(progress: &Progress<'_>, state: &State) -> Vec<String> {
    let full = (progress.part.clamp(0.0, 1.0) * BAR as f64).round() as usize;
    let mut lines = vec![format!(
        "{:<20} [{}{}] {:>3.0} %",
        progress.doing,
        "#".repeat(full),
        ".".repeat(BAR - full),
        progress.part * 100.0
    )];
    if let Some(second) = progress.second {
        let depth = second.depth.map_or_else(|| "?".to_owned(), |depth| depth.to_string());
        lines.push(format!(
            "{:>8} calls/s   p50 {:>8.1} ms   p99 {:>8.1} ms   queue {depth:>8}",
            second.answered, second.answer_p50_ms, second.answer_p99_ms
        ));
    }
    lines.push(format!("{:>8} jobs accepted   {} errors", progress.accepted, state.errors));
    if !state.rates.is_empty() {
        lines.push(sparkline(&state.rates));
    }
    lines
}

/// The last rates, each as a bar.
fn sparkline(rates: &[u64]) -> String {
    let last = &rates[rates.len().saturating_sub(HISTORY)..];
    let most = last.iter().copied().max().unwrap_or(0).max(1);
    let bar = |rate: &u64| STEPS[usize::try_from(rate * 7 / most).unwrap_or(0).min(7)];
    last.iter().map(bar).collect()
}

fn redraw(state: &mut State, lines: &[String]) {
    let mut out = std::io::stderr().lock();
    if state.drawn > 0 {
        // Up to the first line of the last picture, and away with it.
        let _ = write!(out, "\x1b[{}F\x1b[J", state.drawn);
    }
    for line in lines {
        let _ = writeln!(out, "{line}");
    }
    let _ = out.flush();
    state.drawn = lines.len();
}

#[cfg(test)]
mod tests {
    use windlass_loadtest::result::Second;

    use super::*;

    #[test]
    fn a_picture_says_rate_latency_errors_depth_and_how_far_it_is() {
        let second =
            Second { answered: 120, answer_p99_ms: 7.25, depth: Some(31), ..Second::default() };
        let progress = Progress { doing: "steady", part: 0.5, second: Some(&second), accepted: 99 };
        let state = State { rates: vec![0, 60, 120], errors: 2, ..State::default() };
        let picture = picture(&progress, &state).join("\n");
        for part in ["steady", "50 %", "120 calls/s", "7.2 ms", "31", "99 jobs", "2 errors", "▁▄█"]
        {
            assert!(picture.contains(part), "{part}: {picture}");
        }
        assert!(line(&progress, 2).contains("steady: 50 %"));
    }
}
