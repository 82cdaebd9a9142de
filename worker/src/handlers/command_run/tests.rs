//! Real commands: what they get, what they leave, and what is known of them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::error::Cause;

/// Everything that a command may take to end, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn handler(template: &str) -> CommandRun {
    let templates = template::loaded(&format!("[commands.x]\n{template}")).unwrap();
    CommandRun { templates: Arc::new(templates) }
}

/// A shell script as a template. The payload's arguments are `$1` and so on.
fn script(text: &str, more: &str) -> String {
    format!(
        "program = \"/bin/sh\"\nargs = [\"-c\", {}, \"--\"]\nargs_max = 20\n{more}\n",
        json!(text)
    )
}

async fn run_until(template: &str, payload: Value, stop: &CancellationToken) -> Finished {
    let stamp =
        Stamp { job_id: "job-7".into(), attempt: 2, fence: 9, traceparent: None, previous: None };
    let args: Args = serde_json::from_value(payload).unwrap();
    let handler = handler(template);
    let run = tokio::time::timeout(PATIENCE, handler.perform(args, &stamp, stop));
    run.await.expect("the command ends in time").expect("the command starts")
}

async fn run(template: &str, args: &[&str]) -> Finished {
    run_until(template, json!({"command": "x", "args": args}), &CancellationToken::new()).await
}

fn output(finished: &Finished) -> Value {
    serde_json::from_slice(verdict::conclude(finished).unwrap().bytes()).unwrap()
}

fn code(finished: &Finished) -> (String, String) {
    match verdict::conclude(finished).expect_err("the command failed").0 {
        Cause::Failed { error, .. } => {
            assert!(error.retryable);
            (error.code, error.message)
        }
        other => panic!("{other:?}"),
    }
}

/// A text for command lines, to find processes by.
fn mark() -> String {
    format!("mark-{}", uuid::Uuid::new_v4().simple())
}

/// Live processes with the text in their command line.
fn marked(mark: &str) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap();
    let pids =
        processes.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(mark)
    })
    .collect()
}

/// Waits for a number of live processes with the mark.
async fn wait_for(mark: &str, count: std::ops::RangeInclusive<usize>) {
    let deadline = Instant::now() + PATIENCE;
    while !count.contains(&marked(mark).len()) {
        assert!(Instant::now() < deadline, "{} processes, not {count:?}", marked(mark).len());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_environment_has_nothing_of_the_workers() {
    let template =
        "program = \"/usr/bin/env\"\nenv = { MODE = \"fast\" }\nenv_allowed = [\"DEPTH\"]";
    let payload = json!({"command": "x", "env": {"DEPTH": "3"}});
    let finished = run_until(template, payload, &CancellationToken::new()).await;
    let output = output(&finished);
    let mut lines: Vec<&str> = output["stdout"].as_str().unwrap().lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "DEPTH=3",
            "LANG=C.UTF-8",
            "MODE=fast",
            "PATH=/usr/local/bin:/usr/bin:/bin",
            "WINDLASS_ATTEMPT=2",
            "WINDLASS_FENCE=9",
            "WINDLASS_JOB_ID=job-7",
        ]
    );
    assert_eq!((&output["exit_code"], &output["stderr"]), (&0.into(), &"".into()));
}

#[tokio::test]
#[expect(unsafe_code, reason = "an inheritable descriptor is what the test is about")]
async fn no_descriptor_of_the_worker_is_inherited() {
    let file = std::fs::File::open("/proc/self/stat").unwrap();
    // SAFETY: `file` is open; the copy, which exec would not close, is never used.
    let inheritable = unsafe { libc::dup(std::os::fd::AsRawFd::as_raw_fd(&file)) };
    assert!(inheritable > 2);
    let finished = run("program = \"/bin/ls\"\nargs = [\"/proc/self/fd\"]", &[]).await;
    // The fourth is the folder that `ls` reads.
    assert_eq!(output(&finished)["stdout"], "0\n1\n2\n3\n");
}

#[tokio::test]
async fn the_process_is_set_up_as_promised() {
    let text = "ulimit -c; ulimit -n; ulimit -f; grep NoNewPrivs /proc/self/status; cat /proc/self/oom_score_adj; \
        read pid name state parent group session rest < /proc/$$/stat; [ $pid = $session ] && echo leader";
    let finished = run(&script(text, "file_size_max = 5120\nopen_files_max = 64"), &[]).await;
    assert_eq!(output(&finished)["stdout"], "0\n64\n10\nNoNewPrivs:\t1\n500\nleader\n");
}

#[tokio::test]
async fn arguments_reach_the_program_as_they_are() {
    let args = ["; rm -rf x", "$(id)", "`id`", "--output=/etc/x", "-", "a\nb", "", "*", "ü"];
    let finished = run(&script("for a; do printf '<%s>' \"$a\"; done", ""), &args).await;
    let expected: String = args.map(|arg| format!("<{arg}>")).concat();
    assert_eq!(output(&finished)["stdout"], expected);
}

#[tokio::test]
async fn standard_input_is_given_or_empty() {
    let text = "é\n".repeat(200_000);
    let payload = json!({"command": "x", "stdin": text});
    let stop = CancellationToken::new();
    let cat = "program = \"/bin/cat\"\nstdin = true";
    let whole = output(&run_until(cat, payload.clone(), &stop).await);
    assert_eq!((&whole["stdout"], &whole["stdout_truncated"]), (&text.into(), &().into()));
    let unread = run_until("program = \"/bin/true\"\nstdin = true", payload, &stop).await;
    assert_eq!(output(&unread)["exit_code"], 0);
    assert_eq!(output(&run(cat, &[]).await)["stdout"], "");
}

#[tokio::test]
async fn failures_have_their_codes_and_last_words() {
    let (failed, words) = code(&run(&script("echo no; echo why >&2; exit 3", ""), &[]).await);
    assert_eq!(failed, "command_failed");
    assert_eq!(words, "the command ended with exit code 3; stderr ends with: why");
    let (killed, words) = code(&run(&script("kill -9 $$", ""), &[]).await);
    assert_eq!(
        (killed.as_str(), words.as_str()),
        ("command_killed", "the command was killed by signal 9")
    );
    let folder = tempfile::tempdir().unwrap();
    let more = format!("file_size_max = 100\ncwd = {:?}", folder.path());
    let (file, words) = code(&run(&script("exec head -c 9999 /dev/zero > long", &more), &[]).await);
    assert_eq!(std::fs::metadata(folder.path().join("long")).unwrap().len(), 100);
    assert_eq!(
        (file.as_str(), words.as_str()),
        ("command_killed", "the command was killed by signal 25")
    );
}

#[tokio::test]
async fn what_cannot_run_is_said() {
    let refused = async |template: &str, payload: Value| {
        let stamp = Stamp {
            job_id: String::new(),
            attempt: 1,
            fence: 1,
            traceparent: None,
            previous: None,
        };
        let args: Args = serde_json::from_value(payload).unwrap();
        let token = CancellationToken::new();
        match handler(template).perform(args, &stamp, &token).await.expect_err("refused").0 {
            Cause::Failed { error, .. } => (error.code, error.retryable),
            other => panic!("{other:?}"),
        }
    };
    let missing = refused("program = \"/nonexistent/x\"", json!({"command": "x"})).await;
    assert_eq!(missing, ("command_not_started".into(), true));
    let folder =
        refused("program = \"/bin/true\"\ncwd = \"/nonexistent\"", json!({"command": "x"})).await;
    assert_eq!(folder, ("command_not_started".into(), true));
    let unknown = refused("program = \"/bin/true\"", json!({"command": "y"})).await;
    assert_eq!(unknown, ("command_not_registered".into(), false));
    let many = vec!["a".repeat(100 << 10); 100];
    let long =
        refused("program = \"/bin/true\"\nargs_max = 100", json!({"command": "x", "args": many}))
            .await;
    assert_eq!(long, ("invalid_payload".into(), false));
    let none = CommandRun::new(None).unwrap();
    assert!(none.templates.is_empty());
}

/// Double fork, a session and an environment of its own, SIGTERM ignored, the streams kept open.
const ESCAPE: &str = "(trap '' TERM HUP; env -i setsid sh -c 'trap \"\" TERM HUP; sleep 1000; sleep 1001' \"$1\" &) ; \
    (setsid setsid sleep 1002.$2 &); trap '' TERM; sleep 1003; sleep 1004";

#[tokio::test]
async fn nobody_survives_the_limit() {
    let (mark, number) = (mark(), std::process::id().to_string());
    let begun = Instant::now();
    let args = [mark.as_str(), number.as_str()];
    let template = script(ESCAPE, "timeout = \"500ms\"");
    let running = run(&template, &args);
    let (finished, ()) = tokio::join!(running, wait_for(&mark, 2..=9));
    assert_eq!(marked(&mark), [0; 0]);
    assert_eq!(marked(&format!("1002.{number}")), [0; 0]);
    assert_eq!(finished.why, Why::TimedOut(Duration::from_millis(500)));
    assert_eq!(code(&finished).0, "timeout");
    // The limit and the grace; the rest is for a busy machine.
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_command_that_hears_sigterm_may_end_by_itself() {
    let text =
        "exec 2>/dev/null; trap 'echo bye; exit 0' TERM; echo begun; while :; do sleep 0.05; done";
    let finished = run(&script(text, "timeout = \"300ms\""), &[]).await;
    let (code, message) = code(&finished);
    assert_eq!(code, "timeout");
    assert_eq!(message, "the command was over its limit of 300ms; stdout ends with: begun\nbye");
}

#[tokio::test]
async fn a_cancelled_command_is_gone_with_its_tree() {
    let (mark, stop) = (mark(), CancellationToken::new());
    let payload = json!({"command": "x", "args": [mark, "7"]});
    let template = script(ESCAPE, "");
    let running = run_until(&template, payload, &stop);
    let (finished, ()) = tokio::join!(running, async {
        wait_for(&mark, 2..=9).await;
        stop.cancel();
    });
    assert_eq!(finished.why, Why::Cancelled);
    assert_eq!(marked(&mark), [0; 0]);
    assert!(matches!(verdict::conclude(&finished).unwrap_err().0, Cause::Cancelled));
}

#[tokio::test]
async fn what_a_command_leaves_behind_is_killed_when_it_ends() {
    let (mark, begun) = (mark(), Instant::now());
    let text = "setsid sh -c 'trap \"\" TERM; sleep 1000; sleep 1001' $1 & sh -c 'sleep 1002; sleep 1003' $1 & echo done";
    let finished = run(&script(text, ""), &[&mark]).await;
    assert_eq!(output(&finished)["stdout"], "done\n");
    assert_eq!(marked(&mark), [0; 0]);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_dropped_run_takes_its_tree_along() {
    let mark = mark();
    let template = script(ESCAPE, "");
    {
        let args = [mark.as_str(), "8"];
        let mut running = Box::pin(run(&template, &args));
        tokio::select! {
            _ = &mut running => panic!("it does not end by itself"),
            () = wait_for(&mark, 2..=9) => {}
        }
    }
    wait_for(&mark, 0..=0).await;
}

/// The test is its own victim: started again with the variable set, it runs a command until it is killed.
#[tokio::test]
async fn commands_die_with_their_worker() {
    const VICTIM: &str = "WINDLASS_TEST_VICTIM";
    if let Ok(mark) = std::env::var(VICTIM) {
        run_until(
            &script(ESCAPE, ""),
            json!({"command": "x", "args": [mark, "9"]}),
            &CancellationToken::new(),
        )
        .await;
    }
    let mark = mark();
    let this = "handlers::command_run::tests::commands_die_with_their_worker";
    let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", this])
        .env(VICTIM, &mark)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for(&mark, 2..=9).await;
    victim.kill().unwrap();
    victim.wait().unwrap();
    wait_for(&mark, 0..=0).await;
}

#[tokio::test]
async fn a_flood_of_output_is_drained_in_little_memory() {
    let before = tree::own_peak_bytes();
    let flood = "program = \"/usr/bin/head\"\nargs = [\"-c\", \"1073741824\", \"/dev/zero\"]\noutput_max = \"64KiB\"";
    let finished = run(flood, &[]).await;
    let output = output(&finished);
    assert_eq!(output["stdout_truncated"], true);
    let text = output["stdout"].as_str().unwrap();
    assert!(
        text.contains("\n[1073676288 bytes left out]\n") && text.len() < 66_000,
        "{} bytes",
        text.len()
    );
    let grown = tree::own_peak_bytes() - before;
    assert!(grown < 64 << 20, "{grown} bytes");
}

#[tokio::test]
async fn a_tree_over_its_memory_is_killed() {
    let mark = mark();
    // `tail` keeps the last lines, and there is but one.
    let text = "setsid sh -c 'tail /dev/zero; :' $1; :";
    let finished = run(&script(text, "memory_max = \"96MiB\""), &[&mark]).await;
    let (code, message) = code(&finished);
    assert_eq!(code, "out_of_memory", "{message}");
    assert!(finished.memory_peak_bytes.unwrap() > 96 << 20);
    assert_eq!(marked(&mark), [0; 0]);
}

#[tokio::test]
async fn a_tree_with_too_many_processes_is_killed() {
    let mark = mark();
    let text = "for n in 1 2 3 4 5 6 7 8 9; do setsid sh -c 'sleep 1000; :' $1 & done; wait";
    let finished = run(&script(text, "processes_max = 5"), &[&mark]).await;
    assert_eq!(code(&finished).0, "too_many_processes");
    assert_eq!(marked(&mark), [0; 0]);
}

#[tokio::test]
async fn processor_time_is_that_of_the_whole_tree() {
    // The second shell is an orphan that the first does not wait for. Each says what it used.
    let work = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; times";
    let text = format!("(sh -c '{work}' &) ; {work}; sleep 0.3");
    let finished = run(&script(&text, ""), &[]).await;
    let output = output(&finished);
    let times = output["stdout"].as_str().unwrap();
    let seconds: f64 = times
        .split_whitespace()
        .map(|time| {
            time.strip_prefix("0m").unwrap().strip_suffix('s').unwrap().parse::<f64>().unwrap()
        })
        .sum();
    let measured = finished.cpu.as_secs_f64();
    assert!(seconds > 0.05, "{times}");
    assert!((0.5..=1.5).contains(&(measured / seconds)), "{measured} s, not {seconds} s");
}

#[tokio::test]
async fn memory_is_the_commands_and_not_the_workers() {
    // The command's process begins as a copy of this one, which holds much.
    let ballast = vec![1u8; 256 << 20];
    let small =
        run("program = \"/bin/sleep\"\nargs = [\"0.2\"]", &[]).await.memory_peak_bytes.unwrap();
    assert!((100 << 10..32 << 20).contains(&small), "{small}");
    // Held for longer than it takes to look.
    let text = "{ head -c 100000000 /dev/zero; sleep 0.3; } | tail -n 1 | wc -c";
    let large = run(&script(text, "memory_max = \"1GiB\""), &[]).await.memory_peak_bytes.unwrap();
    assert!((90 << 20..512 << 20).contains(&large), "{large}");
    drop(ballast);
}

#[tokio::test]
async fn many_commands_run_side_by_side_and_keep_apart() {
    let runs = (0..20).map(|n| async move {
        let n = n.to_string();
        let finished = run(&script("sleep 0.1; echo $1; [ $(($1 % 2)) = 0 ]", ""), &[&n]).await;
        (n, finished)
    });
    for (n, finished) in futures::future::join_all(runs).await {
        assert_eq!(finished.stdout.end(10), n);
        let even = n.parse::<u32>().unwrap().is_multiple_of(2);
        assert_eq!(verdict::conclude(&finished).is_ok(), even);
    }
}
