// The measures, the same for each peer, and what they need: payloads, CPU of processes, percentiles, the count of
// executions. A peer (bullmq.mjs, graphile.mjs) says how jobs are added and consumed; see `main`.

import { fork } from 'node:child_process';
import { closeSync, fstatSync, mkdtempSync, openSync, readFileSync, readdirSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';

const PAYLOAD_BYTES = 200;
const BATCH = 1_000;
const RATE = 100; // of `start`, jobs/s
const WARM_UP = 100; // jobs before `start` counts: connections, prepared statements, compiled code

/** What is told without a stack. */
class Failure extends Error {}

/** CLOCK_MONOTONIC in ns: the same clock in all processes of a machine. A number is exact for 104 days of uptime. */
const now = () => Number(process.hrtime.bigint());

const FILL = 'x'.repeat(PAYLOAD_BYTES);
/** JSON.stringify makes exactly 200 bytes of it. */
const payload = (at = 0) => {
  const bare = JSON.stringify({ at, fill: '' }).length;
  return { at, fill: FILL.slice(0, PAYLOAD_BYTES - bare) };
};

/**
 * µs of CPU of a process, of its children and of theirs, those included that have ended: PostgreSQL's server processes,
 * the process in which Redis rewrites its append-only file.
 */
function cpuOfTree(root) {
  const processes = new Map();
  for (const pid of numbers('/proc')) {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
      // The name, in brackets, may hold anything. After it: state, ppid, ...; utime is the 14th field of the line. The
      // kernel counts in ticks of 10 ms (USER_HZ is 100).
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      const [utime, stime, cutime, cstime] = fields.slice(11, 15).map((field) => Number(field) * 10_000);
      processes.set(pid, { parent: Number(fields[1]), own: utime + stime, ended: cutime + cstime });
    } catch {
      // It has ended since; its parent has its time.
    }
  }
  if (!processes.has(root)) throw new Failure(`there is no process ${root}: --store-pid`);
  const sum = (pid) => {
    const { own, ended } = processes.get(pid);
    let us = (exact(pid) ?? own) + ended;
    for (const [child, { parent }] of processes) if (parent === pid) us += sum(child);
    return us;
  };
  return sum(root);
}

/** The time of the threads that a process has, in µs: a tick lost for each of 25 connections would be a quarter of a second. */
function exact(pid) {
  try {
    return numbers(`/proc/${pid}/task`)
      .map((thread) => Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'latin1').split(' ')[0]) / 1e3)
      .reduce((sum, us) => sum + us, 0);
  } catch {
    return undefined; // a kernel without it
  }
}

const numbers = (folder) => readdirSync(folder).filter((name) => /^\d+$/.test(name)).map(Number);

/** µs of CPU of this process. */
const cpuOfThis = () => {
  const { user, system } = process.cpuUsage();
  return user + system;
};

/** Nearest rank; sorts `values`. */
function percentiles(values) {
  values.sort((a, b) => a - b);
  const at = (p) => round(values[Math.max(0, Math.ceil(p * values.length) - 1)], 3);
  return { p50_ms: at(0.5), p99_ms: at(0.99) };
}

const round = (value, digits = 1) => Number(value.toFixed(digits));
const rates = (jobs, ns) => ({
  seconds: round(ns / 1e9, 3),
  jobs_per_second: Math.round(jobs / (ns / 1e9)),
});
const perJob = (jobs, cpu) => ({
  cpu_us_per_job: Object.fromEntries(Object.entries(cpu).map(([of, us]) => [of, round(us / jobs)])),
});

function same(what, is, shall) {
  if (is !== shall) throw new Failure(`${what}: ${is}, not ${shall}`);
}

/** Calls `call(n)` for n from 0 to `count` - 1, `inFlight` at once. ms of each call. */
async function concurrently(count, inFlight, call) {
  const took = [];
  let next = 0;
  const lane = async () => {
    while (next < count) {
      const n = next++;
      const begun = now();
      await call(n);
      took.push((now() - begun) / 1e6);
    }
  };
  await Promise.all(Array.from({ length: Math.min(inFlight, count) }, lane));
  return took;
}

async function addInBatches(client, jobs, inFlight) {
  return concurrently(Math.ceil(jobs / BATCH), inFlight, (n) =>
    client.addMany(Array.from({ length: Math.min(BATCH, jobs - n * BATCH) }, () => payload())),
  );
}

/** The worker process, as the driver sees it. */
function startWorker(driver, options, file, jobs) {
  const child = fork(driver, ['worker', ...process.argv.slice(3)], {
    env: { ...process.env, PEER_FILE: file, PEER_JOBS: String(jobs), NO_LOG_SUCCESS: '1' },
    // stdout is for the one line of the driver.
    stdio: ['ignore', 2, 2, 'ipc'],
  });
  const told = new Map();
  const waiting = new Map();
  let ended;
  const settle = () => {
    for (const [kind, { resolve, reject }] of waiting) {
      if (told.has(kind)) resolve(told.get(kind));
      else if (ended) reject(ended);
    }
  };
  child.on('message', ({ kind, ...rest }) => {
    told.set(kind, rest);
    settle();
  });
  child.on('exit', (code, signal) => {
    ended = new Failure(`the worker ended: ${signal ?? `exit code ${code}`}`);
    settle();
  });
  const hear = (kind) =>
    new Promise((resolve, reject) => {
      waiting.set(kind, { resolve, reject });
      setTimeout(() => reject(new Failure(`no '${kind}' of the worker`)), options.timeout * 1_000).unref();
      settle();
    });
  return {
    hear,
    ask: (kind) => {
      child.send(kind);
      return hear(kind);
    },
    end: () => child.kill('SIGKILL'),
  };
}

/** What the worker process does. PEER_JOBS is 0 for `start`, where the driver says when it is over. */
async function work(peer, options) {
  process.on('disconnect', () => process.exit(1)); // the driver has ended
  const tell = (kind, rest) => process.send({ kind, ...rest });
  const jobs = Number(process.env.PEER_JOBS);
  const file = openSync(process.env.PEER_FILE, 'a');
  let delays = [];
  let own;
  let store;
  let begun;
  let recorded = 0;

  const consumer = await peer.consume({
    options,
    jobs,
    body: ({ at }) => {
      if (jobs === 0) delays.push((now() - at) / 1e6);
      writeSync(file, '.');
    },
    /** Right before the first job is asked for. */
    onStart: () => {
      store = cpuOfTree(options['store-pid']);
      own = cpuOfThis();
      begun = now();
    },
    /** The queue has recorded that `count` jobs more are done. */
    onRecorded: (count) => {
      recorded += count;
      if (recorded !== jobs) return;
      tell('drained', { ns: now() - begun, worker: cpuOfThis() - own, storeBefore: store });
    },
  });
  tell('ready');
  process.on('message', async (kind) => {
    if (kind === 'mark') {
      delays = [];
      own = cpuOfThis();
      tell(kind);
    } else if (kind === 'report') {
      tell(kind, { delays, worker: cpuOfThis() - own });
    } else {
      await consumer.stop();
      tell('stop');
    }
  });
}

const measures = {
  /** Jobs that wait, then one worker process: from its start of processing until the last one is recorded. */
  async drain({ options, client, driver, effects }) {
    const { jobs } = options;
    await addInBatches(client, jobs, 4);
    same('jobs waiting', await client.unfinished(), jobs);
    await client.settle?.();
    const worker = startWorker(driver, options, effects.path, jobs);
    try {
      const { ns, storeBefore, ...cpu } = await worker.hear('drained');
      await worker.ask('stop');
      // Not before the store's processes of its connections have ended, or are in nobody's account.
      await sleep(200);
      cpu.store = cpuOfTree(options['store-pid']) - storeBefore;
      return { jobs, ...rates(jobs, ns), ...perJob(jobs, cpu) };
    } finally {
      worker.end();
    }
  },

  async 'submit-one'({ options, client }) {
    const { jobs } = options;
    return submit({ options, client, jobs }, () =>
      concurrently(jobs, options['in-flight'] ?? 50, () => client.addOne(payload())),
    );
  },

  async 'submit-bulk'({ options, client }) {
    const { jobs } = options;
    return submit({ options, client, jobs }, () => addInBatches(client, jobs, options['in-flight'] ?? 4));
  },

  /** An idle queue at 100 jobs/s: from before the job is added until its body starts, in another process. */
  async start({ options, client, driver, effects }) {
    const worker = startWorker(driver, options, effects.path, 0);
    const load = async (jobs) => {
      const before = effects.count();
      const begun = now();
      const adding = [];
      for (let n = 0; n < jobs; n++) {
        const wait = n * (1e3 / RATE) - (now() - begun) / 1e6;
        if (wait > 0) await sleep(wait);
        adding.push(client.addOne(payload(now())));
      }
      await Promise.all(adding);
      for (let tries = 0; effects.count() < before + jobs && tries < 1_000; tries++) await sleep(10);
    };
    try {
      await worker.hear('ready');
      await load(WARM_UP);
      same('executions of the warm-up', effects.count(), WARM_UP);
      await worker.ask('mark');
      effects.forget();

      const jobs = options.seconds * RATE;
      const store = cpuOfTree(options['store-pid']);
      const own = cpuOfThis();
      const begun = now();
      await load(jobs);
      const report = await worker.ask('report');
      const ns = now() - begun;
      const ours = cpuOfThis() - own;
      const cpu = { worker: report.worker, store: cpuOfTree(options['store-pid']) - store, client: ours };
      await worker.ask('stop');
      return { jobs, ...rates(jobs, ns), ...perJob(jobs, cpu), ...percentiles(report.delays) };
    } finally {
      worker.end();
    }
  },

  /** Bytes that the store takes for a job that waits. */
  async memory({ options, client }) {
    if (!client.memory) throw new Failure('this peer has no such measure');
    const { jobs } = options;
    // What is there once, however many jobs: scripts, connections, the queue's own keys.
    await addInBatches(client, BATCH, 1);
    await client.empty();
    // Buffers (replies, the append-only file's) are given back within a second or so.
    await sleep(1_500);
    const before = await client.memory();
    await addInBatches(client, jobs, 4);
    await sleep(1_500);
    const bytes = (await client.memory()) - before;
    same('jobs waiting', await client.unfinished(), jobs);
    return { jobs, bytes_per_job: round(bytes / jobs) };
  },
};

async function submit({ options, client, jobs }, add) {
  const store = cpuOfTree(options['store-pid']);
  const own = cpuOfThis();
  const begun = now();
  const took = await add();
  const ns = now() - begun;
  const ours = cpuOfThis() - own;
  const cpu = { store: cpuOfTree(options['store-pid']) - store, client: ours };
  same('jobs waiting', await client.unfinished(), jobs);
  // Of a call: for `submit-bulk`, of a batch.
  return { jobs, ...rates(jobs, ns), ...perJob(jobs, cpu), ...percentiles(took) };
}

/** The file to which the body of each job appends one byte. */
function openEffects() {
  const folder = mkdtempSync(join(tmpdir(), 'windlass-peers.'));
  const path = join(folder, 'effects');
  const file = openSync(path, 'a');
  let base = 0;
  return {
    path,
    count: () => fstatSync(file).size - base,
    forget: () => (base = fstatSync(file).size),
    remove: () => {
      closeSync(file);
      rmSync(folder, { recursive: true });
    },
  };
}

const common = {
  jobs: { default: 2_000, what: 'jobs of drain, submit-one, submit-bulk and memory' },
  seconds: { default: 20, what: `seconds of start, at ${RATE} jobs/s` },
  'in-flight': { default: undefined, what: 'calls at once (default: 50 of submit-one, 4 of submit-bulk)' },
  'store-pid': { default: undefined, what: 'process of the store, whose CPU counts; with its children' },
  timeout: { default: 600, what: 'seconds to wait for the worker' },
};

function readOptions(peer, arguments_) {
  const known = { ...common, ...peer.options };
  const { values } = parseArgs({
    // A number below 0 is a value, not an option.
    args: arguments_.flatMap((text, n) => {
      if (/^-\d/.test(text)) return [];
      return /^-\d/.test(arguments_[n + 1] ?? '') ? [`${text}=${arguments_[n + 1]}`] : [text];
    }),
    options: Object.fromEntries(Object.keys(known).map((name) => [name, { type: 'string' }])),
  });
  const options = {};
  for (const [name, { default: fallback }] of Object.entries(known)) {
    const value = values[name] ?? fallback;
    options[name] = typeof fallback === 'string' || value === undefined ? value : Number(value);
    if (Number.isNaN(options[name])) throw new Failure(`--${name} is to be a number`);
  }
  if (!options['store-pid']) throw new Failure('--store-pid is needed');
  return options;
}

function usage(peer, driver) {
  const lines = Object.entries({ ...common, ...peer.options }).map(
    ([name, { default: fallback, what }]) =>
      `  --${name.padEnd(20)} ${what}${fallback === undefined ? '' : ` (default ${fallback})`}`,
  );
  return `node ${basename(driver)} ${Object.keys(measures).join('|')} [options], on a store without jobs\n\n${lines.join('\n')}\n`;
}

/**
 * Runs the measure of the command line and prints one line of JSON. A peer has
 *   name, options: what it is called; its own options, each {default, what}
 *   connect(options): the client {addOne(data), addMany(list of data), unfinished(), close()}, where `unfinished` counts
 *     all jobs of the store that are not done; with settle() (before a drain), or memory() and empty(), if it has those
 *   consume({options, jobs, body, onStart, onRecorded}): works until stop() of what it returns
 */
export async function main(peer, driver) {
  const [measure, ...rest] = process.argv.slice(2);
  if (measure === undefined || process.argv.includes('--help')) {
    process.stdout.write(usage(peer, driver));
    return;
  }
  let client;
  let effects;
  try {
    if (measure !== 'worker' && !(measure in measures)) throw new Failure(`there is no measure '${measure}'; see --help`);
    const options = readOptions(peer, rest);
    if (measure === 'worker') {
      await work(peer, options);
      return;
    }
    client = await peer.connect(options);
    same('jobs in the store before the measure', await client.unfinished(), 0);
    effects = openEffects();
    const report = await measures[measure]({ options, client, driver, effects });
    if (measure === 'drain' || measure === 'start') {
      report.executions = effects.count();
      same('executions', report.executions, report.jobs);
      same('jobs that are not done', await client.unfinished(), 0);
    }
    console.log(JSON.stringify({ peer: peer.name, measure, ...report }));
  } catch (error) {
    const plain = error instanceof Failure || error.code?.startsWith('ERR_PARSE_ARGS');
    console.error(`${basename(driver)} ${measure}: ${plain ? error.message : error.stack}`);
    process.exitCode = 1;
  }
  effects?.remove();
  await client?.close();
  process.exit(); // with what is left of timers and sockets
}
