// Submits to BullMQ for the rig's clients.

import { Queue } from 'bullmq';

import { serve } from '../shared/shim.mjs';
import { jobOptions, producer, queueOf } from './settings.mjs';

const queues = new Map();
for (const name of ['rig', 'rig-wait', 'rig-spin']) {
  const queue = new Queue(name, { connection: producer });
  queue.on('error', (error) => console.error(`${name}: ${error.message}`));
  await queue.waitUntilReady();
  queues.set(name, queue);
}

process.on('unhandledRejection', (reason) => console.error('unhandled', reason));

serve(Number(process.env.PEER_PORT), {
  async submit(jobs) {
    const entries = jobs.map((job) => ({
      name: job.kind,
      data: { key: job.key, queue: job.queue, ...job.payload },
      opts: jobOptions(job),
    }));
    const queue = queues.get(queueOf(jobs[0].queue));
    if (entries.length === 1) {
      await queue.add(entries[0].name, entries[0].data, entries[0].opts);
    } else {
      await queue.addBulk(entries);
    }
  },

  async state(key) {
    for (const queue of queues.values()) {
      const state = await queue.getJobState(key);
      if (state !== 'unknown') {
        return state;
      }
    }
    return undefined;
  },

  async pause(name, paused) {
    const queue = queues.get(queueOf(name));
    await (paused ? queue.pause() : queue.resume());
  },
});
