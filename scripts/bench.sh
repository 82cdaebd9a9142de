#!/usr/bin/env bash
# The benchmark: private Redis and PostgreSQL, the release binary, tables at the end.
set -euo pipefail

usage() {
    cat <<'HELP'
scripts/bench.sh [--only PART[,PART...]] [--jobs N] [--runs N] [--json FOLDER] [--no-build]

Parts, in this order:

  engine   Redis alone, through the engine's contract: push, claim, settle; and with the recorder's part
  ledger   the ledger alone, PostgreSQL (fsync on) and SQLite: submissions of 1, 100 and 1,000, and records of 500
  worker   the same jobs through the real worker runtime, no-op handler
  path     HTTP batches -> PostgreSQL (fsync on) -> Redis -> worker -> recorded; each role a process
  limits   path, in turn without a limit and with limits that never hold: of the queue, of the kind, of 100 keys
  workflow one graph of 9,002 steps over HTTP on the same fleet: steps per second until the run has ended
  start    an idle installation at 100 jobs/s: from before the POST to the job's start
  dev      the same as `start`, on `windlass dev` (SQLite, embedded engine)

  --only PARTS    these parts alone
  --jobs N        jobs per run of engine, ledger, worker, path and limits (default 200000)
  --runs N        runs of each; the medians are what counts (default 3)
  --json FOLDER   write each report there as JSON too
  --no-build      use target/release/windlass as it is
  --help          this text

It needs redis-server and PostgreSQL's initdb and postgres (scripts/test.sh installs both on Debian), takes
some minutes, uses loopback and a temporary folder only, and stops what it started.
HELP
}

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly root
cd "$root"
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

fail() {
    printf 'bench.sh: %s\n' "$*" >&2
    exit 1
}

# shellcheck source=scripts/options.sh
source "$root/scripts/options.sh"

only="engine,ledger,worker,path,limits,workflow,start,dev"
jobs=200000
runs=3
json=""
build=1
take_options "only jobs runs json" "$@"
all_known part "$only" engine ledger worker path limits workflow start dev
selected() { case ",$only," in *",$1,"*) return 0 ;; *) return 1 ;; esac }

if [ "$build" = 1 ]; then
    cargo build --release --locked --quiet -p windlass
fi
readonly windlass="${CARGO_TARGET_DIR:-$root/target}/release/windlass"
[ -x "$windlass" ] || fail "there is no $windlass; run without --no-build"

# shellcheck source=scripts/fleet.sh
source "$root/scripts/fleet.sh"

# $1 name of the report, rest: the benchmark's arguments.
bench() {
    local name="$1"
    shift
    if [ -n "$json" ]; then
        mkdir -p "$json"
        "$windlass" loadtest bench "$@" --runs "$runs" --json-file "$json/$name.json"
    else
        "$windlass" loadtest bench "$@" --runs "$runs"
    fi
}

echo "$("$windlass" --version), $(redis-server --version | cut -d' ' -f1-3), $(postgres --version)"
echo "$(nproc) cores of $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), load $(cut -d' ' -f1-3 /proc/loadavg)"
echo

if selected engine; then
    start_redis
    bench engine engine --engine-url "$redis_url" --jobs "$jobs" --unrecorded
    start_redis
    bench engine-recorded engine --engine-url "$redis_url" --jobs "$jobs"
fi
if selected ledger; then
    start_postgres
    for store in postgres sqlite; do
        ledger=(--ledger-url "$postgres_url" --pid "postgres=$postgres_pid")
        if [ "$store" = sqlite ]; then ledger=(--ledger-url "sqlite://$work/bench.db"); fi
        bench "ledger-$store-1" ledger "${ledger[@]}" --batch 1 --clients 256 --jobs "$jobs"
        bench "ledger-$store-100" ledger "${ledger[@]}" --batch 100 --clients 16 --jobs "$jobs"
        bench "ledger-$store-1000" ledger "${ledger[@]}" --batch 1000 --clients 4 --jobs "$jobs"
        bench "ledger-$store-record" ledger "${ledger[@]}" --part record --batch 500 --clients 4 --jobs "$jobs"
    done
fi
if selected worker; then
    start_redis
    bench worker worker --engine-url "$redis_url" --jobs "$jobs"
fi
if selected path || selected limits || selected workflow || selected start; then
    start_redis
    if selected ledger; then createdb -h 127.0.0.1 -p "$postgres_port" -U windlass fleet; postgres_url="${postgres_url%/*}/fleet"; else start_postgres; fi
    if selected limits; then export WINDLASS_WORKER__QUEUES=default,limited-queue,limited-kind,limited-keys; fi
    start_fleet
fi
if selected path; then
    bench path path --jobs "$jobs" --ledger-url "$postgres_url" "${fleet_pids[@]}"
fi
if selected limits; then
    rate='{"limit": 1000000, "per": "1s"}'
    "$windlass" queue set limited-queue --max-concurrency 1000000 --rate-limit "$rate" >/dev/null
    "$windlass" queue set limited-kind --kinds '{"noop": {"max_concurrency": 1000000, "rate_limit": '"$rate"'}}' >/dev/null
    "$windlass" queue set limited-keys --per-key-concurrency 1000000 --per-key-rate-limit "$rate" >/dev/null
    rounds="$runs"
    runs=1
    for round in $(seq "$rounds"); do
        for queue in default limited-queue limited-kind limited-keys; do
            echo "$queue, round $round"
            keys=0
            if [ "$queue" = limited-keys ]; then keys=100; fi
            bench "limits-$queue-$round" path --queue "$queue" --keys "$keys" --jobs "$jobs" --ledger-url "$postgres_url" "${fleet_pids[@]}"
        done
    done
    runs="$rounds"
fi
if selected workflow; then
    bench workflow workflow --ledger-url "$postgres_url" "${fleet_pids[@]}"
fi
if selected start; then
    bench start start --ledger-url "$postgres_url" "${fleet_pids[@]}"
fi
if selected dev; then
    start_dev ""
    bench dev start --pid "dev=$dev_pid"
fi
