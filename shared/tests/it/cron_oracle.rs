//! Goal: cron patterns in six zones over five years are due at exactly the instants that an independent program finds
//! by brute force (tests/cron_oracle.py), under every daylight-saving rule.

use std::io::Write as _;
use std::process::{Command, Stdio};

use windlass_shared::model::schedule::times::{Gap, Repeat, Timing, Zone};
use windlass_shared::model::time::Timestamp;

/// One hour forward and back at 02:00; the same with other dates; half an hour; back for Ramadan, so that the summer's
/// offset is the usual one; at midnight; never, with an odd offset.
const ZONES: [&str; 6] = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "America/Santiago",
    "Asia/Kathmandu",
];

const PATTERNS: [&str; 18] = [
    "40 */2 * * *",
    "30 2 * * *",
    "0 0 * * *",
    "59 23 * * *",
    "0 3 * * *",
    "*/17 1-3 * * *",
    "0,30 0-3/2 * * SUN",
    "15 2 29 2 *",
    "0 12 1,15 * MON",
    "0 0 L * *",
    "45 1 LW * *",
    "30 2 15W * *",
    "10 2 31W * ?",
    "0 2 ? MAR,APR,OCT,NOV SUN#1",
    "0 2 * * 7L",
    "30 1 * 3-4,9-11 6-7",
    "*/10 59 1,2,23 * 4,9,10 SAT,SUN",
    "0 0 31 4 *",
];

// 2024-01-01 to 2029-01-01.
const FROM: i64 = 1_704_067_200;
const TO: i64 = 1_861_920_000;

#[test]
fn due_times_are_those_of_an_independent_program() {
    let folder = tempfile::tempdir().unwrap();
    let mut oracle = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cron_oracle.py"))
        .arg(folder.path())
        .stdin(Stdio::piped())
        .spawn()
        .expect("python3 runs: the oracle is written in it");
    let order = serde_json::json!({"from": FROM, "to": TO, "zones": ZONES, "patterns": PATTERNS});
    oracle.stdin.take().unwrap().write_all(order.to_string().as_bytes()).unwrap();
    // Reckoned meanwhile.
    let mut ours = Vec::new();
    for (p, pattern) in PATTERNS.iter().enumerate() {
        for (z, zone) in ZONES.iter().enumerate() {
            for (gap, gap_word) in [(Gap::Shift, "shift"), (Gap::Skip, "skip")] {
                let repeats = [Repeat::First, Repeat::Last, Repeat::Both];
                for (repeat, word) in repeats.into_iter().zip(["first", "last", "both"]) {
                    let due = due(pattern, zone, gap, repeat);
                    ours.push((format!("{p}-{z}-{gap_word}-{word}"), due));
                }
            }
        }
    }
    assert!(oracle.wait().unwrap().success(), "the oracle failed; it needs the tzdata package");
    let mut total = 0;
    for (name, ours) in ours {
        let bytes = std::fs::read(folder.path().join(&name)).unwrap();
        let theirs: Vec<i64> =
            bytes.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
        let (p, z) = (index(&name, 0), index(&name, 1));
        let differs = ours.iter().zip(&theirs).position(|(a, b)| a != b);
        let at = differs.unwrap_or(ours.len().min(theirs.len()));
        assert!(
            ours == theirs,
            "`{}` in {} ({name}): {} instants, the oracle has {}; first difference: {:?} and {:?}",
            PATTERNS[p],
            ZONES[z],
            ours.len(),
            theirs.len(),
            ours.get(at),
            theirs.get(at),
        );
        total += ours.len();
    }
    assert!(total > 1_000_000, "compared {total} instants");
    println!("compared {total} instants");
}

fn index(name: &str, place: usize) -> usize {
    name.split('-').nth(place).unwrap().parse().unwrap()
}

fn due(pattern: &str, zone: &str, gap: Gap, repeat: Repeat) -> Vec<i64> {
    let timing = Timing::Cron { pattern: pattern.parse().unwrap(), gap, repeat: Some(repeat) };
    let zone = Zone::named(zone).unwrap();
    let (mut at, mut found) = (Timestamp::from_millis(FROM * 1000), Vec::new());
    while let Some(next) = timing.next_after(&zone, at) {
        if next.millis() > TO * 1000 {
            break;
        }
        found.push(next.millis() / 1000);
        at = next;
    }
    found
}
