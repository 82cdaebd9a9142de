//! The effect log: what handlers did, on record outside of Redis and the ledger.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::stamp::Stamp;

/// Start or end of one execution of a handler.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// Which of the two.
    pub phase: Phase,
    /// The job.
    pub job: String,
    /// The lease's number: the claim's instant in µs of engine time, or one more than the fence before, if that is
    /// later. The lease's token is not shown to handlers, so it is not here.
    pub fence: u64,
    /// The worker's name; every process has another.
    pub worker: String,
    /// As the handler was told.
    pub attempt: u32,
    /// Which handler.
    pub kind: String,
    /// Where the job waited.
    pub queue: String,
    /// The run and the step, of a step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<(String, String)>,
    /// When the handler was called.
    pub started: Stamp,
    /// When this line was written.
    pub at: Stamp,
    /// Of an end: how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
}

/// The two lines of an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Before anything else is done.
    Start,
    /// After everything else is done.
    End,
}

/// How an execution ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It returned a value.
    Ok,
    /// It failed because its payload said so.
    Planned,
    /// It failed because what it depends on was down.
    Down,
    /// The fenced store refused its write.
    Refused,
    /// Its future was dropped: the worker told it to stop.
    Dropped,
}

/// Appends to an effect log. Several processes may append to the same file: each line is one `write` of far less than
/// a page with `O_APPEND`, so lines do not mix.
#[derive(Debug)]
pub struct EffectLog {
    file: File,
    synced: bool,
}

impl EffectLog {
    /// Opens or makes the file. `synced`: every line is flushed to the disk (`fdatasync`) before the handler goes on;
    /// needed only where the host of the log loses its power.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn open(path: &Path, synced: bool) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        Ok(Self { file: file.with_context(|| format!("effect log {}", path.display()))?, synced })
    }

    /// Appends one line.
    ///
    /// # Errors
    /// It could not be written whole.
    pub fn append(&self, effect: &Effect) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(effect)?;
        line.push(b'\n');
        let written = (&self.file).write(&line)?;
        if written != line.len() {
            return Err(std::io::Error::other("a line was written in part"));
        }
        if self.synced { self.file.sync_data() } else { Ok(()) }
    }
}

/// Reads an effect log; a file that does not exist is empty. A last line without its line break is left out: its writer
/// was killed while the kernel copied it.
///
/// # Errors
/// Another line cannot be read.
pub fn read(path: &Path) -> anyhow::Result<Vec<Effect>> {
    read_lines(path)
}

/// Executions under way now, by worker, in the order of these names.
///
/// # Errors
/// As [`read`].
pub fn running(path: &Path, workers: &[&str]) -> anyhow::Result<Vec<usize>> {
    let mut running = vec![0_usize; workers.len()];
    for effect in read(path)? {
        let Some(place) = workers.iter().position(|name| *name == effect.worker) else { continue };
        match effect.phase {
            Phase::Start => running[place] += 1,
            Phase::End => running[place] = running[place].saturating_sub(1),
        }
    }
    Ok(running)
}

/// Reads a file of JSON lines; see [`read`].
pub(crate) fn read_lines<T: serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<Vec<T>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let mut reader = BufReader::new(file);
    let mut found = Vec::new();
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || !line.ends_with('\n') {
            return Ok(found);
        }
        let number = found.len() + 1;
        let parsed = serde_json::from_str(&line);
        found.push(parsed.with_context(|| format!("{}:{number}", path.display()))?);
    }
}

/// Reads an effect log that is still written to: each call goes on where the last one ended.
#[derive(Debug)]
pub struct Follower {
    path: std::path::PathBuf,
    read_bytes: u64,
}

impl Follower {
    /// From the file's beginning on.
    pub fn from_start(path: &Path) -> Self {
        Self { path: path.to_owned(), read_bytes: 0 }
    }

    /// What was written since. A last line that is not whole yet is left for the next call.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn more(&mut self) -> anyhow::Result<Vec<Effect>> {
        use std::io::{Read as _, Seek as _, SeekFrom};
        let mut file = File::open(&self.path).with_context(|| self.path.display().to_string())?;
        file.seek(SeekFrom::Start(self.read_bytes))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let lines = text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let effects = lines.map(serde_json::from_slice).collect::<Result<_, _>>();
        let effects = effects.with_context(|| self.path.display().to_string())?;
        self.read_bytes += whole as u64;
        Ok(effects)
    }
}
