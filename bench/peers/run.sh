#!/usr/bin/env bash
# The same no-op jobs through other queues and through Windlass: private servers, one line of JSON per run, a table of medians.
set -euo pipefail

usage() {
    cat <<'HELP'
bench/peers/run.sh [--only NAME[,NAME...]] [--measures M[,M...]] [--jobs N] [--seconds N] [--runs N] [--out FILE] [--plot FILE]
                   [--bullmq "OPTIONS"] [--graphile "OPTIONS"] [--no-build]

Queues: windlass (PostgreSQL with fsync, and Redis), bullmq (Redis), graphile (graphile-worker: PostgreSQL with fsync).

  drain        N waiting jobs, one worker process: until the last is recorded as done; CPU of worker and store
  submit-one   jobs added one by one, 50 in flight
  submit-bulk  batches of 1,000, 4 in flight
  start        an idle queue at 100 jobs/s: from before the job is added to the start of its body
  memory       bytes of Redis per waiting job, of 30,000 (not of graphile)
of Windlass alone:
  path         a minute of batches of 500 over HTTP, as fast as jobs end: until the last is recorded (the profile throughput60)
  graph        a workflow of 2,250 diamonds in 100 rows: steps per second
  dev-path     path on `windlass dev`, one process with SQLite
  dev-start    start on `windlass dev`: to the worker's note of the start, in whole milliseconds, rounded up

  --only NAME,...    these queues alone
  --measures M,...   these measures alone
  --jobs N           jobs per run (default 200000)
  --seconds N        seconds of start (default 20)
  --runs N           runs of each, in turn; the medians are what counts (default 3)
  --out FILE         where the lines of JSON go (default target/peers/results.jsonl; overwritten)
  --bullmq, --graphile "OPTIONS"
                     more options of that driver, such as "--concurrency 100"; node bullmq.mjs --help has all
  --plot FILE        an SVG of where the CPU goes
  --no-build         use what is in target/release as it is
  --help             this text

It needs npm and what scripts/bench.sh needs. On first use npm fetches the peers and a Node of their own, by the lock file of rig/peers.
It uses loopback and a temporary folder only, and stops what it started.
HELP
}

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
readonly here root
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

fail() {
    printf 'run.sh: %s\n' "$*" >&2
    exit 1
}

# shellcheck source=../../scripts/options.sh
source "$root/scripts/options.sh"

only=""
measures="drain,submit-one,submit-bulk,start,memory,path,graph,dev-path,dev-start"
jobs=200000
seconds=20
runs=3
build=1
out="$root/target/peers/results.jsonl"
plot=""
bullmq=""
graphile=""
take_options "only measures jobs seconds runs out plot bullmq graphile" "$@"
all_known queue "$only" windlass bullmq graphile
only="${only:-windlass,bullmq,graphile}"
all_known measure "$measures" drain submit-one submit-bulk start memory path graph dev-path dev-start

if [ "$build" = 1 ]; then
    (cd "$root" && cargo build --release --locked --quiet -p windlass -p windlass-bench-worker)
fi
readonly target="${CARGO_TARGET_DIR:-$root/target}/release"
readonly windlass="$target/windlass"
for program in windlass windlass-bench-worker; do
    [ -x "$target/$program" ] || fail "there is no $target/$program; run without --no-build"
done

# The servers of scripts/bench.sh, with the same settings.
# shellcheck source=../../scripts/fleet.sh
source "$root/scripts/fleet.sh"

# The drivers, with what the rig pins for its faults.
readonly peers="$root/target/peers"
mkdir -p "$peers" "$(dirname "$out")"
cp "$here"/*.mjs "$root"/rig/peers/package{,-lock}.json "$peers"
if ! cmp -s "$peers/package-lock.json" "$peers/installed"; then
    echo "npm installs the peers into $peers" >&2
    (cd "$peers" && npm ci --ignore-scripts --no-audit --no-fund --loglevel error >&2)
    cp "$peers/package-lock.json" "$peers/installed"
fi
# The lock file's, since graphile-worker wants a newer one than Debian has.
readonly node="$peers/node_modules/.bin/node"
[ -x "$node" ] || fail "there is no $node; the lock file has one for Linux on x64 and arm64 only"

# A database without anything in it.
fresh_database() {
    local address=(-h 127.0.0.1 -p "$postgres_port" -U windlass)
    dropdb "${address[@]}" --force --if-exists peer 2> >(grep -v 'does not exist' >&2)
    createdb "${address[@]}" peer
    postgres_url="${postgres_url%/*}/peer"
}

# Whether the engine has that many jobs.
in_engine() {
    local key sum=0
    for key in $(redis-cli -p "$redis_port" --scan --pattern '*:jobs'); do
        sum=$((sum + $(redis-cli -p "$redis_port" hlen "$key")))
    done
    [ "$sum" -ge "$1" ]
}

used_memory() { redis-cli -p "$redis_port" info memory | tr -d '\r' | sed -n 's/^used_memory://p'; }

# $1 measure.
measure_windlass() {
    local report="$work/report.json" workers=0 common=(--runs 1 --ledger-url "$postgres_url" --json-file "$work/report.json")
    local append=(--kind append --payload-bytes 200)
    case "$1" in drain | start | path | graph) workers=1 ;; esac
    export BENCH_FILE="$work/effects" BENCH_TIMES
    if [ "$1" = start ]; then BENCH_TIMES="$work/times"; else unset BENCH_TIMES; fi
    worker_command=()
    case "$1" in
        path | graph | dev-*) ;;
        *)
            worker_command=("$target/windlass-bench-worker")
            worker_probe=(append --payload '{"at": 0, "fill": ""}')
            ;;
    esac
    case "$1" in
        dev-*)
            rm -rf "$work/dev"
            start_dev ""
            fleet=("$dev_pid") fleet_pids=(--pid "dev=$dev_pid")
            ;;
        *) start_fleet "$workers" ;;
    esac
    rm -f "$report"
    case "$1" in
        drain)
            : >"$BENCH_FILE"
            "$windlass" loadtest bench path --waiting --batch 1000 "${append[@]}" --jobs "$jobs" "${common[@]}" "${fleet_pids[@]}"
            [ "$(stat -c %s "$BENCH_FILE")" = "$jobs" ] || fail "$(stat -c %s "$BENCH_FILE") executions of $jobs jobs"
            ;;
        submit-one) "$windlass" loadtest bench submit "${append[@]}" --jobs "$jobs" "${common[@]}" "${fleet_pids[@]}" ;;
        submit-bulk)
            "$windlass" loadtest bench submit --batch 1000 --in-flight 4 "${append[@]}" --jobs "$jobs" "${common[@]}" "${fleet_pids[@]}"
            ;;
        start)
            "$windlass" loadtest bench start --body-times "$BENCH_TIMES" "${append[@]}" --jobs $((seconds * 100)) "${common[@]}" "${fleet_pids[@]}"
            ;;
        path | dev-path) "$windlass" loadtest run throughput60 --quiet --json-file "$report" "${fleet_pids[@]}" ;;
        graph) "$windlass" loadtest bench workflow --wide 1 --diamonds 2250 --lanes 100 "${common[@]}" "${fleet_pids[@]}" ;;
        dev-start) "$windlass" loadtest bench start --jobs $((seconds * 100)) --runs 1 --json-file "$report" "${fleet_pids[@]}" ;;
        memory)
            local before first=100
            # What the first jobs bring with them, scripts and tables, is not the jobs'.
            "$windlass" loadtest bench submit --batch 100 "${append[@]}" --jobs "$first" "${common[@]}"
            wait_for "the first jobs in the engine" in_engine "$first"
            sleep 1.5
            before="$(used_memory)"
            "$windlass" loadtest bench submit --batch 1000 --in-flight 4 "${append[@]}" --jobs 30000 "${common[@]}" "${fleet_pids[@]}"
            wait_for "the jobs in the engine" in_engine $((30000 + first))
            sleep 1.5
            echo "{\"memory\": $(($(used_memory) - before)), \"jobs\": 30000}" >"$report"
            ;;
    esac >&2
    stop_fleet
    "$node" "$peers/windlass.mjs" "$1" "$report" >>"$out"
}

# One measure, on stores without anything of the run before. $1 queue, $2 measure.
measure() {
    local count="$jobs"
    if [ "$2" = memory ]; then count=30000; fi
    local options=(--jobs "$count" --seconds "$seconds")
    case "$1" in
        windlass)
            start_redis
            fresh_database
            ;;
        bullmq)
            start_redis
            # shellcheck disable=SC2206
            options+=(--url "$redis_url" --store-pid "$redis_pid" $bullmq)
            ;;
        graphile)
            fresh_database
            # shellcheck disable=SC2206
            options+=(--url "$postgres_url" --store-pid "$postgres_pid" $graphile)
            ;;
    esac
    # Without those before: their numbers may be other processes' by the time the script ends.
    pids=(${redis_pid:+"$redis_pid"} "$postgres_pid")
    if [ "$1" = windlass ]; then
        measure_windlass "$2"
    else
        TMPDIR="$work" "$node" "$peers/$1.mjs" "$2" "${options[@]}" >>"$out" || fail "$1 $2 failed"
    fi
    tail -n 1 "$out" >&2
}

version() { sed -n 's/^ *"version": "\(.*\)",$/\1/p' "$peers/node_modules/$1/package.json" | head -n 1; }
echo "$("$windlass" --version), BullMQ $(version bullmq), graphile-worker $(version graphile-worker), Node $("$node" --version)," \
    "$(redis-server --version | cut -d' ' -f1-3), $(postgres --version)"
echo "$(nproc) cores of $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), load $(cut -d' ' -f1-3 /proc/loadavg)"
echo

: >"$out"
start_postgres
for _ in $(seq "$runs"); do
    for part in ${measures//,/ }; do
        for queue in ${only//,/ }; do
            case "$queue $part" in
                "graphile memory" | "bullmq path" | "graphile path" | "bullmq graph" | "graphile graph" | "bullmq dev-"* | "graphile dev-"*) continue ;;
            esac
            measure "$queue" "$part"
        done
    done
done
echo
"$node" "$peers/table.mjs" "$out"
if [ -n "$plot" ]; then "$node" "$peers/plot.mjs" "$out" >"$plot"; fi
