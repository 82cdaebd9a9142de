// The job of every driver: as the handler `rig.effect` of `rig/src/worker.rs`.

import { setTimeout as sleep } from 'node:timers/promises';

import { openLog, stamp } from './effects.mjs';

const append = openLog(process.env.PEER_EFFECTS);
const worker = process.env.PEER_NAME;

/**
 * Runs one job between its two lines. `job`: `key`, `kind`, `queue`, `attempt` (from 1), and what the rig submitted as its
 * payload: `ms`, `fails` (so many first attempts fail), `spin` (blocks the thread instead of waiting).
 */
export async function execute({ key, kind, queue, attempt, ms, fails = 0, spin = false }) {
  const started = stamp();
  // Peers number no leases: the start's instant takes the place of the claim's.
  const fence = started.wall_us + (started.boot_us % 1000);
  const effect = { job: key, fence, worker, attempt, kind, queue, started };
  append({ phase: 'start', ...effect, at: started });
  if (ms === undefined) {
    append({ phase: 'end', ...effect, at: stamp(), end: 'dropped' });
    throw new Error('the job came without its payload');
  }
  if (spin) {
    const until = process.hrtime.bigint() + BigInt(ms) * 1_000_000n;
    while (process.hrtime.bigint() < until);
  } else {
    await sleep(ms);
  }
  const planned = attempt <= fails;
  append({ phase: 'end', ...effect, at: stamp(), end: planned ? 'planned' : 'ok' });
  if (planned) {
    throw new Error('as the payload says');
  }
}
