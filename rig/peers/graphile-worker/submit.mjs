// Submits to graphile-worker for the rig's clients.

import { makeWorkerUtils } from 'graphile-worker';

import { serve } from '../shared/shim.mjs';

const utils = await makeWorkerUtils({
  preset: { worker: { connectionString: process.env.PEER_POSTGRES } },
});
await utils.migrate();

const MODES = { unsafe_dedupe: 'unsafe_dedupe' };
const jobKeyMode = MODES[process.env.PEER_VARIANT] ?? 'replace';

const spec = ({ key, delay }) => ({
  jobKey: key,
  jobKeyMode,
  ...(delay > 0 ? { runAt: new Date(Date.now() + delay) } : {}),
});

serve(Number(process.env.PEER_PORT), {
  async submit(jobs) {
    for (const job of jobs) {
      const task = job.queue === 'rig-spin' ? 'rig.spin' : 'rig.effect';
      const payload = { key: job.key, kind: job.kind, queue: job.queue, ...job.payload };
      // Its documentation: under contention of a key `null` may come back, and nothing is stored.
      if (!(await utils.addJob(task, payload, spec(job)))) {
        throw new Error(`${job.key} was not stored`);
      }
    }
  },

  // A job that has succeeded is deleted.
  async state(key) {
    const sql = `select case when locked_at is not null then 'locked' when attempts >= max_attempts then 'failed'
        else 'waiting' end as state from graphile_worker.jobs where key = $1`;
    const found = await utils.withPgClient((client) => client.query(sql, [key]));
    return found.rows[0]?.state;
  },
});
