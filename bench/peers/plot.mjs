// Where a job's microseconds of CPU go, as an SVG of bars, from lines of JSON: node plot.mjs FILE >costs.svg

import { groups, median } from './lines.mjs';

// In the order in which a job meets them.
const parts = ['client', 'api', 'postgres', 'redis', 'scheduler', 'worker', 'dev'];
const titles = { drain: 'drain', 'submit-one': 'submit one by one', 'submit-bulk': 'submit 1,000 at a time', path: 'whole path', 'dev-path': 'whole path, dev' };
const stores = { bullmq: 'redis', graphile: 'postgres' };

/** The medians of each part of one group of reports. */
function costs(reports) {
  const of = (name) => reports.map(({ cpu_us_per_job }) => cpu_us_per_job[name]).filter((value) => value !== undefined);
  const costs = {};
  for (const part of parts) {
    const values = of(part).length ? of(part) : of(stores[reports[0].peer] === part ? 'store' : '');
    if (values.length && median(values) > 0) costs[part] = median(values);
  }
  return costs;
}

const bars = [...groups(process.argv[2])]
  .filter(([, [report]]) => report.measure in titles)
  .map(([, reports]) => ({ measure: titles[reports[0].measure], peer: reports[0].peer, costs: costs(reports) }));
// What takes far longer than the others is cut off, and says how long it is.
const sums = bars.map(({ costs }) => Object.values(costs).reduce((sum, value) => sum + value, 0));
const longest = Math.min(Math.max(...sums), 3 * median([...sums]));
const [left, width, height] = [230, 560, 24];
const scale = (us) => (us * width) / longest;
const out = [];
let y = 40;
let before;
bars.forEach(({ measure, peer, costs }, n) => {
  if (before !== undefined && before !== measure) y += 10;
  if (before !== measure) out.push(`<text x="10" y="${y + 15}">${measure}</text>`);
  before = measure;
  out.push(`<text x="${left - 8}" y="${y + 15}" text-anchor="end">${peer}</text>`);
  let x = 0;
  for (const [part, us] of Object.entries(costs)) {
    const length = Math.min(scale(us), width - x);
    out.push(`<rect class="${part}" x="${(left + x).toFixed(1)}" y="${y}" width="${length.toFixed(1)}" height="${height - 4}"><title>${part} ${us.toFixed(1)} µs</title></rect>`);
    if (length > 30) out.push(`<text class="in" x="${(left + x + length / 2).toFixed(1)}" y="${y + 14}" text-anchor="middle">${us.toFixed(us < 10 ? 1 : 0)}</text>`);
    x += length;
  }
  const note = sums[n] > longest ? ' (cut off)' : '';
  out.push(`<text x="${(left + x + 6).toFixed(1)}" y="${y + 15}">${sums[n].toFixed(0)} µs${note}</text>`);
  y += height;
});
const legend = parts.map((part, n) => `<rect class="${part}" x="${left + n * 95}" y="14" width="12" height="12"/><text x="${left + n * 95 + 17}" y="24">${part}</text>`);
const style = `
text { font: 12px system-ui, sans-serif; fill: #1f2328; } .ground { fill: #ffffff; } .in { fill: #ffffff; }
.client { fill: #656c76; } .api { fill: #0969da; } .postgres { fill: #1a7f37; } .redis { fill: #cf222e; } .scheduler { fill: #8250df; } .worker { fill: #bc4c00; } .dev { fill: #0550ae; }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3; } .ground { fill: #0d1117; } .in { fill: #ffffff; } }
`;
const size = [left + width + 130, y + 16];
console.log(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${size.join(' ')}" width="${size[0]}" height="${size[1]}" role="img">
<title>Microseconds of CPU per job, by process</title>
<style>${style}</style>
<rect class="ground" width="${size[0]}" height="${size[1]}"/>
${[...legend, ...out].join('\n')}
</svg>`);
