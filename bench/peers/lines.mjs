// What table.mjs and plot.mjs read: lines of JSON, one per run.

import { readFileSync } from 'node:fs';

/** The reports of a file, by measure and queue. */
export function groups(file) {
  const groups = new Map();
  for (const line of readFileSync(file, 'utf8').split('\n').filter(Boolean)) {
    const report = JSON.parse(line);
    const key = `${report.measure} ${report.peer}`;
    groups.set(key, [...(groups.get(key) ?? []), report]);
  }
  return groups;
}

export function median(values) {
  values.sort((a, b) => a - b);
  const middle = values.length >> 1;
  return values.length % 2 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}
