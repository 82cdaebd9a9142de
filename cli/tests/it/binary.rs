//! Runs the binary with an environment of the test's own.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The longest that a test waits for what must happen.
pub const SOON: Duration = Duration::from_secs(60);

/// What a command that has ended said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

fn command(args: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_windlass"));
    command.args(args).env_clear().envs(env.iter().copied());
    command
}

/// Runs a command to its end, with `input` on standard input.
pub fn windlass_with(args: &[&str], env: &[(&str, &str)], input: &str) -> Said {
    let mut command = command(args, env);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary starts");
    // A command that reads nothing may have closed it.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    Said {
        code: output.status.code().expect("it was not killed"),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

/// Runs a command to its end.
pub fn windlass(args: &[&str], env: &[(&str, &str)]) -> Said {
    windlass_with(args, env, "")
}

/// Asks again and again, at a pace that leaves the process under test its cores.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// A running `windlass dev`; killed when dropped.
pub struct Dev {
    child: Child,
    /// Kept open: a closed pipe must not be what stops it.
    _out: BufReader<ChildStdout>,
    pub url: String,
}

impl Dev {
    /// Starts on a free port with its data in `data`, and waits until it says that it is ready.
    pub fn start(data: &Path, env: &[(&str, &str)]) -> Self {
        let data = data.to_str().expect("text");
        let args = ["dev", "--listen", "127.0.0.1:0", "--data-dir", data];
        let mut command = command(&args, env);
        let mut child = command
            .env("WINDLASS_LOG__LEVEL", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        out.read_line(&mut line).expect("text");
        let url = line.trim().strip_prefix("windlass dev is ready: ").map(str::to_owned);
        let url = url.unwrap_or_else(|| panic!("it did not start: {line:?}"));
        Self { child, _out: out, url }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().expect("kill runs");
        assert!(status.success());
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        until("it ends", || self.child.try_wait().expect("it can be waited for"))
    }

    /// A client command against it.
    pub fn run(&self, args: &[&str]) -> Said {
        windlass(args, &[("WINDLASS_URL", &self.url)])
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It has ended already, or ends now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
