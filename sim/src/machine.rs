//! One simulated process: a runtime of its own that runs only when it is told to.

use std::task::Poll;

use tokio::runtime::{Builder, Runtime};

use crate::below::{self, Parked};

/// A process that has been started. Dropping it is `kill -9`: its tasks are gone.
pub struct Machine {
    runtime: Runtime,
    parked: Option<Parked>,
}

impl Machine {
    /// Starts a process with this as its main task. Nothing of it has run yet.
    pub fn start(main: impl Future<Output = ()> + Send + 'static) -> Self {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime needs a few file descriptors and nothing else");
        runtime.spawn(main);
        Self { runtime, parked: None }
    }

    /// Lets it do all that it can do now.
    pub fn step(&mut self) {
        below::wake_when_idle(None);
        self.runtime.block_on(std::future::poll_fn(|context| {
            if below::parked().is_some() {
                return Poll::Ready(());
            }
            below::wake_when_idle(Some(context.waker().clone()));
            Poll::Pending
        }));
        self.parked = below::parked();
    }

    /// What it waits for; `None`: it has not run yet.
    pub const fn parked(&self) -> Option<Parked> {
        self.parked
    }
}
