// Runs one job of BullMQ: in the worker's process, or in a child of it where the rig asks for a sandbox.

import { execute } from '../shared/execute.mjs';

export default async function processor(job) {
  // `attemptsMade` counts failures; a job that came back from a lost worker has not failed.
  // Where Redis has lost the job but not its id, it comes without data or name.
  const attempt = job.attemptsMade + 1;
  await execute({ queue: '', ...job.data, key: job.id, kind: job.name ?? '', attempt });
}
