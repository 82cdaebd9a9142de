//! The `windlass` binary: every role and every tool, one thin file each under [`commands`].

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod admin;
mod boot;
mod client;
mod commands;
mod exit;
mod input;
mod memory;
mod output;
mod setup;
mod system;

use exit::Outcome;

// One allocator on every platform; musl's own is slow under many threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ABOUT: &str = "\
A durable job queue and worker fleet.

Start here:
  windlass dev                                        everything in one process, nothing to install
  windlass job submit echo --payload '\"hi\"' --wait    run a job
  windlass doctor                                     what is wrong here, and what to do

In production run `windlass api`, `windlass worker` and `windlass scheduler`, any number of each, on \
PostgreSQL and Redis (`windlass migrate up` first).";

const EXIT_CODES: &str = "\
Exit codes: 0 fine, 1 failed, 2 bad usage or settings, 3 a check or threshold did not hold.
Signals: the first SIGTERM or SIGINT drains and exits 0; a second one exits at once with 130.";

#[derive(Debug, Parser)]
#[command(
    name = "windlass",
    version,
    about = "A durable job queue and worker fleet",
    long_about = ABOUT,
    after_help = EXIT_CODES,
    arg_required_else_help = true,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(commands::dev::DevArgs),
    Api(commands::api::ApiArgs),
    Worker(commands::worker::WorkerArgs),
    Scheduler(commands::scheduler::SchedulerArgs),
    Key(commands::key::KeyArgs),
    Migrate(commands::migrate::MigrateArgs),
    Job(commands::job::JobArgs),
    Workflow(commands::workflow::WorkflowArgs),
    Queue(commands::queue::QueueArgs),
    Circuit(commands::circuit::CircuitArgs),
    Quota(commands::quota::QuotaArgs),
    Schedule(commands::schedule::ScheduleArgs),
    System(commands::system::SystemArgs),
    Backup(commands::backup::BackupArgs),
    Config(commands::config::ConfigArgs),
    Doctor(commands::doctor::DoctorArgs),
    Loadtest(commands::loadtest::LoadtestArgs),
    LoadCheck(commands::load_check::LoadCheckArgs),
}

fn main() -> ExitCode {
    // Before anything can fail.
    let must_halt = commands::backup::fetches_wal();
    if must_halt {
        exit::abort_on_panic();
    }
    // Before any TLS configuration is made. It fails only when one is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cli = Cli::try_parse().unwrap_or_else(|error| commands::backup::end(&error));
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if must_halt => failure.or_halt().report(),
        Err(failure) => failure.report(),
    }
}

fn run(command: Command) -> Outcome {
    let runtime = setup::runtime()?;
    let outcome = runtime.block_on(async {
        // Boxed: the futures of the roles are large, and only one is ever made.
        match command {
            Command::Dev(args) => Box::pin(commands::dev::run(args)).await,
            Command::Api(args) => Box::pin(commands::api::run(args)).await,
            Command::Worker(args) => Box::pin(commands::worker::run(args)).await,
            Command::Scheduler(args) => Box::pin(commands::scheduler::run(args)).await,
            Command::Key(args) => Box::pin(commands::key::run(args)).await,
            Command::Migrate(args) => Box::pin(commands::migrate::run(args)).await,
            Command::Job(args) => Box::pin(commands::job::run(args)).await,
            Command::Workflow(args) => Box::pin(commands::workflow::run(args)).await,
            Command::Queue(args) => Box::pin(commands::queue::run(args)).await,
            Command::Circuit(args) => Box::pin(commands::circuit::run(args)).await,
            Command::Quota(args) => Box::pin(commands::quota::run(args)).await,
            Command::Schedule(args) => Box::pin(commands::schedule::run(args)).await,
            Command::System(args) => Box::pin(commands::system::run(args)).await,
            Command::Backup(args) => Box::pin(commands::backup::run(args)).await,
            Command::Config(args) => commands::config::run(args),
            Command::Doctor(args) => Box::pin(commands::doctor::run(args)).await,
            Command::Loadtest(args) => Box::pin(commands::loadtest::run(args)).await,
            Command::LoadCheck(args) => Box::pin(commands::load_check::run(args)).await,
        }
    });
    // A blocked thread (a name being resolved) must not hold up the exit.
    runtime.shutdown_background();
    outcome
}
