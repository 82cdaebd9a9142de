// BullMQ on Redis. What the settings come from: README.md.

import { fileURLToPath } from 'node:url';

import { Queue, Worker } from 'bullmq';
import { Redis } from 'ioredis';

import { main } from './lib.mjs';

const NAME = 'noop';

const address = (options) => {
  const { hostname, port } = new URL(options.url);
  // "Going to production": a Worker waits for Redis for as long as it takes.
  return { host: hostname, port: Number(port), maxRetriesPerRequest: null };
};

async function connect(options) {
  const queue = new Queue(NAME, { connection: address(options) });
  await queue.waitUntilReady();
  const redis = new Redis(address(options));
  return {
    addOne: (data) => queue.add(NAME, data),
    addMany: (list) => queue.addBulk(list.map((data) => ({ name: NAME, data }))),
    async unfinished() {
      const { completed, ...counts } = await queue.getJobCounts();
      return Object.values(counts).reduce((sum, count) => sum + count, 0);
    },
    empty: () => queue.drain(),
    async memory() {
      return Number(/^used_memory:(\d+)/m.exec(await redis.info('memory'))[1]);
    },
    async close() {
      await queue.close();
      await redis.quit();
    },
  };
}

async function consume({ options, body, onStart, onRecorded }) {
  const worker = new Worker(NAME, async (job) => body(job.data), {
    connection: address(options),
    autorun: false,
    concurrency: options.concurrency,
    ...(options.keep < 0 ? {} : { removeOnComplete: { count: options.keep } }),
  });
  // It is emitted once Redis has answered that the job is done.
  worker.on('completed', () => onRecorded(1));
  worker.on('failed', (job, error) => console.error(`job ${job?.id} failed: ${error.stack}`));
  worker.on('error', (error) => console.error(error));
  await worker.waitUntilReady();
  onStart();
  worker.run();
  return { stop: () => worker.close() };
}

const options = {
  url: { default: 'redis://127.0.0.1:6379', what: 'of Redis' },
  concurrency: { default: 50, what: 'jobs at once in the worker' },
  keep: { default: 0, what: 'jobs kept once done; -1: all, as BullMQ does by itself' },
};

await main({ name: 'bullmq', options, connect, consume }, fileURLToPath(import.meta.url));
