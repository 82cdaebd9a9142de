//! Calls of a dependency that is down, with its circuit and without, from the evidence of E27.

use crate::check::{Evidence, Execution};
use crate::experiments::herd::HALVES;
use crate::experiments::measure::mark_of;
use crate::worker::CALL;
use windlass_loadtest::plot::{Line, Panel, Tone, draw as picture, grouped};

/// About so many points has a line.
const POINTS: f64 = 120.0;
/// Shown before the dependency goes down, and after its last call.
const MARGIN_S: f64 = 1.0;

/// One half of the experiment: times in s from when the dependency went down.
struct Half {
    back: f64,
    calls: Vec<f64>,
    failed: usize,
}

/// `None`: the evidence is of another experiment.
pub(super) fn draw(evidence: &Evidence, executions: &[Execution]) -> Option<String> {
    let halves = [half(evidence, executions, 0)?, half(evidence, executions, 1)?];
    let longest = halves.iter().filter_map(|half| half.calls.last()).copied().reduce(f64::max)?;
    let width = ((longest + MARGIN_S) / POINTS).max(0.25);
    let binned = halves.each_ref().map(|half| per_second(&half.calls, width));
    let tops = binned.iter().flatten().map(|point| point[1]);
    let most = [longest + MARGIN_S, tops.fold(1.0, f64::max) * 1.05];
    let panels: Vec<Panel> = std::iter::zip(halves, binned)
        .zip([("With its circuit", Tone::First), ("Without", Tone::Second)])
        .map(|((half, points), (title, tone))| Panel {
            title: title.into(),
            axes: ["s", "calls/s"],
            most,
            marks: Vec::new(),
            shaded: Some((0.0, half.back)),
            lines: vec![Line {
                name: format!("calls; {} while it is down (shaded)", grouped(half.failed)),
                tone,
                points,
            }],
        })
        .collect();
    Some(picture("Calls per second of a dependency that is down for a while", &panels))
}

fn half(evidence: &Evidence, executions: &[Execution], place: usize) -> Option<Half> {
    let edge = |edge: &str| mark_of(evidence, &format!("{edge} {}", HALVES[place]));
    let (down, up) = (edge("down")?, edge("up")?);
    let next = HALVES.get(place + 1).and_then(|half| mark_of(evidence, &format!("down {half}")));
    let is_of = |execution: &&Execution| {
        execution.kind == CALL
            && execution.started >= down
            && next.is_none_or(|next| execution.started < next)
    };
    let calls: Vec<f64> = executions
        .iter()
        .filter(is_of)
        .map(|execution| execution.started.seconds_since(down))
        .collect();
    let back = up.seconds_since(down);
    let failed = calls.iter().filter(|at| **at < back).count();
    Some(Half { back, calls, failed })
}

/// As a line of steps: each so many seconds wide.
fn per_second(calls: &[f64], width: f64) -> Vec<[f64; 2]> {
    let last = calls.last().map_or(0, |at| (at / width) as usize);
    let mut counts = vec![0_u32; last + 2];
    for at in calls {
        counts[(at / width) as usize] += 1;
    }
    let step = |(n, count): (usize, &u32)| {
        let (from, high) = (n as f64 * width, f64::from(*count) / width);
        [[from, high], [from + width, high]]
    };
    counts.iter().enumerate().flat_map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_the_second_they_began_in() {
        let steps = per_second(&[0.0, 0.4, 1.2], 0.5);
        assert_eq!(steps[0], [0.0, 4.0], "two in half a second");
        assert_eq!(steps[1], [0.5, 4.0]);
        assert_eq!(steps[2], [0.5, 0.0]);
        assert_eq!(steps[4], [1.0, 2.0]);
        assert_eq!(steps.last(), Some(&[2.0, 0.0]), "and none after the last one");
    }
}
