#!/usr/bin/env bash
# Makes stand-ins for the base images, for machines that reach a Debian mirror
# but no image registry. For tests of the Dockerfile and the compose file only:
# never deploy them.
#
#   sudo deploy/docker/offline-images.sh [redis|postgres|rust ...]    (default: all)
#
# Needs debootstrap, a running docker daemon and, for rust, a local rustup
# toolchain with the crates of Cargo.lock already fetched (`cargo fetch`).
# An image that exists is left alone; FORCE=1 makes it again, which `rust` needs
# after a change of Cargo.lock.
set -euo pipefail

readonly MIRROR="${MIRROR:-http://deb.debian.org/debian}"
readonly BASE=windlass-offline-base
readonly REDIS_IMAGE=redis:7.2-bookworm
readonly POSTGRES_IMAGE=postgres:15-bookworm
readonly RUST_IMAGE=rust:1.95-bookworm

fail() { echo "offline-images: $*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "debootstrap needs root; run with sudo"
docker info >/dev/null 2>&1 || fail "no docker daemon; start one (dockerd) first"

work="$(mktemp -d "${TMPDIR:-/var/tmp}/windlass-offline.XXXXXX")"
trap 'rm -rf "$work"' EXIT

wanted() { [ "${FORCE:-0}" = 1 ] || ! docker image inspect "$1" >/dev/null 2>&1; }

# The build's own network is the host's: a stand-in machine often has no other
# way to the mirror.
build() { docker build --network host -t "$1" "$2"; }

make_base() {
    ! docker image inspect "$BASE" >/dev/null 2>&1 || return 0
    command -v debootstrap >/dev/null || fail "install debootstrap first"
    debootstrap --variant=minbase bookworm "$work/root" "$MIRROR"
    # Packages must not start services, nor PostgreSQL make a cluster.
    printf '#!/bin/sh\nexit 101\n' >"$work/root/usr/sbin/policy-rc.d"
    chmod +x "$work/root/usr/sbin/policy-rc.d"
    mkdir -p "$work/root/etc/postgresql-common"
    echo 'create_main_cluster = false' >"$work/root/etc/postgresql-common/createcluster.conf"
    tar -C "$work/root" -c . | docker import - "$BASE" >/dev/null
    rm -rf "$work/root"
}

# Same command line, data folder and user switch as the upstream image.
make_redis() {
    wanted "$REDIS_IMAGE" || return 0
    mkdir -p "$work/redis"
    cat >"$work/redis/docker-entrypoint.sh" <<'SH'
#!/bin/sh
set -e
if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
    chown redis:redis /data
    exec setpriv --reuid redis --regid redis --clear-groups "$@"
fi
exec "$@"
SH
    cat >"$work/redis/Dockerfile" <<DOCKER
FROM $BASE
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends redis-server \
 && rm -rf /var/lib/apt/lists/* && mkdir -p /data && chown redis:redis /data
COPY docker-entrypoint.sh /usr/local/bin/
VOLUME /data
WORKDIR /data
ENTRYPOINT ["docker-entrypoint.sh"]
EXPOSE 6379
CMD ["redis-server", "--protected-mode", "no"]
DOCKER
    chmod 755 "$work/redis/docker-entrypoint.sh"
    build "$REDIS_IMAGE" "$work/redis"
}

# POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB and PGDATA as upstream; while
# it initialises it listens on its socket only, as upstream does.
make_postgres() {
    wanted "$POSTGRES_IMAGE" || return 0
    mkdir -p "$work/postgres"
    cat >"$work/postgres/docker-entrypoint.sh" <<'SH'
#!/bin/bash
set -eo pipefail
if [ "$1" = postgres ] && [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" /var/run/postgresql
    chown -R postgres:postgres "$PGDATA" /var/run/postgresql
    chmod 700 "$PGDATA"
    exec setpriv --reuid postgres --regid postgres --init-groups "$0" "$@"
fi
if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
    : "${POSTGRES_PASSWORD:?is not set}"
    user="${POSTGRES_USER:-postgres}"
    initdb --username="$user" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") \
        --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    pg_ctl -w -o "-c listen_addresses=''" start
    [ "${POSTGRES_DB:-$user}" = postgres ] || createdb -U "$user" "${POSTGRES_DB:-$user}"
    pg_ctl -w -m fast stop
fi
exec "$@"
SH
    chmod 755 "$work/postgres/docker-entrypoint.sh"
    cat >"$work/postgres/Dockerfile" <<DOCKER
FROM $BASE
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postgresql-15 \
 && rm -rf /var/lib/apt/lists/*
ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ENV PGDATA=/var/lib/postgresql/data
COPY docker-entrypoint.sh /usr/local/bin/
VOLUME /var/lib/postgresql/data
ENTRYPOINT ["docker-entrypoint.sh"]
STOPSIGNAL SIGINT
EXPOSE 5432
CMD ["postgres", "-c", "listen_addresses=*"]
DOCKER
    build "$POSTGRES_IMAGE" "$work/postgres"
}

# The local toolchain without its documentation, and the crates as fetched, so
# that the build inside needs no network.
make_rust() {
    wanted "$RUST_IMAGE" || return 0
    local sysroot cargo_home
    sysroot="$(RUSTUP_TOOLCHAIN=1.95.0 rustc --print sysroot)" || fail "no local Rust 1.95.0 toolchain"
    cargo_home="${CARGO_HOME:-$HOME/.cargo}"
    [ -d "$cargo_home/registry/cache" ] || fail "no fetched crates in $cargo_home; run cargo fetch --locked"
    mkdir -p "$work/rust/toolchain" "$work/rust/registry"
    tar -C "$(readlink -f "$sysroot")" -c --exclude=./share . | tar -C "$work/rust/toolchain" -x
    cp -a "$cargo_home/registry/cache" "$cargo_home/registry/index" "$work/rust/registry/"
    cat >"$work/rust/Dockerfile" <<DOCKER
FROM $BASE
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    ca-certificates gcc libc6-dev make tzdata && rm -rf /var/lib/apt/lists/*
COPY toolchain /usr/local/rust
COPY registry /usr/local/cargo/registry
ENV CARGO_HOME=/usr/local/cargo CARGO_NET_OFFLINE=true
ENV PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
DOCKER
    build "$RUST_IMAGE" "$work/rust"
}

[ $# -gt 0 ] || set -- redis postgres rust
for image in "$@"; do
    case "$image" in redis | postgres | rust) ;; *) fail "unknown image $image (redis, postgres, rust)" ;; esac
done
make_base
for image in "$@"; do "make_$image"; done
docker image ls --format '{{.Repository}}:{{.Tag}}  {{.Size}}' | grep -E '^(redis|postgres|rust|windlass-offline-base):'
