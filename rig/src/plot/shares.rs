//! What tenants got over time, from the evidence of E32.

use crate::check::{Evidence, Execution};
use crate::experiments::measure::mark_of;
use crate::experiments::tenants::{BESIDE, GREAT, LONG, by_tenant, run};
use crate::limits::Span;
use windlass_loadtest::plot::{Line, Panel, Tone, draw as picture, grouped};

/// Points of a line.
const POINTS: u64 = 200;

/// `None`: the evidence is of another experiment.
pub(super) fn draw(evidence: &Evidence, executions: &[Execution]) -> Option<String> {
    let panels = [beside(evidence, executions)?, long(evidence, executions)?];
    Some(picture(
        "What tenants of one queue got over time: nine with 100 jobs beside one with very many, and three with short jobs beside one with long ones",
        &panels,
    ))
}

fn span(evidence: &Evidence, part: &str, begins: &str) -> Option<Span> {
    let edge = |edge: &str| mark_of(evidence, &format!("{part} {edge}"));
    Some(Span { from_us: edge(begins)?.boot_us, to_us: edge("ends")?.boot_us })
}

/// A value at each of some instants from a span's beginning to its end.
fn over(span: Span, value: impl Fn(Span) -> f64) -> Vec<[f64; 2]> {
    let until = |n: u64| Span { to_us: span.from_us + span.length_us() * n / POINTS, ..span };
    (0..=POINTS).map(|n| [until(n).length_us() as f64 / 1e6, value(until(n))]).collect()
}

/// How many jobs have ended.
fn beside(evidence: &Evidence, executions: &[Execution]) -> Option<Panel> {
    let span = span(evidence, BESIDE, "begins")?;
    let of_great = |job: &&crate::dump::JobRow| matches!(job.tags.as_slice(), [_, part, tenant] if part == BESIDE && tenant == GREAT);
    let many = evidence.ledger.jobs.values().filter(of_great).count();
    let tenants = by_tenant(evidence, executions, BESIDE);
    let line = |(tenant, executions): (&&str, &Vec<&Execution>)| {
        let ends: Vec<u64> = executions.iter().map(|e| run(e).to_us).collect();
        let ended = |span: Span| {
            ends.iter().filter(|end| span.from_us <= **end && **end <= span.to_us).count() as f64
        };
        let (name, tone) = match *tenant {
            GREAT => (format!("the tenant with {} jobs", grouped(many)), Tone::Second),
            _ => ("each of nine tenants with 100 jobs".to_owned(), Tone::First),
        };
        Line { name, tone, points: over(span, ended) }
    };
    let lines: Vec<Line> = tenants.iter().map(line).collect();
    Some(panel("Jobs done, of tenants that want all slots", "jobs", span, lines))
}

/// How long jobs have run, from when those with short ones came.
fn long(evidence: &Evidence, executions: &[Execution]) -> Option<Panel> {
    let span = span(evidence, LONG, "is joined")?;
    let tenants = by_tenant(evidence, executions, LONG);
    let line = |(tenant, executions): (&&str, &Vec<&Execution>)| {
        let had = |span: Span| {
            executions.iter().map(|e| span.of_run_us(run(e))).sum::<u64>() as f64 / 1e6
        };
        let (name, tone) = match *tenant {
            GREAT => ("the tenant with jobs of ", Tone::Second),
            _ => ("each of three with jobs of ", Tone::First),
        };
        Line { name: format!("{name}{}", usual(executions)), tone, points: over(span, had) }
    };
    let mut lines: Vec<Line> = tenants.iter().map(line).collect();
    // One name for all of them, though some of their medians may be a little longer.
    let first = lines.iter().find(|line| line.tone == Tone::First)?.name.clone();
    for line in lines.iter_mut().filter(|line| line.tone == Tone::First) {
        line.name.clone_from(&first);
    }
    Some(panel("Run time, of tenants that want all slots", "slots × s", span, lines))
}

/// How long the median of them ran, rounded.
fn usual(executions: &[&Execution]) -> String {
    let ended = executions.iter().filter(|e| e.end.is_some());
    let mut ran: Vec<u64> = ended.map(|e| run(e).to_us - run(e).from_us).collect();
    ran.sort_unstable();
    let median = ran.get(ran.len() / 2).copied().unwrap_or_default() as f64 / 1e6;
    if median < 1.0 { format!("{median:.1} s") } else { format!("{median:.0} s") }
}

fn panel(title: &str, axis: &'static str, span: Span, lines: Vec<Line>) -> Panel {
    let tops = lines.iter().filter_map(|line| line.points.last()).map(|point| point[1]);
    let most = tops.fold(1.0, f64::max) * 1.05;
    Panel {
        title: title.into(),
        axes: ["s", axis],
        most: [span.length_us() as f64 / 1e6, most],
        marks: Vec::new(),
        shaded: None,
        lines,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_goes_from_the_beginning_of_its_span_to_its_end() {
        let span = Span { from_us: 1_000_000, to_us: 3_000_000 };
        let points = over(span, |until| until.length_us() as f64);
        assert_eq!(points.first(), Some(&[0.0, 0.0]));
        assert_eq!(points.last(), Some(&[2.0, 2_000_000.0]));
    }
}
