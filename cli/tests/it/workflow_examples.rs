//! The examples of workflows, run as a user would, and the checker of runs.

use std::path::Path;
use std::process::Command;

use crate::binary::Dev;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// Runs an example to its end; everything that it said.
fn example(name: &str) -> String {
    let output = Command::new("bash")
        .arg(root().join("examples/workflows/run.sh"))
        .arg(name)
        .env("WINDLASS", env!("CARGO_BIN_EXE_windlass"))
        .output()
        .expect("bash is installed");
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8(said).expect("text");
    assert!(output.status.success(), "{said}");
    said
}

fn assert_says(said: &str, texts: &[&str]) {
    for text in texts {
        assert!(said.contains(text), "{text:?} is missing: {said}");
    }
}

#[test]
fn bad_data_never_reaches_the_database() {
    let said = example("etl");
    assert_says(&said, &["harbour 4 111.9", "3 of 5 rows are unusable (60%, at most 10%)"]);
}

#[test]
fn every_file_is_counted_by_a_job_of_its_own() {
    let docs = std::fs::read_dir(root().join("docs")).expect("docs").flatten();
    let is_page = |entry: &std::fs::DirEntry| entry.path().extension().is_some_and(|e| e == "md");
    let pages = docs.filter(is_page).count();
    assert_says(&example("words"), &[&format!("words in {pages} files"), "failed 0, open 0"]);
}

#[test]
fn nothing_is_deleted_without_consent() {
    let texts = ["2 files deleted", "local rejected it: too new", "they are in the backup"];
    assert_says(&example("cleanup"), &texts);
}

#[test]
fn what_was_booked_is_cancelled_when_the_payment_fails() {
    let said = example("trip");
    assert_says(&said, &["ended as compensated", "flight cancelled", "hotel cancelled"]);
    // Last first.
    let undone = |step: &str| said.find(&format!("succeeded compensate:{step}")).expect(step);
    assert!(undone("hotel") < undone("flight"), "{said}");
}

#[test]
fn a_trace_is_replayed_and_proven() {
    assert_says(&example("trace"), &["every task ran once, after its parents", "n1 --> n3"]);
}

fn checked(args: &[&str]) -> (i32, String) {
    let script = root().join("scripts/check_run.py");
    let output = Command::new("python3").arg(script).args(args).output().expect("python3");
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.code().expect("it ended"), String::from_utf8(said).expect("text"))
}

#[test]
fn the_checker_finds_what_is_wrong() {
    let (code, said) = checked(&["--self-test"]);
    assert!(code == 0 && said.contains("ways of tampering are found"), "{said}");
    let data = tempfile::tempdir().expect("a folder");
    let dev = Dev::start(data.path(), &[]);
    let trace = root().join("examples/workflows/halves.trace.json").display().to_string();
    let factor = ["--time-factor", "0.01"];
    let import = ["workflow", "import", "--format", "wfformat", &trace, "--submit"];
    let said = dev.run(&[&import[..], &factor].concat());
    let run = said.out.trim();
    let waited = dev.run(&["workflow", "wait", run]);
    assert_eq!(waited.code, 0, "{waited:?}");
    let against = |trace: &str, factor: &str| {
        checked(&[trace, run, "--url", &dev.url, "--time-factor", factor, "--no-retries"])
    };
    let (code, said) = against(&trace, "0.01");
    assert!(code == 0 && said.contains("4 jobs, 4 attempts"), "{said}");
    // The same run against a trace of other tasks, dependencies and times.
    let other = std::fs::read_to_string(&trace).expect("the trace");
    let other =
        other.replace("[\"fetch_1\"], \"children\": [\"join_4\"]", "[]").replace("join_4", "end_4");
    let path = data.path().join("other.json").display().to_string();
    std::fs::write(&path, other).expect("written");
    let (code, said) = against(&path, "0.1");
    assert_eq!(code, 1, "{said}");
    let violations = [
        "the task 'end_4' has no step with a job",
        "the step 'join_4' is of no task of the trace",
        "needs ['fetch_1'], the trace says []",
        "the task 'half_2' took",
    ];
    assert_says(&said, &violations);
    let (code, said) = against("/no/such/trace", "1");
    assert_eq!(code, 2, "{said}");
}
