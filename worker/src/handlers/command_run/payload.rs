//! From the payload and its template to a command line.

use std::collections::BTreeMap;
use std::process::Command;

use serde::Deserialize;
use windlass_shared::model::time::Span;

use super::process::Launch;
use super::template::Template;
use crate::error::HandlerError;

/// The kernel takes no longer argument or variable.
const ARG_BYTES_MAX: usize = (128 << 10) - 1;
/// The same without room for a name.
const ENV_VALUE_MAX: usize = ARG_BYTES_MAX - 64;
/// Where programs are looked for by the command's own programs.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
const LANG: &str = "C.UTF-8";

/// The payload.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Args {
    /// The template's name.
    pub(super) command: String,
    #[serde(default)]
    pub(super) args: Vec<String>,
    #[serde(default)]
    pub(super) stdin: Option<String>,
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) timeout: Option<Span>,
}

/// Which job a command belongs to.
pub(super) struct Stamp {
    pub(super) job_id: String,
    pub(super) attempt: u32,
    pub(super) fence: u64,
    pub(super) traceparent: Option<String>,
    /// Why the attempt before failed, as JSON, where the job's output is evaluated.
    pub(super) previous: Option<String>,
}

/// Fills in the template, or says for good what it does not allow.
pub(super) fn launch(
    template: &Template,
    args: Args,
    stamp: &Stamp,
) -> Result<Launch, HandlerError> {
    check(template, &args)?;
    let mut command = Command::new(&template.program);
    command.args(&template.args).args(&args.args).env_clear();
    if let Some(cwd) = &template.cwd {
        command.current_dir(cwd);
    }
    command.env("PATH", PATH).env("LANG", LANG).envs(&template.env).envs(&args.env);
    command.env("WINDLASS_JOB_ID", &stamp.job_id);
    command.env("WINDLASS_ATTEMPT", stamp.attempt.to_string());
    command.env("WINDLASS_FENCE", stamp.fence.to_string());
    if let Some(trace) = stamp.traceparent.as_deref().filter(|trace| !trace.contains('\0')) {
        command.env("TRACEPARENT", trace);
    }
    // Bounded far below by what an error and its recommendations may hold.
    if let Some(previous) = stamp.previous.as_deref().filter(|text| text.len() < ENV_VALUE_MAX) {
        command.env("WINDLASS_PREVIOUS", previous);
    }
    Ok(Launch {
        command,
        output_max: template.output_max(),
        open_files_max: template.open_files_max,
        file_size_max: template.file_size_max.map(|size| size.0),
        memory_max: template.memory_max.map(|size| size.0),
        processes_max: template.processes_max,
        timeout: template.time_limit(args.timeout),
        stdin: args.stdin,
    })
}

fn check(template: &Template, args: &Args) -> Result<(), HandlerError> {
    let max = template.args_max;
    if args.args.len() > max {
        return Err(invalid(&format!("`args` may have at most {max} arguments for this command")));
    }
    if args.args.iter().any(|arg| arg.starts_with('-')) && !template.takes_dashes() {
        return Err(invalid("`args` must not begin with `-` for this command"));
    }
    for text in args.args.iter().chain(args.env.values()) {
        if text.contains('\0') {
            return Err(invalid("`args` and `env` must not contain NUL"));
        }
        if text.len() > ARG_BYTES_MAX {
            return Err(invalid("`args` and `env` must not have a value of 128 KiB or more"));
        }
    }
    if args.stdin.is_some() && !template.stdin {
        return Err(invalid("`stdin` is not allowed for this command"));
    }
    if let Some(name) = args.env.keys().find(|name| !template.env_allowed.contains(*name)) {
        return Err(invalid(&format!("`env` must not set `{name}` for this command")));
    }
    if args.timeout.is_some_and(|span| span.0.is_zero()) {
        return Err(invalid("`timeout` must not be zero"));
    }
    Ok(())
}

pub(super) fn invalid(message: &str) -> HandlerError {
    HandlerError::permanent("invalid_payload", message)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;
    use crate::error::Cause;
    use crate::handlers::command_run::template::loaded;

    fn stamp() -> Stamp {
        Stamp { job_id: "job".into(), attempt: 2, fence: 9, traceparent: None, previous: None }
    }

    fn launched(template: &str, payload: &str) -> Result<Launch, String> {
        let templates = loaded(&format!("[commands.x]\nprogram = \"/bin/x\"\n{template}")).unwrap();
        let args: Args = serde_json::from_str(payload).map_err(|e| e.to_string())?;
        launch(&templates["x"], args, &stamp()).map_err(|e| match e.0 {
            Cause::Failed { error, .. } => {
                assert_eq!((error.code.as_str(), error.retryable), ("invalid_payload", false));
                error.message
            }
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn arguments_are_passed_one_by_one_as_they_are() {
        let template = "args = [\"-f\", \"--\"]\nargs_max = 9";
        let args = ["; rm -rf x", "$(id)", "`id`", "--output=/etc/x", "-", "a\nb", "", "*", "ü 😀"];
        let payload = serde_json::json!({"command": "x", "args": args});
        let launch = launched(template, &payload.to_string()).unwrap();
        let given: Vec<&OsStr> = launch.command.get_args().collect();
        assert_eq!(given[..2], ["-f", "--"]);
        assert_eq!(given[2..], args);
    }

    #[test]
    fn the_environment_is_the_templates() {
        let template =
            "env = { MODE = \"fast\", PATH = \"/opt\" }\nenv_allowed = [\"DEPTH\", \"MODE\"]";
        let launch = launched(template, r#"{"command": "x", "env": {"DEPTH": "3"}}"#).unwrap();
        let env: Vec<String> = launch
            .command
            .get_envs()
            .map(|(name, value)| format!("{}={}", name.display(), value.unwrap().display()))
            .collect();
        assert_eq!(
            env.join(" "),
            "DEPTH=3 LANG=C.UTF-8 MODE=fast PATH=/opt WINDLASS_ATTEMPT=2 WINDLASS_FENCE=9 WINDLASS_JOB_ID=job"
        );
    }

    #[test]
    fn what_a_template_does_not_allow_is_refused() {
        let long = format!(r#"{{"command": "x", "args": ["{}"]}}"#, "a".repeat(1 << 20));
        for (template, payload, reason) in [
            ("", r#"{"command": "x", "args": ["a"]}"#, "at most 0 arguments"),
            ("args_max = 1", r#"{"command": "x", "args": ["a", "b"]}"#, "at most 1 arguments"),
            ("args_max = 1", r#"{"command": "x", "args": ["--output=/etc/x"]}"#, "begin with `-`"),
            ("args_max = 1", r#"{"command": "x", "args": ["-"]}"#, "begin with `-`"),
            ("args_max = 1", r#"{"command": "x", "args": ["a\u0000b"]}"#, "NUL"),
            ("args_max = 1", &long, "128 KiB"),
            ("", r#"{"command": "x", "env": {"A": "1"}}"#, "must not set `A`"),
            ("env = { A = \"1\" }", r#"{"command": "x", "env": {"A": "2"}}"#, "must not set `A`"),
            ("", r#"{"command": "x", "env": {"LD_PRELOAD": "x"}}"#, "must not set `LD_PRELOAD`"),
            ("env_allowed = [\"A\"]", r#"{"command": "x", "env": {"A": "\u0000"}}"#, "NUL"),
            ("", r#"{"command": "x", "stdin": "a"}"#, "`stdin` is not allowed"),
            ("", r#"{"command": "x", "timeout": 0}"#, "must not be zero"),
            ("", r#"{"command": "x", "shell": true}"#, "unknown field `shell`"),
            ("", r#"{"args": []}"#, "missing field `command`"),
        ] {
            let error = launched(template, payload).err().expect(payload);
            assert!(error.contains(reason), "{payload}: {error}");
        }
        assert!(
            launched("args_max = 1\noptions = true", r#"{"command": "x", "args": ["-v"]}"#).is_ok()
        );
    }
}
