// The effect log of the rig, in the format of `rig/src/effects.rs`: two lines for every execution, each one `write` to
// a file opened for appending, so that the lines of several processes do not mix.

import fs from 'node:fs';

// CLOCK_BOOTTIME is not offered by Node. It is the monotonic clock and the time that the machine was suspended, which
// /proc/uptime gives to 10 ms; what is less than that is rounding.
const ROUNDING_US = 20_000;
const suspendedUs = (() => {
  const boot = Number(fs.readFileSync('/proc/uptime', 'utf8').split(' ')[0]) * 1e6;
  const ahead = Math.round(boot - monotonicUs());
  return ahead > ROUNDING_US ? ahead : 0;
})();

function monotonicUs() {
  return Number(process.hrtime.bigint() / 1000n);
}

/** Now, on both clocks of the rig, in µs. The wall clock has whole milliseconds here. */
export function stamp() {
  return { boot_us: monotonicUs() + suspendedUs, wall_us: Date.now() * 1000 };
}

/** Opens or makes the log; appends one line per call, and throws when a line was not written whole. */
export function openLog(path) {
  const file = fs.openSync(path, 'a');
  return (effect) => {
    const line = Buffer.from(`${JSON.stringify(effect)}\n`);
    if (fs.writeSync(file, line) !== line.length) {
      throw new Error('a line was written in part');
    }
  };
}
