// A report of `windlass loadtest bench` as the line that the other drivers print: node windlass.mjs MEASURE FILE

import { readFileSync } from 'node:fs';

const [measure, file] = process.argv.slice(2);
const report = JSON.parse(readFileSync(file, 'utf8'));
const round = (value, digits) => Number(value.toFixed(digits));

/** CPU by process, with that of both stores as the store's. */
function costs(cost) {
  const store = (cost('redis') ?? 0) + (cost('postgres') ?? 0);
  const all = { store: store || undefined };
  for (const name of ['redis', 'postgres', 'api', 'scheduler', 'worker', 'dev', 'client']) all[name] = cost(name);
  return Object.fromEntries(Object.entries(all).flatMap(([name, us]) => (us === undefined ? [] : [[name, round(us, 1)]])));
}

/** The last stage of a load profile. */
function load() {
  const of = (figure) => report.figures[`flat_out.${figure}`];
  return {
    jobs: of('accepted'),
    seconds: round(of('seconds'), 3),
    jobs_per_second: Math.round(of('ended_per_second')),
    cpu_us_per_job: costs((name) => of(`${name}_cpu_us_per_job`)),
    drain_seconds: round(of('drain_seconds'), 3),
    p50_ms: round(of('end_p50_ms'), 3),
    p99_ms: round(of('end_p99_ms'), 3),
  };
}

function line() {
  if (measure === 'memory') return { jobs: report.jobs, bytes_per_job: round(report.memory / report.jobs, 1) };
  if (measure.endsWith('path')) return load();
  const { jobs, seconds, jobs_per_second, cpu, latency } = report.median;
  const cpu_us_per_job = costs((name) => cpu.find(({ process }) => process === name)?.us_per_job);
  const rates = { jobs, seconds: round(seconds, 3), jobs_per_second: Math.round(jobs_per_second), cpu_us_per_job };
  // Of a drain it is the time since the submission, which has another meaning.
  return measure === 'drain' ? rates : { ...rates, p50_ms: round(latency.p50_ms, 3), p99_ms: round(latency.p99_ms, 3) };
}

console.log(JSON.stringify({ peer: 'windlass', measure, ...line() }));
