# shellcheck shell=bash disable=SC2034,SC2154
# Private servers and fleets of the release binary, for scripts that measure; to be sourced. Wants $windlass, the binary,
# and `fail`. What it starts it stops, with the folder $work, when the script ends.

# PostgreSQL's tools are out of PATH on Debian.
for dir in /usr/lib/postgresql/*/bin; do
    if [ -x "$dir/initdb" ]; then PATH="$PATH:$dir"; fi
done
command -v redis-server >/dev/null || fail "redis-server is not installed; scripts/test.sh installs it"
command -v initdb >/dev/null || fail "PostgreSQL is not installed; scripts/test.sh installs it"

work="$(mktemp -d "${TMPDIR:-/tmp}/windlass-rig.XXXXXX")"
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

# $1 workers, $2 slots of each. The array worker_command is what a worker is started as (else `windlass worker`), worker_probe the job
# that then shows that it works.
start_fleet() {
    local workers="${1:-1}" slots="${2:-200}"
    local command=("$windlass" worker) probe=(noop)
    if [ -n "${worker_command:-}" ]; then command=("${worker_command[@]}") probe=("${worker_probe[@]}"); fi
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
    fleet=("$api_pid" "$scheduler_pid")
    fleet_pids=(--pid "redis=$redis_pid" --pid "postgres=$postgres_pid" --pid "api=$api_pid" --pid "scheduler=$scheduler_pid")
    local n
    for n in $(seq "$workers"); do
        WINDLASS_ADMIN__LISTEN="127.0.0.1:$(port)" WINDLASS_WORKER__API_URL="$WINDLASS_URL" \
            WINDLASS_WORKER__API_KEY="$WINDLASS_API_KEY" WINDLASS_WORKER__CONCURRENCY="$slots" \
            "${command[@]}" >"$work/worker-$n.log" 2>&1 &
        worker_pid=$!
        fleet+=("$worker_pid")
        fleet_pids+=(--pid "worker${n#1}=$worker_pid")
    done
    pids+=("${fleet[@]}")
    if [ "$workers" = 0 ]; then
        wait_for "the fleet" "$windlass" queue list
    else
        wait_for "the fleet" "$windlass" job submit "${probe[@]}" --wait
    fi
}

# Not the servers.
stop_fleet() {
    local pid
    for pid in "${fleet[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${fleet[@]}"; do wait "$pid" 2>/dev/null || true; done
    # Their numbers may be other processes' by the time the script ends.
    pids=("$redis_pid" "$postgres_pid")
    fleet=()
}

# $1 slots; the default without.
start_dev() {
    local dev_port slots=()
    if [ -n "${1:-}" ]; then slots=(--concurrency "$1"); fi
    dev_port="$(port)"
    unset WINDLASS_LEDGER__URL WINDLASS_ENGINE__URL WINDLASS_API_KEY
    WINDLASS_LOG__LEVEL=warn "$windlass" dev --listen "127.0.0.1:$dev_port" --data-dir "$work/dev" ${slots[@]+"${slots[@]}"} \
        >"$work/dev.log" 2>&1 &
    dev_pid=$!
    pids+=("$dev_pid")
    export WINDLASS_URL="http://127.0.0.1:$dev_port"
    wait_for dev "$windlass" job submit noop --wait
}
