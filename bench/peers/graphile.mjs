// graphile-worker on PostgreSQL. What the settings come from: README.md.

import { EventEmitter } from 'node:events';
import { fileURLToPath } from 'node:url';

import { Logger, makeWorkerUtils, run } from 'graphile-worker';

import { main } from './lib.mjs';

const TASK = 'noop';

// stdout is for results, and a line per job would be a cost of the log.
const logger = new Logger(() => (level, message) => {
  if (level === 'error' || level === 'warning') console.error(`graphile-worker: ${level}: ${message}`);
});

async function connect(options) {
  const utils = await makeWorkerUtils({
    preset: { worker: { connectionString: options.url, maxPoolSize: options['client-pool'], logger } },
  });
  await utils.migrate();
  const query = (sql) => utils.withPgClient((client) => client.query(sql));
  // Connects: a client that submits has its connections.
  await Promise.all(Array.from({ length: options['client-pool'] }, () => query('select pg_sleep(0.05)')));
  return {
    addOne: (data) => utils.addJob(TASK, data),
    addMany: (list) => utils.addJobs(list.map((payload) => ({ identifier: TASK, payload }))),
    async unfinished() {
      return Number((await query('select count(*) from graphile_worker.jobs')).rows[0].count);
    },
    // So that plans do not hang on whether autovacuum has come by.
    settle: () => query('analyze graphile_worker._private_jobs'),
    close: () => utils.release(),
  };
}

async function consume({ options, jobs, body, onStart, onRecorded }) {
  const events = new EventEmitter();
  events.once('pool:create', onStart); // emitted right before the first jobs are asked for
  let complete = 0;
  let stopping;
  let runner;
  const stop = () => (stopping ??= runner.stop());
  // This one comes before the batch of the job is in the database; the end of a shutdown comes after all of them are.
  events.on('job:complete', ({ error }) => {
    if (!error && ++complete === jobs) stop().then(() => onRecorded(jobs));
  });
  runner = await run({
    events,
    noHandleSignals: true,
    taskList: { [TASK]: async (payload) => body(payload) },
    parsedCronItems: [],
    preset: {
      worker: {
        connectionString: options.url,
        concurrentJobs: options.concurrency,
        maxPoolSize: options.concurrency + 1,
        localQueue: { size: options['local-queue'] },
        completeJobBatchDelay: options['batch-delay'],
        failJobBatchDelay: options['batch-delay'],
        logger,
      },
    },
  });
  return { stop };
}

const options = {
  url: { default: 'postgres://127.0.0.1:5432/windlass', what: 'of a database of its own' },
  concurrency: { default: 24, what: 'concurrentJobs of the worker; its pool has one connection more' },
  'local-queue': { default: 500, what: 'localQueue.size; -1: none' },
  'batch-delay': { default: 0, what: 'completeJobBatchDelay and failJobBatchDelay in ms; -1: no batches' },
  'client-pool': { default: 10, what: 'maxPoolSize of the client that submits' },
};

await main({ name: 'graphile', options, connect, consume }, fileURLToPath(import.meta.url));
