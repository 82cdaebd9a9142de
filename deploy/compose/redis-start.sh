#!/bin/sh
# Starts Redis, also after a power cut. That can leave the end of the append-only file unreadable, not only short, and
# Redis then refuses to start. What follows the first unreadable byte is cut off; where that does not help, the file goes
# as a whole. Windlass brings what is missing back from the ledger.
#
# Usage: redis-start.sh COMMAND…, with the data in REDIS_DATA [default: /data]
set -eu
log="${REDIS_DATA:-/data}/appendonlydir"
for manifest in "$log"/*.manifest; do
    [ -f "$manifest" ] || continue
    redis-check-aof "$manifest" >/dev/null 2>&1 && continue
    echo "redis-start: the append-only file is damaged: cut back to what can be read" >&2
    yes 2>/dev/null | redis-check-aof --fix "$manifest" >&2 || true
    redis-check-aof "$manifest" >/dev/null 2>&1 && continue
    echo "redis-start: that did not help: starting without it" >&2
    rm -rf "$log"
done
exec "$@"
