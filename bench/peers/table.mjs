// The medians of lines of JSON, as a table: node table.mjs FILE

import { groups, median } from './lines.mjs';

// Redis and PostgreSQL are the store.
const sum = ({ redis, postgres, ...parts }) => Object.values(parts).reduce((sum, us) => sum + us, 0);

const columns = {
  'jobs/s': (report) => report.jobs_per_second,
  'worker µs': (report) => report.cpu_us_per_job?.worker,
  'store µs': (report) => report.cpu_us_per_job?.store,
  'api µs': (report) => report.cpu_us_per_job?.api,
  'sched µs': (report) => report.cpu_us_per_job?.scheduler,
  'client µs': (report) => report.cpu_us_per_job?.client,
  'all µs': (report) => report.cpu_us_per_job && sum(report.cpu_us_per_job),
  'p50 ms': (report) => report.p50_ms,
  'p99 ms': (report) => report.p99_ms,
  'bytes/job': (report) => report.bytes_per_job,
};

const text = (value) => {
  if (value === undefined) return '';
  return value >= 100 ? Math.round(value).toLocaleString('en') : String(Number(value.toFixed(2)));
};
const line = (cells) => cells.map((cell, n) => (n < 2 ? cell.padEnd(12) : cell.padStart(10))).join('');

console.log(line(['measure', 'queue', 'runs', 'jobs', ...Object.keys(columns)]));
for (const reports of groups(process.argv[2]).values()) {
  const cells = Object.values(columns).map((column) => {
    const values = reports.map(column).filter((value) => value !== undefined);
    return text(values.length ? median(values) : undefined);
  });
  console.log(line([reports[0].measure, reports[0].peer, String(reports.length), text(reports[0].jobs), ...cells]));
}
console.log('\nMedians; µs of CPU per job; p50 and p99 of a call (submit-*) or from before it to the start of the job (start).');
