// A worker of graphile-worker: `PEER_SLOTS` jobs at once, its defaults for all else (poll of 2 s beside LISTEN, no local
// queue, no batches). It serves the task `rig.spin` only where the rig asks for it.

import { run } from 'graphile-worker';

import { execute } from '../shared/execute.mjs';

const task = async ({ kind, ...payload }, { job }) => {
  await execute({ ...payload, kind, attempt: job.attempts });
};
const taskList = { 'rig.effect': task };
if (process.env.PEER_QUEUES.split(',').includes('rig-spin')) {
  taskList['rig.spin'] = task;
}

const runner = await run({
  preset: {
    worker: {
      connectionString: process.env.PEER_POSTGRES,
      concurrentJobs: Number(process.env.PEER_SLOTS),
    },
  },
  taskList,
});
console.error('ready');
await runner.promise;
