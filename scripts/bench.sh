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
  workflow one graph of 9,002 steps over HTTP on the same fleet: steps per second until the run has ended
  start    an idle installation at 100 jobs/s: from before the POST to the job's start
  dev      the same as `start`, on `windlass dev` (SQLite, embedded engine)

  --only PARTS    these parts alone
  --jobs N        jobs per run of engine, ledger, worker and path (default 200000)
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

parts="engine,ledger,worker,path,workflow,start,dev"
jobs=200000
runs=3
json=""
build=1
while [ $# -gt 0 ]; do
    case "$1" in
        --only | --jobs | --runs | --json)
            [ $# -ge 2 ] || fail "$1 needs a value; see --help"
            case "$1" in
                --only) parts="$2" ;;
                --jobs) jobs="$2" ;;
                --runs) runs="$2" ;;
                --json) json="$2" ;;
            esac
            shift
            ;;
        --no-build) build=0 ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) fail "unknown option $1; see --help" ;;
    esac
    shift
done
for part in ${parts//,/ }; do
    case "$part" in
        engine | ledger | worker | path | workflow | start | dev) ;;
        *) fail "there is no part '$part'; see --help" ;;
    esac
done
selected() { case ",$parts," in *",$1,"*) return 0 ;; *) return 1 ;; esac }

# PostgreSQL's tools are out of PATH on Debian.
for dir in /usr/lib/postgresql/*/bin; do
    if [ -x "$dir/initdb" ]; then PATH="$PATH:$dir"; fi
done
command -v redis-server >/dev/null || fail "redis-server is not installed; scripts/test.sh installs it"
command -v initdb >/dev/null || fail "PostgreSQL is not installed; scripts/test.sh installs it"

if [ "$build" = 1 ]; then
    cargo build --release --locked --quiet -p windlass
fi
readonly windlass="${CARGO_TARGET_DIR:-$root/target}/release/windlass"
[ -x "$windlass" ] || fail "there is no $windlass; run without --no-build"

work="$(mktemp -d "${TMPDIR:-/tmp}/windlass-bench.XXXXXX")"
pids=()
stop_all() {
    local pid
    for pid in ${pids[@]+"${pids[@]}"}; do kill "$pid" 2>/dev/null || true; done
    for pid in ${pids[@]+"${pids[@]}"}; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap stop_all EXIT
trap 'exit 130' INT TERM

port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        if ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
}

# Waits for a command to succeed, at most 30 s. $1 what, rest the command.
wait_for() {
    local what="$1" tries=300
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "$what did not start; see $work"
        sleep 0.1
    done
}

# Becomes a program of PostgreSQL's, which refuses to run as root. For subshells.
become() {
    local program
    program="$(command -v "$1")"
    shift
    cd /
    if [ "$(id -u)" = 0 ]; then
        exec setpriv --reuid=postgres --regid=postgres --init-groups "$program" "$@"
    fi
    exec "$program" "$@"
}

redis_pid=""
# A fresh one for every part: what one leaves behind (keys, an append-only file to be rewritten) is not to
# slow the next.
start_redis() {
    if [ -n "$redis_pid" ]; then
        kill "$redis_pid"
        wait "$redis_pid" || true
        rm -rf "$work/redis"
    fi
    redis_port="$(port)"
    mkdir "$work/redis"
    # As deploy/compose runs it.
    redis-server --port "$redis_port" --bind 127.0.0.1 --dir "$work/redis" --save '' \
        --appendonly yes --appendfsync everysec --maxmemory-policy noeviction \
        >"$work/redis.log" 2>&1 &
    redis_pid=$!
    pids+=("$redis_pid")
    redis_url="redis://127.0.0.1:$redis_port"
    wait_for redis redis-cli -p "$redis_port" ping
}

start_postgres() {
    postgres_port="$(port)"
    mkdir "$work/postgres"
    chmod 711 "$work"
    if [ "$(id -u)" = 0 ]; then chown postgres "$work/postgres"; fi
    (become initdb -D "$work/postgres/data" -U windlass -A trust -E UTF8 --locale=C) \
        >"$work/initdb.log" 2>&1 || fail "initdb failed: $(tail -n 1 "$work/initdb.log")"
    # fsync, full_page_writes and synchronous_commit stay on.
    local options=(-D "$work/postgres/data" -p "$postgres_port" -c listen_addresses=127.0.0.1
        -c unix_socket_directories= -c shared_buffers=512MB -c max_wal_size=4GB)
    (become postgres "${options[@]}") >"$work/postgres.log" 2>&1 &
    postgres_pid=$!
    pids+=("$postgres_pid")
    wait_for postgres pg_isready -h 127.0.0.1 -p "$postgres_port" -U windlass
    createdb -h 127.0.0.1 -p "$postgres_port" -U windlass windlass
    postgres_url="postgres://windlass@127.0.0.1:$postgres_port/windlass"
}

start_fleet() {
    export WINDLASS_LEDGER__URL="$postgres_url" WINDLASS_ENGINE__URL="$redis_url" WINDLASS_LOG__LEVEL=warn
    "$windlass" migrate up >/dev/null
    WINDLASS_API_KEY="$("$windlass" key create --role admin --name bench 2>/dev/null)"
    export WINDLASS_API_KEY
    local api_port
    api_port="$(port)"
    export WINDLASS_URL="http://127.0.0.1:$api_port"
    WINDLASS_API__LISTEN="127.0.0.1:$api_port" WINDLASS_ADMIN__LISTEN="127.0.0.1:$(port)" \
        "$windlass" api >"$work/api.log" 2>&1 &
    api_pid=$!
    WINDLASS_ADMIN__LISTEN="127.0.0.1:$(port)" "$windlass" scheduler >"$work/scheduler.log" 2>&1 &
    scheduler_pid=$!
    WINDLASS_ADMIN__LISTEN="127.0.0.1:$(port)" WINDLASS_WORKER__API_URL="$WINDLASS_URL" \
        WINDLASS_WORKER__API_KEY="$WINDLASS_API_KEY" \
        "$windlass" worker --concurrency 200 >"$work/worker.log" 2>&1 &
    worker_pid=$!
    pids+=("$api_pid" "$scheduler_pid" "$worker_pid")
    fleet_pids=(--pid "redis=$redis_pid" --pid "postgres=$postgres_pid" --pid "api=$api_pid"
        --pid "worker=$worker_pid" --pid "scheduler=$scheduler_pid")
    wait_for "the fleet" "$windlass" job submit noop --wait
}

start_dev() {
    local dev_port
    dev_port="$(port)"
    unset WINDLASS_LEDGER__URL WINDLASS_ENGINE__URL WINDLASS_API_KEY
    WINDLASS_LOG__LEVEL=warn "$windlass" dev --listen "127.0.0.1:$dev_port" --data-dir "$work/dev" \
        >"$work/dev.log" 2>&1 &
    dev_pid=$!
    pids+=("$dev_pid")
    export WINDLASS_URL="http://127.0.0.1:$dev_port"
    wait_for dev "$windlass" job submit noop --wait
}

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
if selected path || selected workflow || selected start; then
    start_redis
    if selected ledger; then createdb -h 127.0.0.1 -p "$postgres_port" -U windlass fleet; postgres_url="${postgres_url%/*}/fleet"; else start_postgres; fi
    start_fleet
fi
if selected path; then
    bench path path --jobs "$jobs" --ledger-url "$postgres_url" "${fleet_pids[@]}"
fi
if selected workflow; then
    bench workflow workflow --ledger-url "$postgres_url" "${fleet_pids[@]}"
fi
if selected start; then
    bench start start --ledger-url "$postgres_url" "${fleet_pids[@]}"
fi
if selected dev; then
    start_dev
    bench dev start --pid "dev=$dev_pid"
fi
