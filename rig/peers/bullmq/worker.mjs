// A worker of BullMQ: `PEER_QUEUES` (names, commas between), `PEER_SLOTS` jobs of each at once.

import { fileURLToPath } from 'node:url';

import { Worker } from 'bullmq';

import processor from './processor.mjs';
import { consumer, locks } from './settings.mjs';

const file = fileURLToPath(new URL('./processor.mjs', import.meta.url));
const run = process.env.PEER_VARIANT === 'sandboxed' ? file : processor;

// As its documentation advises: no error ends the process.
process.on('uncaughtException', (error) => console.error('uncaught', error));
process.on('unhandledRejection', (reason) => console.error('unhandled', reason));

for (const queue of process.env.PEER_QUEUES.split(',')) {
  const concurrency = Number(process.env.PEER_SLOTS);
  const worker = new Worker(queue, run, { connection: consumer, concurrency, ...locks });
  worker.on('error', (error) => console.error(`${queue}: ${error.message}`));
  worker.on('stalled', (id) => console.error(`${queue}: ${id} has stalled`));
  worker.on('failed', (job, error) => console.error(`${queue}: ${job?.id} has failed: ${error.message}`));
  await worker.waitUntilReady();
}
console.error('ready');
