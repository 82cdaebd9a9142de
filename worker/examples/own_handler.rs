//! A worker with a handler of its own. `WINDLASS_ENGINE__URL=redis://127.0.0.1/` makes it serve the jobs of
//! kind `greet` in the queue `default`; without it, it works on an empty engine in memory.

use tokio_util::sync::CancellationToken;
use windlass_shared::config::{EngineSettings, WorkerSettings};
use windlass_worker::{context::Context, error::HandlerError, worker::Worker};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("WINDLASS_ENGINE__URL").unwrap_or_else(|_| "embedded".into());
    let worker = Worker::builder(WorkerSettings::default())
        .engine(EngineSettings::new(url))
        .handle("greet", |_ctx: Context, name: String| async move {
            Ok::<_, HandlerError>(format!("hello, {name}"))
        })
        .build()?;
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move { tokio::signal::ctrl_c().await.map(|()| stop.cancel()) });
    Ok(worker.run(shutdown).await?)
}
