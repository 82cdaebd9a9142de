//! `command.run`: what a payload can and cannot do, and that nothing of a command is left behind.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tempfile::TempDir;
use windlass_shared::engine::Ended;
use windlass_shared::model::id::JobId;

use crate::fixture::{Ending, PATIENCE, Rig, Running, limited, spec};

/// A worker with templates; `%DIR%` stands for a folder that only this test has.
async fn rig(templates: &str) -> (Rig, Running, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("commands.toml");
    std::fs::write(&file, templates.replace("%DIR%", dir.path().to_str().unwrap())).unwrap();
    let mut rig = Rig::new().await;
    rig.settings.commands_file = Some(file);
    let worker = rig.start(|b| b);
    (rig, worker, dir)
}

fn sh(name: &str, script: &str, more: &str) -> String {
    format!(
        "[commands.{name}]\nprogram = \"/bin/sh\"\nargs = [\"-c\", '''{script}''', \"--\"]\n{more}\n"
    )
}

async fn run(rig: &mut Rig, payload: Json) -> Ending {
    rig.run("command.run", payload, spec(1)).await
}

/// Processes that have this text in their environment.
fn processes_with(marker: &str) -> Vec<PathBuf> {
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    all.filter(|path| {
        let environment = std::fs::read(path.join("environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains(marker)
    })
    .collect()
}

#[tokio::test]
async fn arguments_are_passed_as_they_are() {
    let hostile = ["; rm -rf x", "$(id)", "`id`", "--output=/etc/x", "-", "a\nb", "*", ""];
    let (mut rig, worker, _dir) = rig(&sh(
        "args",
        r#"for a in "$@"; do printf '[%s]' "$a"; done; sleep 0.5"#,
        "args_max = 8",
    ))
    .await;
    let end = run(&mut rig, json!({"command": "args", "args": hostile})).await;
    assert_eq!(end.ended, Ended::Succeeded, "{end:?}");
    let want: String = hostile.iter().map(|arg| format!("[{arg}]")).collect();
    assert_eq!(end.output(), json!({"exit_code": 0, "stdout": want, "stderr": ""}));
    let usage = end.detail.head.usage.unwrap();
    assert!(
        usage["memory_peak_bytes"].as_u64().unwrap() > 10_000 && usage["cpu_ms"].is_u64(),
        "{usage}"
    );
    worker.stop().await;
}

#[tokio::test]
async fn a_payload_gets_no_further_than_its_template_lets_it() {
    let templates =
        sh("plain", "true", "env = { FIXED = \"1\" }\nenv_allowed = [\"OPEN\"]\nargs_max = 1");
    let (mut rig, worker, _dir) = rig(&templates).await;
    for (payload, code) in [
        (json!({"command": "other"}), "command_not_registered"),
        (json!({"command": "plain", "args": ["a", "b"]}), "invalid_payload"),
        (json!({"command": "plain", "args": ["a\u{0}b"]}), "invalid_payload"),
        (json!({"command": "plain", "args": ["x".repeat(200_000)]}), "invalid_payload"),
        (json!({"command": "plain", "stdin": "x"}), "invalid_payload"),
        (json!({"command": "plain", "env": {"FIXED": "2"}}), "invalid_payload"),
        (json!({"command": "plain", "env": {"LD_PRELOAD": "x"}}), "invalid_payload"),
        (json!({"command": "plain", "env": {"PATH": "/tmp"}}), "invalid_payload"),
        (json!({"command": "plain", "program": "/bin/ls"}), "invalid_payload"),
        (json!({"command": "plain", "env": {"OPEN": "2"}, "args": ["a"]}), ""),
    ] {
        let end = rig.run("command.run", payload.clone(), spec(5)).await;
        let want = if code.is_empty() { Ended::Succeeded } else { Ended::Dead };
        assert_eq!((end.ended, end.code(), end.attempt), (want, code, 1), "{payload}");
    }
    worker.stop().await;
    let mut rig = Rig::new().await;
    let worker = rig.start(|b| b);
    let end = run(&mut rig, json!({"command": "plain"})).await;
    assert_eq!((end.ended, end.code()), (Ended::Dead, "command_not_registered"));
    worker.stop().await;
}

#[tokio::test]
async fn a_command_inherits_neither_environment_nor_files() {
    let script =
        "/usr/bin/env; for f in /proc/self/fd/*; do echo \"fd ${f##*/}\"; done; ulimit -c; pwd";
    let (mut rig, worker, dir) =
        rig(&sh("look", script, "cwd = \"%DIR%\"\nenv = { MINE = \"yes\" }")).await;
    // Left open to exec on purpose: the command must not get it.
    let file = std::fs::File::open(dir.path()).unwrap();
    let leaky = nix_dup_without_cloexec(&file);
    let end = run(&mut rig, json!({"command": "look"})).await;
    let output = end.output();
    let stdout = output["stdout"].as_str().unwrap();
    let names: Vec<&str> =
        stdout.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    for name in &names {
        let ours = name.starts_with("WINDLASS_")
            || ["PATH", "LANG", "MINE", "TRACEPARENT", "PWD", "SHLVL", "_", "OLDPWD"]
                .contains(name);
        assert!(ours, "{name} is inherited");
    }
    assert!(
        ["WINDLASS_JOB_ID", "WINDLASS_FENCE", "WINDLASS_ATTEMPT", "MINE"]
            .iter()
            .all(|n| names.contains(n)),
        "{names:?}"
    );
    let fds: Vec<&str> = stdout.lines().filter_map(|line| line.strip_prefix("fd ")).collect();
    // The shell itself opens one more to list them.
    assert!(fds.len() <= 4 && ["0", "1", "2"].iter().all(|fd| fds.contains(fd)), "{fds:?}");
    assert!(!fds.contains(&leaky.to_string().as_str()), "{fds:?}");
    let last: Vec<&str> = stdout.lines().rev().take(2).collect();
    assert_eq!(last, [dir.path().to_str().unwrap(), "0"]);
    worker.stop().await;
}

/// A descriptor that exec would pass on, made by a shell's redirection rules: none in the library does.
fn nix_dup_without_cloexec(file: &std::fs::File) -> i32 {
    use std::os::fd::AsRawFd;
    #[expect(unsafe_code, reason = "the standard library only makes descriptors that exec closes")]
    // SAFETY: the descriptor is open for the call; the new one is never closed, which a test may do.
    let fd = unsafe { libc::dup(file.as_raw_fd()) };
    assert!(fd > 2);
    fd
}

#[tokio::test]
async fn exit_codes_signals_and_faults_are_told_apart() {
    let templates = [
        sh("code", "echo out; echo because >&2; exit 3", ""),
        sh("signal", "kill -SEGV $$", ""),
        "[commands.missing]\nprogram = \"/nonexistent/program\"\n".to_owned(),
        "[commands.folder]\nprogram = \"/tmp\"\n".to_owned(),
        sh(
            "hog",
            "x=$(head -c 60000000 /dev/zero | tr '\\0' x); sleep 60",
            "memory_max = \"20MiB\"",
        ),
        sh("slow", "sleep 60", "timeout = \"200ms\""),
        sh("files", "head -c 100000 /dev/zero > %DIR%/big", "file_size_max = \"4KiB\""),
    ]
    .concat();
    let (mut rig, worker, dir) = rig(&templates).await;
    for (command, code, part) in [
        ("code", "command_failed", "exit code 3; stderr ends with: because"),
        ("signal", "command_killed", "signal 11"),
        ("missing", "command_not_started", "No such file"),
        ("folder", "command_not_started", "ermission denied"),
        ("hog", "out_of_memory", "bytes of memory"),
        ("slow", "timeout", "limit of 200ms"),
        ("files", "command_failed", ""),
    ] {
        let end = run(&mut rig, json!({"command": command})).await;
        assert_eq!((end.ended, end.code()), (Ended::Dead, code), "{end:?}");
        assert!(end.message().contains(part), "{}", end.message());
    }
    assert_eq!(std::fs::metadata(dir.path().join("big")).unwrap().len(), 4096);
    worker.stop().await;
}

#[tokio::test]
async fn standard_input_is_fed_and_may_be_left_unread() {
    let templates = [
        sh("cat", "cat", "stdin = true\noutput_max = \"1MiB\""),
        sh("deaf", "echo ok", "stdin = true"),
    ]
    .concat();
    let (mut rig, worker, _dir) = rig(&templates).await;
    let text = "line\n".repeat(50_000);
    let end = run(&mut rig, json!({"command": "cat", "stdin": "hello"})).await;
    assert_eq!(end.output()["stdout"], "hello");
    let end = run(&mut rig, json!({"command": "deaf", "stdin": text})).await;
    assert_eq!(end.output()["stdout"], "ok\n");
    worker.stop().await;
}

#[tokio::test]
async fn a_flood_is_cut_and_does_not_fill_the_worker() {
    let script = "echo first; head -c 150000000 /dev/zero | tr '\\0' y; echo; echo last";
    let (mut rig, worker, _dir) = rig(&sh("flood", script, "output_max = 10000")).await;
    let before = resident_kib();
    let end = run(&mut rig, json!({"command": "flood"})).await;
    let grown = resident_kib().saturating_sub(before);
    let output = end.output();
    let stdout = output["stdout"].as_str().unwrap();
    assert!(
        stdout.starts_with("first\nyyy") && stdout.ends_with("yyy\nlast\n"),
        "{} bytes",
        stdout.len()
    );
    assert!(stdout.len() < 11_000 && stdout.contains("bytes left out"), "{} bytes", stdout.len());
    assert!(grown < 30_000, "the worker has grown by {grown} KiB");
    worker.stop().await;
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Leaves behind, in all ways that are known: a child in the background, one in a session of its own, one
/// whose parents have ended, one without our environment; all of them deaf to SIGTERM and writing without
/// an end. Says when the last of them runs.
const ESCAPE: &str = r#"
    trap '' TERM
    flood() { trap '' TERM; touch %DIR%/$1; while :; do echo flooding; done; }
    flood a &
    setsid sh -c 'trap "" TERM; touch %DIR%/b; while :; do echo flooding; done' &
    (setsid sh -c '(trap "" TERM; touch %DIR%/c; while :; do sleep 1; done) &' &)
    (setsid env -i sh -c '(trap "" TERM; touch %DIR%/d; exec sleep %SLEEP%) &' &)
    until [ -e %DIR%/a ] && [ -e %DIR%/b ] && [ -e %DIR%/c ] && [ -e %DIR%/d ]; do sleep 0.01; done
    touch %DIR%/all
"#;

/// A length of sleep that nobody else asks for, which names a process that has nothing else to be known by.
fn rare_sleep() -> String {
    format!("123456.{}", std::process::id())
}

fn sleepers() -> usize {
    let line = format!("sleep\0{}\0", rare_sleep());
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    all.filter(|path| {
        std::fs::read(path.join("cmdline")).is_ok_and(|found| found == line.as_bytes())
    })
    .count()
}

#[tokio::test]
async fn no_process_of_a_command_outlives_it() {
    let escape = ESCAPE.replace("%SLEEP%", &rare_sleep());
    let stays = format!("{escape}\nwhile :; do sleep 1; done");
    let templates = [
        sh("leaves", &escape, "output_max = 1000"),
        sh("stays", &stays, "timeout = \"3s\"\noutput_max = 1000"),
        sh("waits", &stays, "output_max = 1000"),
    ]
    .concat();
    let (mut rig, worker, dir) = rig(&templates).await;
    let again = || {
        for name in ["a", "b", "c", "d", "all"] {
            let _ = std::fs::remove_file(dir.path().join(name));
        }
    };
    // It ends by itself; what it left is killed.
    let end = run(&mut rig, json!({"command": "leaves"})).await;
    assert_eq!(end.ended, Ended::Succeeded, "{end:?}");
    assert!(dir.path().join("all").exists());
    assert_gone(end.id);
    // Over its limit.
    again();
    let before = Instant::now();
    let end = run(&mut rig, json!({"command": "stays"})).await;
    assert_eq!((end.code(), end.detail.head.timed_out), ("timeout", false));
    assert!(dir.path().join("all").exists(), "it was stopped too early to prove anything");
    assert!(before.elapsed() < Duration::from_secs(8), "{:?}", before.elapsed());
    assert_gone(end.id);
    // Cancelled.
    again();
    let id = rig.push("command.run", json!({"command": "waits"}), spec(1)).await;
    exists(&dir, "all").await;
    assert!(!processes_with(&format!("WINDLASS_JOB_ID={id}")).is_empty() && sleepers() == 1);
    rig.cancel(id).await;
    assert_eq!(rig.first(id).await.ended, Ended::Cancelled);
    assert_gone(id);
    // Over the limit of the attempt.
    again();
    let end = rig.run("command.run", json!({"command": "waits"}), limited(1, 3_000)).await;
    assert_eq!((end.code(), end.detail.head.timed_out), ("timeout", true));
    assert_gone(end.id);
    worker.stop().await;
}

fn assert_gone(job: JobId) {
    let left = processes_with(&format!("WINDLASS_JOB_ID={job}"));
    assert!(left.is_empty(), "{left:?} are left");
    assert_eq!(sleepers(), 0, "the one without environment is left");
}

async fn exists(dir: &TempDir, name: &str) {
    let path = dir.path().join(name);
    let wait = async {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the command does not get on");
}
