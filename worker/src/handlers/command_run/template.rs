//! The command templates: what `command.run` may run, and how much of it a payload decides.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use windlass_shared::model::time::Span;

/// Largest file of templates, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Kept of each stream where the template says nothing.
const OUTPUT_BYTES: u64 = 256 << 10;
/// Most that can be kept of each stream.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;
/// Most arguments where any number is allowed.
const ARGS_MAX: usize = 1_000;
/// Open files where the template says nothing.
const OPEN_FILES: u64 = 1_024;

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    commands: BTreeMap<String, Template>,
}

/// One command: `[commands.NAME]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Template {
    /// Absolute path; never looked up, never given to a shell.
    pub(super) program: PathBuf,
    /// The first arguments. End them with `--` where the program takes options.
    #[serde(default)]
    pub(super) args: Vec<String>,
    /// Whether a payload may add arguments, or how many.
    #[serde(default)]
    allow_args: AllowArgs,
    /// The whole environment: a fixed value, or `true` for a value that a payload may give.
    #[serde(default)]
    pub(super) env: BTreeMap<String, EnvRule>,
    /// Where it starts.
    #[serde(default = "root")]
    pub(super) cwd: PathBuf,
    /// Its limit, if shorter than the job's.
    #[serde(default)]
    pub(super) timeout: Option<Span>,
    /// Stopped when its process tree holds more than this: bytes, or a text such as "256MiB".
    #[serde(default)]
    pub(super) memory_max: Option<Bytes>,
    /// Kept of each stream, half from its beginning and half from its end.
    #[serde(default = "output_bytes")]
    output_max: Bytes,
    /// Whether a payload may give its standard input.
    #[serde(default)]
    pub(super) stdin: bool,
    /// Most files that one of its processes may have open.
    #[serde(default = "open_files")]
    pub(super) open_files_max: u64,
    /// Largest file that it may write.
    #[serde(default)]
    pub(super) file_size_max: Option<Bytes>,
}

/// How an environment variable gets its value.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum EnvRule {
    /// Always this.
    Fixed(String),
    /// `true`: from the payload.
    Allowed(bool),
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
enum AllowArgs {
    Any(bool),
    UpTo(usize),
}

impl Default for AllowArgs {
    fn default() -> Self {
        Self::Any(false)
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BytesText")]
pub(super) struct Bytes(pub(super) u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum BytesText {
    Number(u64),
    Text(String),
}

impl TryFrom<BytesText> for Bytes {
    type Error = String;

    fn try_from(text: BytesText) -> Result<Self, String> {
        let text = match text {
            BytesText::Number(n) => return Ok(Self(n)),
            BytesText::Text(text) => text,
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let unit = match text[digits..].trim() {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(format!("`{text}` is not a size such as \"256MiB\"")),
        };
        let number: u64 = text[..digits].parse().map_err(|_| format!("`{text}` is not a size"))?;
        number.checked_mul(unit).map(Self).ok_or_else(|| format!("`{text}` is too large"))
    }
}

fn root() -> PathBuf {
    "/".into()
}
fn output_bytes() -> Bytes {
    Bytes(OUTPUT_BYTES)
}
fn open_files() -> u64 {
    OPEN_FILES
}

impl Template {
    /// How many arguments a payload may add.
    pub(super) fn args_max(&self) -> usize {
        match self.allow_args {
            AllowArgs::Any(false) => 0,
            AllowArgs::Any(true) => ARGS_MAX,
            AllowArgs::UpTo(n) => n.min(ARGS_MAX),
        }
    }

    /// Bytes kept of each stream.
    pub(super) fn output_max(&self) -> usize {
        usize::try_from(self.output_max.0.min(OUTPUT_BYTES_MAX)).expect("a mebibyte fits")
    }

    /// The limit of one run.
    pub(super) fn time_limit(&self, asked: Option<Span>) -> Option<Duration> {
        self.timeout.into_iter().chain(asked).map(|span| span.0).min()
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(self.program.is_absolute(), "`program` must be an absolute path");
        ensure!(self.cwd.is_absolute(), "`cwd` must be an absolute path");
        for (name, rule) in &self.env {
            let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            ensure!(plain && !name.is_empty(), "`{name}` is not the name of a variable");
            // These change what is run, or would pretend to be ours.
            let dangerous = name.starts_with("LD_") || name.starts_with("WINDLASS_");
            let dangerous = dangerous || matches!(name.as_str(), "BASH_ENV" | "ENV" | "IFS" | "PATH");
            ensure!(*rule != EnvRule::Allowed(true) || !dangerous, "`{name}` cannot be left to payloads");
            let fixed = if let EnvRule::Fixed(value) = rule { value.as_str() } else { "" };
            ensure!(!fixed.contains('\0'), "`{name}` has a value with a NUL");
        }
        ensure!(!self.args.iter().any(|arg| arg.contains('\0')), "`args` contain a NUL");
        Ok(())
    }
}

/// Reads and checks the file.
///
/// # Errors
/// When it cannot be read, is too large, or says what cannot be.
pub(super) fn load(path: &Path) -> anyhow::Result<BTreeMap<String, Template>> {
    let name = path.display();
    let size = std::fs::metadata(path).with_context(|| format!("cannot read {name}"))?.len();
    ensure!(size <= FILE_BYTES_MAX, "{name} is larger than {FILE_BYTES_MAX} bytes");
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    let file: File = toml::from_str(&text).with_context(|| format!("in {name}"))?;
    for (command, template) in &file.commands {
        template.check().with_context(|| format!("command `{command}` in {name}"))?;
    }
    Ok(file.commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(text: &str) -> anyhow::Result<BTreeMap<String, Template>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("commands.toml");
        std::fs::write(&path, text).unwrap();
        load(&path)
    }

    #[test]
    fn a_template_says_how_much_a_payload_decides() {
        let commands = loaded(
            r#"
            [commands.list]
            program = "/bin/ls"
            args = ["-l", "--"]
            allow_args = 2
            env = { LANG = "C", DEPTH = true }
            timeout = "30s"
            memory_max = "64MiB"
            output_max = 1000
            [commands.fixed]
            program = "/bin/true"
            "#,
        )
        .unwrap();
        let list = &commands["list"];
        assert_eq!((list.args_max(), list.output_max()), (2, 1_000));
        assert_eq!(list.memory_max, Some(Bytes(64 << 20)));
        let short = Some(Span(Duration::from_secs(5)));
        assert_eq!(list.time_limit(short), Some(Duration::from_secs(5)));
        assert_eq!(list.time_limit(None), Some(Duration::from_secs(30)));
        assert_eq!(list.env["DEPTH"], EnvRule::Allowed(true));
        let fixed = &commands["fixed"];
        assert_eq!((fixed.args_max(), fixed.stdin, fixed.time_limit(None)), (0, false, None));
    }

    #[test]
    fn unsafe_templates_are_refused() {
        for body in [
            r#"program = "ls""#,
            r#"program = "/bin/ls"
               env = { LD_PRELOAD = true }"#,
            r#"program = "/bin/ls"
               env = { WINDLASS_JOB_ID = true }"#,
            r#"program = "/bin/ls"
               env = { "A=B" = "x" }"#,
            r#"program = "/bin/ls"
               cwd = "tmp""#,
            r#"program = "/bin/ls"
               shell = true"#,
            r#"program = "/bin/ls"
               memory_max = "much""#,
        ] {
            assert!(loaded(&format!("[commands.x]\n{body}\n")).is_err(), "{body}");
        }
        assert!(load(Path::new("/nonexistent/commands.toml")).is_err());
    }
}
