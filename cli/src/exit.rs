//! How a command ends: 0 fine, 1 failed, 2 bad usage or settings, 3 a check or threshold did not hold.

use std::fmt;
use std::io::Write as _;
use std::process::ExitCode;

use windlass_shared::config::ConfigError;

/// The status of [`Failure::Halt`]; no signal has it.
pub const HALT: u8 = 200;

/// Lets a panic end the process by a signal, whichever thread it is in: its usual status says too little.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        // Another panic, of a closed pipe for instance, would end in the same way.
        let _ = writeln!(std::io::stderr(), "{panic}");
        std::process::abort();
    }));
}

/// Why a command did not end well.
#[derive(Debug)]
pub enum Failure {
    /// What was asked for cannot be meant, or the settings are wrong.
    Usage(String),
    /// It was tried and did not work.
    Failed(anyhow::Error),
    /// It worked, and the answer is no.
    Check(String),
    /// What was asked for is not there, which is an answer: of PostgreSQL's `restore_command`, that the archive has ended.
    NotThere(String),
    /// It did not work, and who runs it must not go on: PostgreSQL takes a status over 125 so, and any other for the end of
    /// the archive.
    Halt(anyhow::Error),
    /// The reader of our output has gone away; nothing to say, and nobody to say it to.
    PipeClosed,
}

/// What a command returns.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// Says why on standard error; the exit code.
    pub fn report(&self) -> ExitCode {
        match self {
            Self::PipeClosed => return ExitCode::SUCCESS,
            // Where nobody listens, the status says enough.
            _ => drop(writeln!(std::io::stderr(), "{self}")),
        }
        ExitCode::from(self.code())
    }

    /// Of a command whose failure must stop who runs it: only that something is not there stays what it is.
    pub fn or_halt(self) -> Self {
        match self {
            Self::NotThere(_) | Self::Halt(_) => self,
            Self::Failed(error) => Self::Halt(error),
            Self::PipeClosed => Self::Halt(anyhow::anyhow!("a pipe was closed")),
            Self::Usage(text) | Self::Check(text) => Self::Halt(anyhow::anyhow!(text)),
        }
    }

    fn code(&self) -> u8 {
        match self {
            Self::PipeClosed => 0,
            Self::Failed(_) | Self::NotThere(_) => 1,
            Self::Usage(_) => 2,
            Self::Check(_) => 3,
            Self::Halt(_) => HALT,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Check(text) | Self::NotThere(text) => f.write_str(text),
            Self::Failed(error) | Self::Halt(error) => write!(f, "error: {error:#}"),
            Self::PipeClosed => Ok(()),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::PipeClosed;
        }
        Self::Failed(error.into())
    }
}
