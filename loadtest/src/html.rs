//! The result of a load test as one page of HTML that needs nothing from elsewhere: no script, no font, no picture.

use std::fmt::Write as _;

use crate::plot::{self, Line, Panel, Tone, escaped};
use crate::profile::threshold::short;
use crate::result::LoadResult;

/// Panels beside each other.
const ROW: usize = 2;
/// Points of a line; of more the highest of each group is kept, so that no peak is hidden.
const POINTS_MAX: usize = 400;

const STYLE: &str = "
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; margin: 2rem auto; max-width: 900px;
  padding: 0 1rem; background: #ffffff; color: #1f2328; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.soft { color: #59636e; } .holds { color: #1a7f37; } .fails { color: #cf222e; font-weight: 600; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; } th, td { padding: 0.25rem 0.75rem 0.25rem 0; border-bottom: 1px solid #d1d9e0; }
td.number, th.number { text-align: right; } .wide { overflow-x: auto; } svg { max-width: 100%; height: auto; }
details summary { cursor: pointer; }
@media (prefers-color-scheme: dark) { body { background: #0d1117; color: #f0f6fc; } .soft { color: #9198a1; }
  th, td { border-color: #2f353d; } .holds { color: #3fb950; } .fails { color: #ff7b72; } }
";

/// The page.
pub fn page(result: &LoadResult) -> String {
    let mut out = String::new();
    let title = format!("{} {}", result.profile, if result.passed { "passed" } else { "failed" });
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n<title>{0}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{1}: <span class=\"{2}\">{3}</span></h1>\n<p class=\"soft\">{4}</p>\n",
        escaped(&title),
        escaped(&result.profile),
        if result.passed { "holds" } else { "fails" },
        if result.passed { "passed" } else { "failed" },
        escaped(&result.about),
    );
    about(&mut out, result);
    thresholds(&mut out, result);
    compared(&mut out, result);
    out.push_str("<h2>Over time</h2>\n");
    let panels = panels(result);
    for row in panels.chunks(ROW) {
        let titles: Vec<&str> = row.iter().map(|panel| panel.title.as_str()).collect();
        out.push_str(&plot::draw(&titles.join("; "), row));
    }
    stages(&mut out, result);
    errors(&mut out, result);
    figures(&mut out, result);
    out.push_str("</body>\n</html>\n");
    out
}

fn about(out: &mut String, result: &LoadResult) {
    let machine = &result.machine;
    let _ = writeln!(
        out,
        "<p>{} for {} s, from {} ({} cores of {}, {} GB) at {}, which runs Windlass {}; seed {}.</p>",
        escaped(&result.began_at.to_string()),
        short(result.seconds),
        escaped(&machine.host),
        machine.cores,
        escaped(&machine.processor),
        machine.memory / 1_000_000_000,
        escaped(&result.url),
        escaped(&result.fleet_version),
        result.seed
    );
    for note in result.reasons().iter().chain(&result.notes) {
        let _ = writeln!(out, "<p>{}</p>", escaped(note));
    }
}

fn table(out: &mut String, headings: &[&str], rows: &[Vec<(String, &str)>]) {
    out.push_str("<div class=\"wide\"><table>\n<tr>");
    for (n, heading) in headings.iter().enumerate() {
        let class = rows.first().and_then(|row| row.get(n)).map_or("", |(_, class)| class);
        let _ = write!(out, "<th class=\"{class}\">{}</th>", escaped(heading));
    }
    out.push_str("</tr>\n");
    for row in rows {
        out.push_str("<tr>");
        for (cell, class) in row {
            let _ = write!(out, "<td class=\"{class}\">{}</td>", escaped(cell));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table></div>\n");
}

fn thresholds(out: &mut String, result: &LoadResult) {
    out.push_str("<h2>Thresholds</h2>\n");
    let row = |held: &crate::profile::threshold::Held| {
        let measured = held.measured();
        let (word, class) = if held.holds { ("holds", "holds") } else { ("fails", "fails") };
        vec![
            (held.name.clone(), ""),
            (measured, "number"),
            (held.bound.clone(), ""),
            (word.to_owned(), class),
        ]
    };
    let rows: Vec<_> = result.thresholds.iter().map(row).collect();
    table(out, &["figure", "measured", "must be", ""], &rows);
}

fn compared(out: &mut String, result: &LoadResult) {
    let Some(compared) = &result.compared else { return };
    let _ = writeln!(
        out,
        "<details><summary>Against the last good run on this machine, {}</summary>",
        escaped(&compared.began_at.to_string())
    );
    let rows: Vec<_> = compared
        .changes
        .iter()
        .map(|change| {
            let percent = change.percent().map(|percent| format!("{percent:+.0} %"));
            vec![
                (change.name.clone(), ""),
                (short(change.then), "number"),
                (short(change.now), "number"),
                (percent.unwrap_or_default(), "number"),
            ]
        })
        .collect();
    table(out, &["figure", "then", "now", ""], &rows);
    out.push_str("</details>\n");
}

fn stages(out: &mut String, result: &LoadResult) {
    out.push_str("<h2>Stages</h2>\n");
    let rows: Vec<_> = result
        .stages
        .iter()
        .map(|stage| {
            let figure = |name: &str| {
                let value = result.figures.get(&format!("{}.{name}", stage.name));
                (value.map(short).unwrap_or_default(), "number")
            };
            let mut row = vec![(stage.name.clone(), "")];
            row.extend(STAGE.map(|(_, name)| figure(name)));
            row
        })
        .collect();
    let mut headings = vec!["stage"];
    headings.extend(STAGE.map(|(heading, _)| heading));
    table(out, &headings, &rows);
}

/// Columns of the stages.
const STAGE: [(&str, &str); 9] = [
    ("s", "seconds"),
    ("calls", "calls"),
    ("calls/s", "calls_per_second"),
    ("errors %", "errors_percent"),
    ("jobs", "accepted"),
    ("answer p50 ms", "answer_p50_ms"),
    ("p99", "answer_p99_ms"),
    ("end p50 ms", "end_p50_ms"),
    ("p99", "end_p99_ms"),
];

fn errors(out: &mut String, result: &LoadResult) {
    if result.codes.is_empty() && result.examples.is_empty() {
        return;
    }
    out.push_str("<h2>Errors</h2>\n");
    let rows: Vec<_> = result
        .codes
        .iter()
        .map(|(code, count)| vec![(code.clone(), ""), (count.to_string(), "number")])
        .collect();
    if !rows.is_empty() {
        table(out, &["call", "times"], &rows);
    }
    for example in &result.examples {
        let _ = writeln!(out, "<p>Job {}</p>", escaped(example));
    }
}

fn figures(out: &mut String, result: &LoadResult) {
    out.push_str("<details><summary>Every figure</summary>\n");
    let rows: Vec<_> = result
        .figures
        .iter()
        .map(|(name, value)| vec![(name.to_owned(), ""), (short(value), "number")])
        .collect();
    table(out, &["figure", ""], &rows);
    out.push_str("</details>\n");
}

fn panels(result: &LoadResult) -> Vec<Panel> {
    let series = |value: &dyn Fn(&crate::result::Second) -> Option<f64>| {
        result.series.iter().filter_map(|s| Some([s.at, value(s)?])).collect::<Vec<_>>()
    };
    let answered = |s: &crate::result::Second| s.answered > 0;
    let ended = |s: &crate::result::Second| s.ended > 0;
    let end = result.series.last().map_or(1.0, |second| second.at).max(1.0);
    let over_time = |title: &str, unit, lines: Vec<(String, Vec<[f64; 2]>)>| {
        panel(title, ["s", unit], end, Vec::new(), lines)
    };
    let mut panels = vec![
        over_time(
            "Throughput",
            "1/s",
            vec![
                ("good answers".into(), series(&|s| Some(s.answered as f64))),
                ("errors".into(), series(&|s| Some(s.errors as f64))),
                ("jobs accepted".into(), series(&|s| Some(s.accepted as f64))),
                ("jobs ended".into(), series(&|s| Some(s.ended as f64))),
            ],
        ),
        over_time(
            "Answers, from when calls were due",
            "ms",
            vec![
                ("p50".into(), series(&|s| answered(s).then_some(s.answer_p50_ms))),
                ("p99".into(), series(&|s| answered(s).then_some(s.answer_p99_ms))),
            ],
        ),
        over_time(
            "Ends of jobs, from when they were due",
            "ms",
            vec![
                ("p50".into(), series(&|s| ended(s).then_some(s.end_p50_ms))),
                ("p99".into(), series(&|s| ended(s).then_some(s.end_p99_ms))),
            ],
        ),
        percentiles(result),
        over_time(
            "Queue",
            "jobs",
            vec![("waiting, running, finishing".into(), series(&|s| Some(s.depth? as f64)))],
        ),
    ];
    let of_processes = |value: &dyn Fn(usize) -> Vec<[f64; 2]>| {
        result.processes.iter().enumerate().map(|(n, name)| (name.clone(), value(n))).collect()
    };
    let samples = &result.samples;
    let memory = |n: usize| samples.iter().map(|s| [s.at, s.memory[n] as f64 / 1e6]).collect();
    panels.push(over_time("Memory of processes", "MB", of_processes(&memory)));
    let cpu = |n: usize| {
        let pairs = samples.iter().zip(samples.iter().skip(1));
        let used = pairs
            .filter(|(a, b)| b.at - a.at > 0.1)
            .map(|(a, b)| [b.at, (b.cpu[n] - a.cpu[n]) * 100.0 / (b.at - a.at)]);
        used.collect()
    };
    panels.push(over_time("Processor time, of one core", "%", of_processes(&cpu)));
    panels
}

/// The curve of percentiles, stretched so that the slowest hundredth, thousandth and so on have as much room as the rest.
fn percentiles(result: &LoadResult) -> Panel {
    // 90 % is at 1, 99 % at 2, and so on.
    let place = |percent: f64| -((1.0 - percent / 100.0).max(1e-4)).log10();
    let curve = |points: &[(f64, f64)]| {
        points.iter().map(|(percent, ms)| [place(*percent), *ms]).collect::<Vec<_>>()
    };
    let mut lines = Vec::new();
    for stage in &result.stages {
        lines.push((stage.name.clone(), curve(&stage.ends)));
    }
    let marks = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99];
    let marks = marks.map(|percent| (place(percent), format!("{percent}"))).into();
    panel("Ends of jobs by percentile", ["%", "ms"], 4.0, marks, lines)
}

fn panel(
    title: &str,
    axes: [&'static str; 2],
    end: f64,
    marks: Vec<(f64, String)>,
    lines: Vec<(String, Vec<[f64; 2]>)>,
) -> Panel {
    let lines = lines.into_iter().filter(|(_, points)| !points.is_empty());
    let lines: Vec<Line> = lines
        .enumerate()
        .map(|(n, (name, points))| Line { name, tone: Tone::nth(n), points: thinned(&points) })
        .collect();
    let tops = lines.iter().flat_map(|line| &line.points).map(|point| point[1]);
    let most = [end, tops.fold(f64::MIN_POSITIVE, f64::max).max(1e-3) * 1.05];
    Panel { title: title.into(), axes, most, marks, shaded: None, lines }
}

/// Fewer points, with every peak.
fn thinned(points: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let group = points.len().div_ceil(POINTS_MAX).max(1);
    let highest = |group: &[[f64; 2]]| {
        group.iter().copied().max_by(|a, b| a[1].total_cmp(&b[1])).expect("chunks are not empty")
    };
    points.chunks(group).map(highest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_points_keep_their_peaks() {
        let points: Vec<[f64; 2]> =
            (0..4_000).map(|n| [f64::from(n), f64::from(u8::from(n == 1_234))]).collect();
        let thin = thinned(&points);
        assert!(thin.len() <= POINTS_MAX && thin.contains(&[1_234.0, 1.0]));
        assert_eq!(thinned(&points[..3]), points[..3]);
    }
}
