#!/usr/bin/env bash
# Tries the deployment for real: builds the image, starts the compose file in a
# project of its own, submits jobs over HTTP, scales the worker to four and back
# while jobs run, stops everything and removes it.
#
#   deploy/smoke.sh [--image NAME --pg-image NAME] [--keep]
#
#   --image NAME      use this image and build none
#   --pg-image NAME   with it: the scheduler's, which has PostgreSQL's tools
#   --keep            leave it running, and say how to remove it
#
# Needs docker with a running daemon, docker compose (v2 or 1.29), curl and
# python3. Without an image registry run deploy/docker/offline-images.sh first.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
readonly here
readonly project="windlass-smoke-$$"
readonly image_built="windlass:smoke"
readonly pg_image_built="windlass-pg:smoke"
readonly replicas=4
readonly ready_timeout_s=120
readonly jobs_timeout_s=120

image=""
pg_image=""
keep=0
while [ $# -gt 0 ]; do
    case "$1" in
        --image)
            image="${2:?--image needs a name}"
            shift
            ;;
        --pg-image)
            pg_image="${2:?--pg-image needs a name}"
            shift
            ;;
        --keep) keep=1 ;;
        -h | --help)
            sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *)
            echo "smoke: unknown argument $1; see --help" >&2
            exit 2
            ;;
    esac
    shift
done

if [ -n "$image$pg_image" ] && { [ -z "$image" ] || [ -z "$pg_image" ]; }; then
    echo "smoke: --image and --pg-image come together; see --help" >&2
    exit 2
fi

started=$SECONDS
say() { printf '\n==> [%3d s] %s\n' "$((SECONDS - started))" "$*"; }
ok() { printf '    ok: %s\n' "$*"; }
fail() {
    printf '\nsmoke: FAILED: %s\n' "$*" >&2
    exit 1
}

for tool in docker curl python3; do
    command -v "$tool" >/dev/null || fail "$tool is not installed"
done
docker info >/dev/null 2>&1 || fail "no docker daemon is running, or you may not use it"
if docker compose version >/dev/null 2>&1; then
    compose_command=(docker compose)
elif command -v docker-compose >/dev/null; then
    compose_command=(docker-compose)
else
    fail "neither docker compose nor docker-compose is installed"
fi

work="$(mktemp -d)"
compose() {
    "${compose_command[@]}" --env-file "$work/env" --project-name "$project" \
        --file "$here/compose/compose.yaml" "$@"
}

finish() {
    local status=$?
    trap - EXIT
    if [ "$status" != 0 ] && [ -s "$work/env" ]; then
        say "State and last logs"
        compose ps || true
        compose logs --no-color --tail 30 || true
    fi
    if [ "$keep" = 1 ]; then
        say "Left running, at http://127.0.0.1:$port; settings in $work/env. Remove it with"
        echo "    ${compose_command[*]} --env-file $work/env -p $project -f $here/compose/compose.yaml down --volumes"
    else
        [ ! -s "$work/env" ] || compose down --volumes --timeout 60 >"$work/down.log" 2>&1 ||
            { cat "$work/down.log" >&2 && status=1; }
        rm -rf "$work"
    fi
    [ "$status" != 0 ] || say "Passed"
    exit "$status"
}
trap finish EXIT

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
secret() { python3 -c 'import secrets; print(secrets.token_hex(24))'; }
# The value at a path of keys in the JSON of stdin: `field state`, `field items 0 id`.
field() {
    python3 -c 'import functools, json, sys
step = lambda at, key: at[int(key)] if isinstance(at, list) else at[key]
value = functools.reduce(step, sys.argv[1:], json.load(sys.stdin))
print(value if isinstance(value, str) else json.dumps(value))' "$@"
}

# $1 method, $2 path, then curl arguments. An answer over 399 fails.
api() {
    local method="$1" path="$2"
    shift 2
    curl --silent --show-error --fail-with-body --max-time 60 --request "$method" \
        --header "Authorization: Bearer $api_key" --header 'Content-Type: application/json' \
        "http://127.0.0.1:$port$path" "$@"
}

# Repeats the command after the time-out and the words until it succeeds.
wait_for() {
    local deadline=$((SECONDS + $1)) what="$2"
    shift 2
    until "$@" >"$work/wait.log" 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || fail "not in time: $what ($(tail -c 500 "$work/wait.log"))"
        sleep 0.5
    done
    ok "$what"
}

# `key create` prints the key once; no other word of its output is as long.
create_key() {
    compose run --rm -T migrate key create --role "$1" 2>"$work/key.log" </dev/null |
        tr -s '[:space:]"' '\n' | awk 'length > length(best) { best = $0 } END { print best }'
}
set_env() { sed -i "s|^$1=.*|$1=$2|" "$work/env"; }

# $1 service, then more arguments of `docker ps`. Running containers only.
container_ids() {
    local service="$1"
    shift
    docker ps --quiet --filter "label=com.docker.compose.project=$project" \
        --filter "label=com.docker.compose.service=$service" \
        --filter "label=com.docker.compose.oneoff=False" "$@"
}
container_count() { [ "$(container_ids "$1" | wc -l)" = "$2" ]; }

# $1 jobs, $2 what `sleep` waits, $3 the tag to find them by.
submit_batch() {
    python3 -c 'import json, sys
count, sleep, tag = int(sys.argv[1]), sys.argv[2], sys.argv[3]
job = {"kind": "sleep", "payload": {"for": sleep}, "tags": [tag]}
print(json.dumps({"jobs": [job] * count}))' "$@" >"$work/batch.json"
    api POST /v1/jobs/batch --data "@$work/batch.json" >"$work/$3.json"
    [ "$(field accepted <"$work/$3.json")" = "$1" ] || fail "batch: $(head -c 500 "$work/$3.json")"
    python3 -c 'import json, sys
for result in json.load(sys.stdin)["results"]: print(result["id"])' <"$work/$3.json" >"$work/$3.ids"
}

# Waits for every job of $1.ids; one that ended otherwise than well fails.
# Writes "<worker> <attempt>" of each to $1.done.
await_batch() {
    API_KEY="$api_key" python3 -c '
import json, os, sys, time, urllib.error, urllib.request
base, deadline = sys.argv[1], time.monotonic() + float(sys.argv[2])

def get(path):
    call = urllib.request.Request(base + path, headers={"Authorization": "Bearer " + os.environ["API_KEY"]})
    while True:
        try:
            with urllib.request.urlopen(call, timeout=60) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            if error.code != 429:
                sys.exit(f"{path}: {error.code} {error.read().decode()}")
            time.sleep(float(error.headers.get("Retry-After") or 1))

for job_id in sys.stdin.read().split():
    while not (body := get(f"/v1/jobs/{job_id}/wait?timeout=10s")):
        if time.monotonic() > deadline:
            sys.exit(f"{job_id} has not finished: " + get(f"/v1/jobs/{job_id}/explain").decode())
    job = json.loads(body)
    if job["state"] != "succeeded":
        sys.exit(f"{job_id}: {body.decode()}")
    # A worker is shown as "name (id)".
    print(job["worker"].split()[-1].strip("()"), job["attempt"])
' "http://127.0.0.1:$port" "$jobs_timeout_s" <"$work/$1.ids" >"$work/$1.done" ||
        fail "batch $1, see the line above"
}
port="$(free_port)"
cat >"$work/env" <<ENV
POSTGRES_PASSWORD=$(secret)
REDIS_PASSWORD=$(secret)
WINDLASS_WORKER_API_KEY=
WINDLASS_BACKUP_KEY=
WINDLASS_IMAGE=${image:-$image_built}
WINDLASS_PG_IMAGE=${pg_image:-$pg_image_built}
WINDLASS_PORT=$port
ENV
chmod 600 "$work/env"
api_key=""

if [ -z "$image" ]; then
    say "Build the images"
    docker build --file "$here/docker/Dockerfile" --tag "$image_built" "$here/.."
    docker build --file "$here/docker/Dockerfile" --target with-pg-tools --tag "$pg_image_built" "$here/.."
    image="$image_built"
    pg_image="$pg_image_built"
fi
for one in "$image" "$pg_image"; do
    user="$(docker image inspect --format '{{.Config.User}}' "$one")"
    case "$user" in "" | 0 | 0:* | root | root:*) fail "$one runs as root" ;; esac
    ok "$one runs as user $user, $(($(docker image inspect --format '{{.Size}}' "$one") / 1000000)) MB"
done

say "Start Redis and PostgreSQL, migrate"
compose up -d redis postgres
compose run --rm -T migrate </dev/null
compose run --rm -T migrate migrate status </dev/null
redis_config="$(compose exec -T redis redis-cli config get '[am]*' </dev/null | paste -sd' ')"
for setting in "appendonly yes" "maxmemory-policy noeviction"; do
    case "$redis_config" in *"$setting"*) ok "redis: $setting" ;; *) fail "redis: not $setting" ;; esac
done

say "Make the keys"
worker_key="$(create_key worker)"
api_key="$(create_key admin)"
for key in "$worker_key" "$api_key"; do
    [ "${#key}" -ge 20 ] || fail "key create printed no key: $key $(cat "$work/key.log")"
done
set_env WINDLASS_WORKER_API_KEY "$worker_key"
ok "a worker's and an admin's"
backup_key="$(compose run --rm -T --no-deps migrate backup keygen 2>"$work/key.log" </dev/null | tr -d '[:space:]')"
case "$backup_key" in wlbk_*) ;; *) fail "backup keygen printed no key: $(cat "$work/key.log")" ;; esac
set_env WINDLASS_BACKUP_KEY "$backup_key"
ok "one that signs backups"

say "Start api, worker, scheduler"
compose up -d
wait_for "$ready_timeout_s" "the API answers" api GET '/v1/jobs?limit=1'
status="$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$port/v1/jobs")"
[ "$status" = 401 ] || fail "without a key the API answered $status, not 401"
ok "without a key: 401"

say "One job"
job="$(api POST /v1/jobs --data '{"kind": "echo", "payload": {"hello": "world"}}')"
id="$(field id <<<"$job")"
job="$(api GET "/v1/jobs/$id/wait?timeout=30s")"
[ -n "$job" ] || fail "job $id: $(api GET "/v1/jobs/$id/explain")"
[ "$(field state <<<"$job")" = succeeded ] || fail "job $id: $job"
[ "$(field output hello <<<"$job")" = world ] || fail "job $id has another output: $job"
ok "$id succeeded with its output"

say "Back up, and prove it"
job="$(api POST /v1/backups --data '{}')"
# Of the installation's own namespace.
own() { api GET "/v1/jobs/$1/wait?timeout=60s" --header 'Windlass-Namespace: system'; }
job="$(own "$(field id <<<"$job")")"
[ "$(field state <<<"$job")" = succeeded ] || fail "the backup: $job"
backup="$(field output backup <<<"$job")"
job="$(api POST "/v1/backups/$backup/verify" --data '{}')"
job="$(own "$(field id <<<"$job")")"
[ "$(field state <<<"$job")" = succeeded ] || fail "the drill: $job"
ok "$backup was made and restored beside the ledger"

say "Scale the worker to $replicas"
compose up -d --no-recreate --scale "worker=$replicas"
wait_for "$ready_timeout_s" "$replicas worker containers" container_count worker "$replicas"
# Longer than the slots of one worker last, so that all four get some.
sleep 3
submit_batch 400 200ms scaled
await_batch scaled
workers="$(cut -d' ' -f1 "$work/scaled.done" | sort -u | wc -l)"
[ "$workers" = "$replicas" ] || fail "400 jobs ran on $workers workers, not $replicas: $(sort "$work/scaled.done" | uniq -c)"
ok "400 jobs succeeded on $workers workers"

say "Scale back to one while jobs run"
submit_batch 200 1s drained
compose up -d --no-recreate --scale worker=1
wait_for "$ready_timeout_s" "1 worker container" container_count worker 1
await_batch drained
[ "$(cut -d' ' -f2 "$work/drained.done" | sort -u)" = 1 ] || fail "draining cost attempts: $(sort "$work/drained.done" | uniq -c)"
ok "200 jobs succeeded, each at its first attempt"

say "Every container runs unprivileged"
for service in api worker scheduler; do
    id="$(container_ids "$service" | head -n 1)"
    facts="$(docker inspect --format '{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.Memory}} {{.RestartCount}}' "$id")"
    case "$facts" in "true [ALL] "[1-9]*" 0") ok "$service: read-only root, no capabilities, memory limit, no restart" ;;
        *) fail "$service: $facts" ;;
    esac
done

say "Stop"
before="$SECONDS"
compose stop api worker scheduler
for service in api worker scheduler; do
    code="$(docker inspect --format '{{.State.ExitCode}}' "$(container_ids "$service" --all)")"
    [ "$code" = 0 ] || fail "$service exited with $code on SIGTERM"
done
ok "drained and exited 0, $((SECONDS - before)) s"
