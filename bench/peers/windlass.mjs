// A report of `windlass loadtest bench` as the line that the other drivers print: node windlass.mjs MEASURE FILE

import { readFileSync } from 'node:fs';

const [measure, file] = process.argv.slice(2);
const report = JSON.parse(readFileSync(file, 'utf8'));
const round = (value, digits) => Number(value.toFixed(digits));

function line() {
  if (measure === 'memory') return { jobs: report.jobs, bytes_per_job: round(report.memory / report.jobs, 1) };
  const { jobs, seconds, jobs_per_second, cpu, latency } = report.median;
  const of = (...names) =>
    round(cpu.filter(({ process }) => names.includes(process)).reduce((sum, { us_per_job }) => sum + us_per_job, 0), 1);
  const cpu_us_per_job = { store: of('redis', 'postgres'), api: of('api'), scheduler: of('scheduler'), client: of('client') };
  if (cpu.some(({ process }) => process === 'worker')) cpu_us_per_job.worker = of('worker');
  const rates = { jobs, seconds: round(seconds, 3), jobs_per_second: Math.round(jobs_per_second), cpu_us_per_job };
  // Of a drain it is the time since the submission, which has another meaning.
  return measure === 'drain' ? rates : { ...rates, p50_ms: round(latency.p50_ms, 3), p99_ms: round(latency.p99_ms, 3) };
}

console.log(JSON.stringify({ peer: 'windlass', measure, ...line() }));
