//! The table: one row per fault, one column per subject.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::Peer;
use super::run::{DRAIN_MAX, Outcome};
use super::trial::{NOT_RUN, Trial};

/// Outcomes, and with what they were measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Sheet {
    /// Programs and their versions.
    pub versions: BTreeMap<String, String>,
    /// In the order in which they were measured.
    pub outcomes: Vec<Outcome>,
}

impl Sheet {
    /// Reads sheets that were measured in parts. Of two measurements of the same, the later one counts.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn read(paths: &[impl AsRef<Path>]) -> anyhow::Result<Self> {
        let mut sheet = Self::default();
        for path in paths {
            let path = path.as_ref();
            let text = std::fs::read(path).with_context(|| path.display().to_string())?;
            let part: Self =
                serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
            sheet.versions.extend(part.versions);
            for outcome in part.outcomes {
                sheet.add(outcome);
            }
        }
        Ok(sheet)
    }

    /// Adds an outcome in the place of an earlier one of the same.
    pub fn add(&mut self, outcome: Outcome) {
        let same = |other: &Outcome| {
            let name =
                |o: &Outcome| (o.id.clone(), o.peer, o.variant.clone(), o.form.clone(), o.seed);
            name(other) == name(&outcome)
        };
        self.outcomes.retain(|other| !same(other));
        self.versions.extend(outcome.stores.clone());
        self.outcomes.push(outcome);
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }

    /// The table in Markdown, with versions above it and what was not run below it.
    pub fn markdown(&self) -> String {
        let versions: Vec<String> =
            self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let mut text = format!("{}.\n", versions.join(", "));
        let stall = self.outcomes.iter().map(|outcome| outcome.machine_stall_s).fold(0.0, f64::max);
        let waited = DRAIN_MAX.as_secs();
        let _ = writeln!(
            text,
            "Jobs that were not done are waited for {waited} s after the load. Longest stall of the machine: {stall:.2} s.\n"
        );
        text.push_str("| | fault |");
        Peer::ALL.iter().for_each(|peer| {
            let _ = write!(text, " {} |", peer.name());
        });
        text.push_str("\n|---|---|---|---|---|\n");
        for trial in Trial::ALL {
            if self.outcomes.iter().any(|outcome| outcome.id == trial.id()) {
                text.push_str(&self.row(trial));
            }
        }
        text.push_str("\nNot run for the peers:\n\n");
        for (id, why) in NOT_RUN {
            let _ = writeln!(text, "- {id}: {why}.");
        }
        text
    }

    fn row(&self, trial: Trial) -> String {
        let mut row = format!("| {} | {} |", trial.id(), trial.title());
        for peer in Peer::ALL {
            let mine = self.outcomes.iter().filter(|o| o.id == trial.id() && o.peer == peer);
            let cells: Vec<String> = mine.map(|outcome| cell(trial, outcome)).collect();
            let cell = match trial.variants(peer) {
                Err(why) => format!("n/a: {why}"),
                Ok(_) if cells.is_empty() => "not run".to_owned(),
                Ok(_) => cells.join("<br>"),
            };
            let _ = write!(row, " {cell} |");
        }
        row.push('\n');
        row
    }
}

/// One outcome in words.
pub fn cell(trial: Trial, outcome: &Outcome) -> String {
    let measured = &outcome.measured;
    let mut parts = vec![fate(outcome)];
    parts.push(format!("extra {}", measured.extra));
    if measured.at_once > 0 {
        parts.push(format!("{} twice at one time", measured.at_once));
    }
    parts.extend(figures(trial, outcome));
    if measured.not_accepted > 0 {
        parts.push(format!("{} never accepted", measured.not_accepted));
    }
    if measured.ended > 0 {
        parts.push(format!("{} processes ended by themselves", measured.ended));
    }
    if let Some(done) = outcome.by_hand {
        let word = if done { "all run" } else { "still not all run" };
        parts.push(format!("unlocked by hand: {word}"));
    }
    let mut setting = Vec::new();
    if !outcome.variant.is_empty() {
        setting.push(format!("`{}`", outcome.variant));
    }
    if outcome.form != "short" || outcome.seed != 1 {
        setting.push(format!("{}, seed {}", outcome.form, outcome.seed));
    }
    let lead = if setting.is_empty() { String::new() } else { format!("{}: ", setting.join(", ")) };
    lead + &parts.join(", ")
}

/// Whether what was acknowledged was done.
fn fate(outcome: &Outcome) -> String {
    let (accepted, undone) = (outcome.measured.accepted, outcome.measured.undone.len());
    if undone == 0 {
        return format!("lost 0 of {accepted}");
    }
    let states: Vec<String> =
        outcome.states.iter().map(|(state, n)| format!("{n} {state}")).collect();
    format!("**not done {undone} of {accepted}** ({})", states.join(", "))
}

/// What the fault is about.
fn figures(trial: Trial, outcome: &Outcome) -> Vec<String> {
    let measured = &outcome.measured;
    let after = |what: &str, seconds: Option<f64>| match seconds {
        Some(seconds) => format!("{what} after {seconds:.1} s"),
        None => format!("{what}: never"),
    };
    let first = || after("first start", measured.first_start_s);
    let answers = || format!("longest gap in answers {:.1} s", measured.gap_accepted_s);
    match trial {
        Trial::E1 | Trial::E2 => {
            let rerun = match (measured.rerun_s, measured.never_rerun) {
                (Some(most), _) => format!("rerun ≤ {most:.1} s"),
                (None, _) => "never rerun".to_owned(),
            };
            vec![format!("cut short {}", measured.cut_short), rerun]
        }
        Trial::E4 => vec![first(), answers()],
        Trial::E5 | Trial::E7 => vec![after("drained", outcome.drained_s)],
        Trial::E8 | Trial::E9 => Vec::new(),
        Trial::E13 | Trial::E18 => vec![
            format!("meanwhile {} accepted", measured.accepted_meanwhile),
            format!("{} done", measured.done_meanwhile),
            first(),
        ],
        Trial::E17 => vec![answers(), first()],
        Trial::E25 => {
            let (taken, refused) = (measured.other_bodies, measured.refused);
            vec![format!("other bodies: {taken} taken, {refused} refused")]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::measure::Measured;
    use super::*;

    fn outcome(id: &str, peer: Peer, undone: usize) -> Outcome {
        let undone = vec!["k".to_owned(); undone];
        Outcome {
            id: id.into(),
            peer,
            variant: String::new(),
            form: "short".into(),
            seed: 1,
            states: BTreeMap::from([("gone".to_owned(), undone.len())]),
            measured: Measured { accepted: 10, undone, ..Measured::default() },
            drained_s: Some(1.0),
            by_hand: None,
            notes: Vec::new(),
            stores: BTreeMap::from([("Redis".to_owned(), "7".to_owned())]),
            machine_stall_s: 0.1,
        }
    }

    #[test]
    fn a_row_has_a_cell_for_each_and_says_what_is_lost() {
        let mut sheet = Sheet::default();
        sheet.add(outcome("E5", Peer::Windlass, 0));
        sheet.add(outcome("E5", Peer::Bullmq, 4));
        let text = sheet.markdown();
        assert!(text.starts_with("Redis 7."), "{text}");
        let row = text.lines().find(|line| line.starts_with("| E5")).unwrap();
        assert_eq!(row.matches(" | ").count(), 4, "{row}");
        assert!(row.contains("| lost 0 of 10, extra 0"), "{row}");
        assert!(row.contains("**not done 4 of 10** (4 gone)"), "{row}");
        assert!(row.contains("| n/a: has no Redis |"), "{row}");
    }

    #[test]
    fn the_later_measurement_counts() {
        let mut sheet = Sheet::default();
        sheet.add(outcome("E1", Peer::Bullmq, 4));
        sheet.add(outcome("E1", Peer::Bullmq, 0));
        assert_eq!(sheet.outcomes.len(), 1);
        assert!(sheet.outcomes[0].measured.undone.is_empty());
    }
}
