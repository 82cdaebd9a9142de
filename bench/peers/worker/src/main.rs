//! The worker of the comparison: `windlass worker` with one handler of its own, which does what the other queues' jobs do:
//! it appends one byte to the file `BENCH_FILE`. Where `BENCH_TIMES` names a file, it also appends to that how late it began: the µs from `at`
//! of the payload on, 8 bytes, little endian.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;

use anyhow::Context as _;
use serde::Deserialize;
use windlass_shared::clock::Clock;
use windlass_shared::config::{self, Inputs, Process};
use windlass_shared::shutdown::Shutdown;
use windlass_shared::telemetry::{logs, metrics::Metrics};
use windlass_worker::context::Context;
use windlass_worker::error::HandlerError;
use windlass_worker::worker::Worker;

// As `windlass` has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Deserialize)]
struct Payload {
    at: i64,
    // Parsed, as the others parse all of their payloads.
    #[serde(rename = "fill")]
    _fill: String,
}

/// What the bodies write to.
struct Files {
    effects: File,
    times: Option<File>,
}

impl Files {
    fn open() -> anyhow::Result<Self> {
        let open = |path| File::options().append(true).create(true).open(path);
        let effects = std::env::var_os("BENCH_FILE").context("BENCH_FILE must name a file")?;
        let times = std::env::var_os("BENCH_TIMES").map(open).transpose()?;
        Ok(Self { effects: open(effects)?, times })
    }

    /// One write each, so that they do not mix.
    fn append(&self, at: i64) -> std::io::Result<()> {
        if let Some(mut times) = self.times.as_ref() {
            let late = Clock::System.now().micros().saturating_sub(at);
            times.write_all(&u64::try_from(late).unwrap_or(0).to_le_bytes())?;
        }
        (&self.effects).write_all(b".")
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let env = std::env::vars().collect();
    let inputs = Inputs { process: Process::Worker, file: None, env, flags: Vec::new() };
    let settings = config::load(&inputs)?;
    // What `windlass worker` does as well, and what takes time.
    logs::init(&settings.log).map_err(anyhow::Error::msg)?;
    let metrics = Metrics::install().map_err(anyhow::Error::msg)?;
    let shutdown = Shutdown::on_signals()?;
    metrics.spawn_upkeep(shutdown.token.clone(), &shutdown.tasks);
    let files = Arc::new(Files::open()?);
    let worker = Worker::builder(settings.worker.clone())
        .engine(settings.engine()?.clone())
        .handle("append", move |_: Context, payload: Payload| {
            let written = files.append(payload.at);
            async move {
                written.map_err(|error| HandlerError::permanent("not_written", error.to_string()))
            }
        })
        .build()?;
    Ok(worker.run(shutdown.token.clone()).await?)
}
