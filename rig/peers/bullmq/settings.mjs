// BullMQ's settings, each from its documentation; docs/rig/peers.md has the reasons and the pages.

const redis = new URL(process.env.PEER_REDIS);
const address = { host: redis.hostname, port: Number(redis.port) };

/** "Going to production": calls of a Queue fail at once while Redis is away. */
export const producer = { ...address, enableOfflineQueue: false };
/** The same page: a Worker waits for Redis for as long as it takes. */
export const consumer = { ...address, maxRetriesPerRequest: null };

/** `defaults`: BullMQ's own lock of 30 s, looked for every 30 s. Else a lock as long as the lease of Windlass. */
export const locks =
  process.env.PEER_VARIANT === 'defaults'
    ? {}
    : { lockDuration: Number(process.env.PEER_LOCK_MS), stalledInterval: 1_000 };

/** Retries as the rig asks for them; finished jobs stay for so long that their ids keep others out. */
export const jobOptions = ({ key, delay, retry }) => ({
  jobId: key,
  delay,
  attempts: 20,
  backoff: { type: 'fixed', delay: retry },
  removeOnComplete: { age: 3_600 },
  removeOnFail: { age: 24 * 3_600 },
});

// A Worker serves one queue. So that slots are the same in number, the rig's three queues of load are one here.
const OWN = ['rig-wait', 'rig-spin'];
/** The queue of BullMQ for a queue of the rig. */
export const queueOf = (queue) => (OWN.includes(queue) ? queue : 'rig');
