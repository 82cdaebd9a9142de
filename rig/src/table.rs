//! Reports of several seeds as one table in Markdown: of every figure the worst.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context as _;

use crate::figure::{Figure, Limit};
use crate::report::Report;

/// Figures of every run that are there for whoever reads one run.
const LEFT_OUT: [&str; 6] = [
    "accepted",
    "jobs",
    "outcomes unknown at first",
    "extra executions",
    "jobs/s before",
    "longest stall of the machine",
];

/// Reads what `run --out` wrote.
///
/// # Errors
/// A file cannot be read.
pub fn read(files: &[impl AsRef<Path>]) -> anyhow::Result<Vec<Report>> {
    let mut reports = Vec::new();
    for file in files {
        let name = file.as_ref().display();
        let text = std::fs::read(file).with_context(|| name.to_string())?;
        let more: Vec<Report> = serde_json::from_slice(&text).with_context(|| name.to_string())?;
        reports.extend(more);
    }
    Ok(reports)
}

/// A row for each experiment and form, in the order in which these come.
pub fn of(reports: &[Report]) -> String {
    let mut rows = vec![
        "| id | form | passed | seeds | jobs | of every figure the worst (limits in brackets) |"
            .to_owned(),
        "|---|---|---|---|---|---|".to_owned(),
    ];
    let mut done = BTreeSet::new();
    for report in reports {
        let name = (report.id.as_str(), report.form.word());
        if done.insert(name) {
            let same: Vec<&Report> =
                reports.iter().filter(|r| (r.id.as_str(), r.form.word()) == name).collect();
            rows.push(row(&same));
        }
    }
    rows.join("\n")
}

fn row(reports: &[&Report]) -> String {
    let (first, runs) = (reports[0], reports.len());
    let passed = reports.iter().filter(|report| report.passed).count();
    let seeds: BTreeSet<u64> = reports.iter().map(|report| report.seed).collect();
    let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
    let jobs: u64 = reports.iter().map(|report| report.verdict.jobs).sum();
    let figures = first.figures.iter().filter(|f| !LEFT_OUT.contains(&f.name.as_str()));
    let worst: Vec<String> = figures.map(|figure| worst(figure, reports)).collect();
    let (id, form, seeds, worst) =
        (&first.id, first.form.word(), seeds.join(", "), worst.join(", "));
    format!("| {id} | {form} | {passed} of {runs} | {seeds} | {jobs} | {worst} |")
}

/// The worst of a figure with a limit, and both ends of one without. What was not measured is worse than anything.
fn worst(figure: &Figure, reports: &[&Report]) -> String {
    let all = reports.iter().map(|report| {
        let found = report.figures.iter().find(|other| other.name == figure.name);
        found.cloned().unwrap_or_else(|| Figure { value: None, ..figure.clone() })
    });
    let mut all: Vec<Figure> = all.collect();
    // `None` is less than any number, too.
    all.sort_by(|a, b| a.value.partial_cmp(&b.value).unwrap_or(std::cmp::Ordering::Equal));
    let (Some(least), Some(most)) = (all.first(), all.last()) else { return String::new() };
    match figure.limit {
        _ if least.value.is_none() => least.text(),
        Some(Limit::AtMost(_)) => most.text(),
        Some(Limit::AtLeast(_)) => least.text(),
        None if least.value == most.value => least.text(),
        None => {
            let from = least.text();
            let to = most.text();
            let to = to.strip_prefix(&figure.name).unwrap_or(&to);
            format!("{from} to{to}")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::check::Verdict;
    use crate::experiments::Form;

    fn report(seed: u64, gap: Option<f64>, told: f64) -> Report {
        let figures = vec![
            Figure::at_most("gap", gap, "s", 5.0),
            Figure::at_least("done", told, "", 1.0),
            Figure::told("told", told, ""),
        ];
        let verdict = Verdict { jobs: 10, ..Verdict::default() };
        let took = Duration::from_secs(1);
        Report::new(("E1", "", "", Form::Short, seed), verdict, figures, Vec::new(), took)
    }

    #[test]
    fn of_every_figure_the_worst_is_shown() {
        let table = of(&[report(1, Some(2.0), 3.0), report(2, Some(6.0), 7.0)]);
        let row = table.lines().nth(2).expect("a row");
        let worst = "gap 6 s (≤ 5) ✗, done 3 (≥ 1), told 3 to 7";
        assert_eq!(row, format!("| E1 | short | 1 of 2 | 1, 2 | 20 | {worst} |"));
        let table = of(&[report(1, Some(2.0), 3.0), report(2, None, 3.0)]);
        assert!(table.contains("gap not measured s (≤ 5) ✗"), "{table}");
    }
}
