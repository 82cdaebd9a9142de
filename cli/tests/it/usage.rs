//! Help, and what bad usage gets.

use crate::binary::windlass;

const COMMANDS: [&str; 16] = [
    "dev",
    "api",
    "worker",
    "scheduler",
    "key",
    "migrate",
    "job",
    "workflow",
    "queue",
    "schedule",
    "system",
    "backup",
    "config",
    "doctor",
    "loadtest",
    "load-check",
];

#[test]
fn help_names_every_command_and_the_exit_codes() {
    let said = windlass(&["--help"], &[]);
    assert_eq!(said.code, 0);
    for command in COMMANDS {
        assert!(said.out.contains(&format!("\n  {command} ")), "{command}: {}", said.out);
    }
    assert!(said.out.contains("Exit codes: 0 fine, 1 failed, 2 bad usage"));
    assert!(said.out.contains("windlass dev"), "it says where to start");
}

#[test]
fn every_command_teaches_itself() {
    for command in COMMANDS {
        let said = windlass(&[command, "--help"], &[]);
        assert_eq!(said.code, 0, "{command}");
        let teaches = said.out.contains("Examples:")
            || said.out.contains("Needs WINDLASS_")
            || said.out.contains("Looks at")
            || said.out.contains("windlass loadtest bench");
        assert!(teaches, "{command}: {}", said.out);
    }
}

#[test]
fn bad_usage_exits_2() {
    for args in [
        &[][..],
        &["nonsense"],
        &["job"],
        &["job", "get"],
        &["job", "get", "not-an-id"],
        &["job", "submit"],
        &["job", "submit", "echo", "--payload", "{not json"],
        &["job", "submit", "echo", "--priority", "10"],
        &["job", "submit", "echo", "--payload", "@/no/such/file"],
        &["job", "list", "--url", "not a url"],
        &["job", "list", "--limit", "501"],
        &["job", "retry-all"],
        &["job", "retry-all", "--all", "--rate", "fast"],
        &["queue", "purge", "default"],
        &["queue", "get", "../keys"],
        &["queue", "set", "default"],
        &["schedule", "get", "../keys"],
        &["schedule", "set", "nightly"],
        &["schedule", "create", "x", "--cron", "@daily", "--every", "5s", "--kind", "noop"],
        &["key", "create", "--name", "x", "--role", "emperor"],
        &["loadtest", "bench", "engine"],
        &["load-check", "show", "../keys"],
        &["load-check", "run", "--duration", "soon"],
        &["migrate", "up"],
        &["scheduler"],
        &["worker"],
        &["api"],
        &["dev", "--listen", "nonsense"],
    ] {
        let said = windlass(args, &[]);
        assert_eq!(said.code, 2, "{args:?}: {said:?}");
        assert!(said.out.is_empty(), "standard output is for answers: {args:?}: {said:?}");
        assert!(!said.err.is_empty(), "{args:?}");
    }
}

#[test]
fn a_payload_that_is_bare_text_is_told_about_quotes() {
    let said = windlass(&["job", "submit", "echo", "--payload", "hello"], &[]);
    assert_eq!(said.code, 2);
    assert!(said.err.contains("--payload '\"text\"'"), "{}", said.err);
}

#[test]
fn roles_say_which_setting_is_missing_and_refuse_what_only_dev_can_use() {
    let said = windlass(&["worker"], &[]);
    assert!(
        said.err.contains("engine.url is not set; set WINDLASS_ENGINE__URL=redis://"),
        "{said:?}"
    );
    for role in ["api", "worker", "scheduler"] {
        let env =
            [("WINDLASS_ENGINE__URL", "embedded"), ("WINDLASS_LEDGER__URL", "sqlite:///tmp/x.db")];
        let said = windlass(&[role], &env);
        assert_eq!(said.code, 2, "{role}: {said:?}");
        assert!(
            said.err.contains("ledger.url (env WINDLASS_LEDGER__URL) names SQLite"),
            "{said:?}"
        );
        assert!(said.err.contains("engine.url (env WINDLASS_ENGINE__URL) is embedded"), "{said:?}");
    }
}

/// PostgreSQL takes a status of up to 125 for the end of the archive: whatever goes wrong, however early, has another one.
#[test]
fn no_failure_of_wal_fetch_looks_like_the_end_of_the_archive() {
    let run = |before: &str, args: &str| {
        let binary = env!("CARGO_BIN_EXE_windlass");
        let script = format!("{before} '{binary}' backup wal-fetch {args}; exit $?");
        let mut command = std::process::Command::new("/bin/sh");
        let output = command.args(["-c", &script]).env_clear().output().expect("sh runs");
        (output.status.code().expect("sh was not killed"), output.stderr)
    };
    for (before, args) in [
        ("", "000000010000000000000001 to"),
        ("", "000000010000000000000001"),
        ("", "$(printf '\\377') to"),
        // No room for what the runtime waits with.
        ("ulimit -n 4;", "000000010000000000000001 to"),
        // No room for a thread: it panics.
        ("RUST_MIN_STACK=1000000000000000000", "000000010000000000000001 to"),
        // Nobody hears why.
        ("2>/dev/full", "000000010000000000000001 to"),
    ] {
        let (status, said) = run(before, args);
        assert!(status > 125, "{before:?} {args:?}: {status}, {}", String::from_utf8_lossy(&said));
    }
}
