// The medians of lines of JSON, as a table: node table.mjs FILE

import { readFileSync } from 'node:fs';

const groups = new Map();
for (const line of readFileSync(process.argv[2], 'utf8').split('\n').filter(Boolean)) {
  const report = JSON.parse(line);
  const key = `${report.measure} ${report.peer}`;
  groups.set(key, [...(groups.get(key) ?? []), report]);
}

const columns = {
  'jobs/s': (report) => report.jobs_per_second,
  'worker µs': (report) => report.cpu_us_per_job?.worker,
  'store µs': (report) => report.cpu_us_per_job?.store,
  'api µs': (report) => report.cpu_us_per_job?.api,
  'sched µs': (report) => report.cpu_us_per_job?.scheduler,
  'client µs': (report) => report.cpu_us_per_job?.client,
  'p50 ms': (report) => report.p50_ms,
  'p99 ms': (report) => report.p99_ms,
  'bytes/job': (report) => report.bytes_per_job,
};

function median(values) {
  values.sort((a, b) => a - b);
  const middle = values.length >> 1;
  return values.length % 2 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

const text = (value) => {
  if (value === undefined) return '';
  return value >= 100 ? Math.round(value).toLocaleString('en') : String(Number(value.toFixed(2)));
};
const line = (cells) => cells.map((cell, n) => (n < 2 ? cell.padEnd(12) : cell.padStart(10))).join('');

console.log(line(['measure', 'queue', 'runs', 'jobs', ...Object.keys(columns)]));
for (const reports of groups.values()) {
  const cells = Object.values(columns).map((column) => {
    const values = reports.map(column).filter((value) => value !== undefined);
    return text(values.length ? median(values) : undefined);
  });
  console.log(line([reports[0].measure, reports[0].peer, String(reports.length), text(reports[0].jobs), ...cells]));
}
console.log('\nMedians; µs of CPU per job; p50 and p99 of a call (submit-*) or from before it to the start of the job (start).');
