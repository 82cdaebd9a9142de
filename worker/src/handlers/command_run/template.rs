//! The command templates: what `command.run` may run, and how much of it a payload decides.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use windlass_shared::limits::TIMEOUT_MAX;
use windlass_shared::model::time::Span;

use super::size::Size;

/// Largest file of templates, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Kept of each stream where the template says nothing.
const OUTPUT_BYTES: u64 = 1 << 20;
/// Most that can be kept of each stream.
const OUTPUT_BYTES_MAX: u64 = 16 << 20;
/// Most arguments that a template can let a payload add.
const ARGS_MAX: usize = 1_000;
/// Open files of one process where the template says nothing.
const OPEN_FILES: u64 = 1_024;
/// Processes of one run where the template says nothing.
const PROCESSES: usize = 1_000;
/// Most processes that a template can allow.
const PROCESSES_MAX: usize = 4_000;

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    commands: BTreeMap<String, Template>,
}

/// One command: `[commands.NAME]`. Relative paths in `args` and `cwd` start from the worker's own folder.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Template {
    /// Absolute path; never looked up, never given to a shell.
    pub(super) program: PathBuf,
    /// The first arguments.
    #[serde(default)]
    pub(super) args: Vec<String>,
    /// How many arguments a payload may add.
    #[serde(default)]
    pub(super) args_max: usize,
    /// Whether those may begin with `-`. Also allowed where `args` end with `--`.
    #[serde(default)]
    options: bool,
    /// Variables with their values.
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    /// Variables that a payload may set.
    #[serde(default)]
    pub(super) env_allowed: BTreeSet<String>,
    /// Where it starts; the worker's own folder if not said.
    #[serde(default)]
    pub(super) cwd: Option<PathBuf>,
    /// Its limit, if shorter than the job's.
    #[serde(default)]
    timeout: Option<Span>,
    /// Killed when its process tree holds more than this.
    #[serde(default)]
    pub(super) memory_max: Option<Size>,
    /// Kept of each stream, half from its beginning and half from its end.
    #[serde(default)]
    output_max: Option<Size>,
    /// Largest file that it may write.
    #[serde(default)]
    pub(super) file_size_max: Option<Size>,
    /// Most files that one of its processes may have open.
    #[serde(default = "open_files")]
    pub(super) open_files_max: u64,
    /// Killed when it has more processes than this.
    #[serde(default = "processes")]
    pub(super) processes_max: usize,
    /// Whether a payload may give its standard input.
    #[serde(default)]
    pub(super) stdin: bool,
}

const fn open_files() -> u64 {
    OPEN_FILES
}
const fn processes() -> usize {
    PROCESSES
}

impl Template {
    /// Bytes kept of each stream.
    pub(super) fn output_max(&self) -> usize {
        let bytes = self.output_max.map_or(OUTPUT_BYTES, |size| size.0);
        usize::try_from(bytes).expect("checked against OUTPUT_BYTES_MAX")
    }

    /// The limit of one run: a payload can only shorten it.
    pub(super) fn time_limit(&self, asked: Option<Span>) -> Option<Duration> {
        self.timeout.into_iter().chain(asked).map(|span| span.0).min()
    }

    /// Whether an added argument can be told from an option, or may be one.
    pub(super) fn takes_dashes(&self) -> bool {
        self.options || self.args.last().is_some_and(|arg| arg == "--")
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(self.program.is_absolute(), "`program` must be an absolute path");
        ensure!(!has_nul(&self.program), "`program` contains a NUL");
        ensure!(!self.cwd.as_deref().is_some_and(has_nul), "`cwd` contains a NUL");
        ensure!(!self.args.iter().any(|arg| arg.contains('\0')), "`args` contain a NUL");
        ensure!(self.args_max <= ARGS_MAX, "`args_max` must be at most {ARGS_MAX}");
        let limit = self.timeout.map_or(TIMEOUT_MAX, |span| span.0);
        ensure!(!limit.is_zero() && limit <= TIMEOUT_MAX, "`timeout` must be from 1ms to 7 days");
        let output = self.output_max.map_or(OUTPUT_BYTES, |size| size.0);
        ensure!(output <= OUTPUT_BYTES_MAX, "`output_max` must be at most 16MiB");
        ensure!(self.memory_max.is_none_or(|size| size.0 > 0), "`memory_max` must not be zero");
        ensure!(self.open_files_max >= 16, "`open_files_max` must be at least 16");
        let processes = 1..=PROCESSES_MAX;
        ensure!(
            processes.contains(&self.processes_max),
            "`processes_max` must be from 1 to {PROCESSES_MAX}"
        );
        for (name, value) in &self.env {
            ensure!(is_variable(name), "`env`: `{name}` is not the name of a variable");
            ensure!(!name.starts_with("WINDLASS_"), "`env`: `{name}` is set by the worker");
            ensure!(!value.contains('\0'), "`env`: `{name}` has a value with a NUL");
        }
        for name in &self.env_allowed {
            ensure!(is_variable(name), "`env_allowed`: `{name}` is not the name of a variable");
            ensure!(!decides_what_runs(name), "`env_allowed`: `{name}` cannot be left to payloads");
        }
        Ok(())
    }
}

fn has_nul(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().contains(&0)
}

fn is_variable(name: &str) -> bool {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    plain && !name.is_empty() && !name.as_bytes()[0].is_ascii_digit() && name.len() <= 128
}

/// Variables that make a program load or run something, or that are ours.
fn decides_what_runs(name: &str) -> bool {
    const PREFIXES: [&str; 11] = [
        "LD_",
        "DYLD_",
        "WINDLASS_",
        "BASH_",
        "GIT_",
        "PYTHON",
        "PERL",
        "RUBY",
        "GLIBC_",
        "GCONV_",
        "MALLOC_",
    ];
    const NAMES: [&str; 20] = [
        "PATH",
        "ENV",
        "IFS",
        "PS4",
        "PROMPT_COMMAND",
        "SHELL",
        "SHELLOPTS",
        "BASHOPTS",
        "CDPATH",
        "ZDOTDIR",
        "NODE_OPTIONS",
        "NODE_PATH",
        "JAVA_TOOL_OPTIONS",
        "_JAVA_OPTIONS",
        "EDITOR",
        "VISUAL",
        "PAGER",
        "LESSOPEN",
        "HOME",
        "TERMINFO",
    ];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || NAMES.contains(&name)
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

/// The templates of a text, for tests.
#[cfg(test)]
pub(super) fn loaded(text: &str) -> anyhow::Result<BTreeMap<String, Template>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("commands.toml");
    std::fs::write(&path, text).unwrap();
    load(&path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_says_how_much_a_payload_decides() {
        let commands = loaded(
            r#"
            [commands.list]
            program = "/bin/ls"
            args = ["-l", "--"]
            args_max = 2
            env = { LANG = "C" }
            env_allowed = ["DEPTH"]
            timeout = "30s"
            memory_max = "64MiB"
            output_max = 1000
            [commands.fixed]
            program = "/bin/true"
            "#,
        )
        .unwrap();
        let list = &commands["list"];
        assert_eq!((list.args_max, list.output_max(), list.takes_dashes()), (2, 1_000, true));
        assert_eq!(list.memory_max, Some(Size(64 << 20)));
        let short = Some(Span(Duration::from_secs(5)));
        assert_eq!(list.time_limit(short), Some(Duration::from_secs(5)));
        assert_eq!(list.time_limit(Some(Span(TIMEOUT_MAX))), Some(Duration::from_secs(30)));
        assert!(list.env_allowed.contains("DEPTH"));
        let fixed = &commands["fixed"];
        assert_eq!((fixed.args_max, fixed.stdin, fixed.time_limit(None)), (0, false, None));
        assert_eq!((fixed.output_max(), fixed.takes_dashes()), (1 << 20, false));
    }

    #[test]
    fn the_example_loads() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/pages/commands.toml");
        let commands = load(Path::new(file)).unwrap();
        assert!(commands["page-facts"].stdin);
    }

    #[test]
    fn unsafe_templates_are_refused_with_the_reason() {
        for (body, reason) in [
            (r#"program = "ls""#, "absolute path"),
            (r#"args = []"#, "missing field `program`"),
            (r#"shell = true"#, "unknown field `shell`"),
            (r#"env_allowed = ["LD_PRELOAD"]"#, "`LD_PRELOAD` cannot be left"),
            (r#"env_allowed = ["PATH"]"#, "`PATH` cannot be left"),
            (r#"env_allowed = ["BASH_ENV"]"#, "`BASH_ENV` cannot be left"),
            (r#"env_allowed = ["GIT_SSH_COMMAND"]"#, "`GIT_SSH_COMMAND` cannot be left"),
            (r#"env_allowed = ["NODE_OPTIONS"]"#, "`NODE_OPTIONS` cannot be left"),
            (r#"env_allowed = ["WINDLASS_JOB_ID"]"#, "`WINDLASS_JOB_ID` cannot be left"),
            (r#"env = { WINDLASS_FENCE = "1" }"#, "set by the worker"),
            (r#"env = { "A=B" = "x" }"#, "not the name of a variable"),
            (r#"env = { A = "\u0000" }"#, "NUL"),
            (r#"args = ["\u0000"]"#, "NUL"),
            (r#"memory_max = "much""#, "not a size"),
            (r#"memory_max = 0"#, "must not be zero"),
            (r#"output_max = "17MiB""#, "16MiB"),
            (r#"args_max = 1001"#, "args_max"),
            (r#"args_max = -1"#, "invalid value"),
            (r#"timeout = "0s""#, "`timeout` must be"),
            (r#"timeout = "soon""#, "not a duration"),
            (r#"processes_max = 0"#, "processes_max"),
        ] {
            let program = if reason.contains("program") || body.contains("program") {
                ""
            } else {
                "program = \"/bin/ls\""
            };
            let error = loaded(&format!("[commands.x]\n{program}\n{body}\n")).expect_err(body);
            assert!(format!("{error:#}").contains(reason), "{body}: {error:#}");
        }
        assert!(loaded("[command.x]\nprogram = \"/bin/ls\"\n").is_err());
        assert!(load(Path::new("/nonexistent/commands.toml")).is_err());
        assert!(loaded("").unwrap().is_empty());
    }
}
