//! The SQLite ledger in a process that is killed, and on a disk that fails.
//!
//! Both need a process of their own: the test binary starts itself again and runs one of the `child_` tests,
//! which do nothing unless [`CHILD_URL`] is set.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use windlass_shared::config::LedgerSettings;
use windlass_shared::ledger::{Ledger, LedgerError};
use windlass_shared::model::id::JobId;

use crate::sqlite_scene as scene;

/// Tells a child which ledger to open.
const CHILD_URL: &str = "WINDLASS_TEST_SQLITE_URL";

struct Site {
    settings: LedgerSettings,
    url: String,
    _folder: tempfile::TempDir,
}

async fn site() -> Site {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
    let settings = LedgerSettings::new(url.clone());
    Ledger::migrate(&settings).await.unwrap();
    Site { settings, url, _folder: folder }
}

/// Starts `test` of this binary as a child; what it writes to stdout is in the reader, past libtest's lines.
fn spawn(test: &str, url: &str) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("sqlite_faults::{test}"), "--nocapture"])
        .env(CHILD_URL, url)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    (child, stdout)
}

/// A line for the parent, in one write.
fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(format!("{line}\n").as_bytes()).unwrap();
    stdout.flush().unwrap();
}

fn words<'l>(line: &'l str, word: &str) -> Option<&'l str> {
    line.trim_end().rsplit_once(&format!("{word} ")).map(|(_, rest)| rest)
}

/// Says every id once its commit was answered, for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_submits_until_killed() {
    let Ok(url) = std::env::var(CHILD_URL) else { return };
    let ledger = Ledger::open(&LedgerSettings::new(url)).await.unwrap();
    let client = |n: usize| {
        let ledger = &ledger;
        async move {
            // The parent kills long before; the bound is for a parent that died.
            for _ in 0..100_000 {
                let ids = scene::accept(ledger, scene::new_jobs("a", n)).await;
                for id in ids {
                    say(&format!("accepted {id}"));
                }
            }
        }
    };
    tokio::join!(client(1), client(2), client(7), client(40));
}

/// Goal: what was answered is there, whenever the process dies; and its lock is gone. Method: kill -9 after
/// some thousand answers, then read what the child still said before it died.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_accepted_is_lost_when_the_process_is_killed() {
    let site = site().await;
    for answers in [1, 700, 2_500] {
        let (mut child, stdout) = spawn("child_submits_until_killed", &site.url);
        let mut accepted: Vec<JobId> = Vec::new();
        for line in stdout.lines() {
            let line = line.unwrap();
            if let Some(id) = words(&line, "accepted") {
                // The last line may be cut off by the kill.
                accepted.extend(id.parse::<JobId>());
            }
            if accepted.len() == answers {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(accepted.len() >= answers, "{}", accepted.len());
        let ledger = Ledger::open(&site.settings).await.unwrap();
        for ids in accepted.chunks(1_000) {
            assert_eq!(ledger.jobs(ids).await.unwrap().len(), ids.len());
        }
        scene::accept(&ledger, scene::new_jobs("a", 1)).await;
        ledger.close().await;
    }
}

/// Submits until the disk refuses, lifts what made it refuse, and goes on submitting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_writes_until_the_disk_fails() {
    let Ok(url) = std::env::var(CHILD_URL) else { return };
    let ledger = Ledger::open(&LedgerSettings::new(url)).await.unwrap();
    limit_files(1 << 20);
    let mut failed = None;
    for _ in 0..1_000 {
        match scene::submit(&ledger, scene::new_jobs("a", 50)).await {
            Ok(outcome) => {
                for result in scene::done(Ok(outcome)) {
                    assert!(result.is_ok());
                }
                say("accepted 50");
            }
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    say(&format!("failed {:?}", kind(&failed.expect("files were limited"))));
    limit_files(libc::RLIM_INFINITY);
    for _ in 0..3 {
        let error = scene::submit(&ledger, scene::new_jobs("a", 1)).await.unwrap_err();
        say(&format!("then {:?}", kind(&error)));
    }
    say(&format!("now {:?}", ledger.now().await.map_err(|error| kind(&error)).err()));
    ledger.close().await;
}

fn kind(error: &LedgerError) -> &'static str {
    match error {
        LedgerError::Unavailable(_) => "unavailable",
        LedgerError::OutcomeUnknown => "unknown",
        _ => "other",
    }
}

/// Lets this process write no file beyond `bytes`: a write across it fails with an I/O error, as that of a
/// broken disk does.
#[expect(unsafe_code, reason = "the standard library sets no limits and ignores no signals")]
fn limit_files(bytes: libc::rlim_t) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limit` outlives the call; SIG_IGN is a valid disposition of SIGXFSZ.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit), 0);
    }
}

/// Goal: after an I/O error nothing is accepted any more, although the disk would take it (I30). A restart
/// finds all that was accepted, and accepts again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_io_error_ends_acceptance_until_a_restart() {
    let site = site().await;
    let (mut child, stdout) = spawn("child_writes_until_the_disk_fails", &site.url);
    let lines: Vec<String> = stdout.lines().map(Result::unwrap).collect();
    let status = child.wait().unwrap();
    assert!(status.success(), "{lines:#?}");
    let all = |word: &str| -> Vec<&str> { lines.iter().filter_map(|l| words(l, word)).collect() };
    let accepted = 50 * all("accepted").len();
    assert!(accepted > 0, "{lines:#?}");
    // Whether the commit that failed will be found is not known.
    assert!(matches!(all("failed")[..], ["\"unknown\"" | "\"unavailable\""]), "{lines:#?}");
    assert_eq!(all("then"), ["\"unavailable\""; 3]);
    assert_eq!(all("now"), ["Some(\"unavailable\")"]);
    let ledger = Ledger::open(&site.settings).await.unwrap();
    let mut found = 0;
    let (namespace, filter, mut before) = ("a".parse().unwrap(), Default::default(), None);
    for _ in 0..1_000 {
        let page = ledger.list(&namespace, &filter, before, 500).await.unwrap();
        found += page.jobs.len();
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert!(found == accepted || found == accepted + 50, "{found} of {accepted}");
    scene::accept(&ledger, scene::new_jobs("a", 1)).await;
    ledger.close().await;
}
