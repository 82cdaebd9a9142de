//! Starting workers: those of the beginning, those in the place of killed ones, and further ones.

use super::process::{Process, Program};
use super::{ENGINE_URL, Fleet, Role, links};

impl Fleet {
    /// A worker's program. Every start has a name of its own, so that evidence tells them apart.
    pub(super) fn worker_program(&mut self, n: usize) -> Program {
        self.starts += 1;
        let name = format!("worker-{n}.{}", self.starts);
        let api = self.urls[n % self.urls.len()].clone();
        let mut env =
            vec![("WINDLASS_WORKER__NAME", name.clone()), ("WINDLASS_WORKER__API_URL", api)];
        env.extend(self.links.of_worker(n).map(|link| (ENGINE_URL, links::url(link))));
        if n == 0 && !self.options.queues_of_first.is_empty() {
            let queues = self.options.queues.iter().chain(&self.options.queues_of_first);
            let queues: Vec<&str> = queues.map(String::as_str).collect();
            env.push(("WINDLASS_WORKER__QUEUES", queues.join(",")));
        }
        let mut program = self.program(&name, Role::Worker, &env);
        // Its name is of one start; its place stays.
        program.env.extend(self.own_env(&format!("worker-{n}")));
        program
    }

    /// Starts a worker in the place of a killed one; its new name.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn replace_worker(&mut self, n: usize) -> anyhow::Result<String> {
        let program = self.worker_program(n);
        let name = program.name.clone();
        self.workers[n] = Process::start(program)?;
        Ok(name)
    }

    /// Starts one more worker beside the others.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn add_worker(&mut self) -> anyhow::Result<()> {
        let program = self.worker_program(self.workers.len());
        self.workers.push(Process::start(program)?);
        self.options.workers = self.workers.len();
        Ok(())
    }
}
