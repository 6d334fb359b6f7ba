#!/usr/bin/env bash
# The images and docker-compose.yml for real, without a Docker engine and without a registry of images: as root on
# Debian. A Debian base is made here and takes the name of the one that the Dockerfiles begin with, a PostgreSQL from
# PyPI that of the official image. podman builds and runs, podman-compose reads docker-compose.yml as it is; then the
# steps of docs/machines.md are taken, up to a study that is complete.
#
#   BUILD_OPTIONS   more for `podman build`, such as --volume for a pip configuration of the machine
#   TORCH_INDEX     as in .env.example: an index with builds of torch for CPUs alone (gigabytes less)
#   KEEP=1          leaves what was started running
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export BUILDAH_ISOLATION=chroot PODMAN_COMPOSE_WARNING_LOGS=false
base=docker.io/library/python:3.11-slim database=docker.io/library/postgres:17
work=$(mktemp -d)
export TUNESMITH_SECRETS=$work/secrets TUNESMITH_PUBLISH=127.0.0.1:${PORT:-18787}

say() { echo "images: $*"; }

for package in podman buildah runc catatonit debootstrap iptables netavark aardvark-dns; do
  dpkg -s "$package" > /dev/null 2>&1 || missing="${missing:-} $package"
done
if [[ ${missing:-} ]]; then apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing > /dev/null; fi
python3 -m venv "$work/tools"
"$work/tools/bin/pip" install --quiet podman-compose==1.6.0

# Where limits may not be raised, containers take what this shell has; vfs needs no kernel module.
cat > "$work/containers.conf" <<END
[containers]
default_ulimits = ["nofile=$(ulimit -Hn):$(ulimit -Hn)", "nproc=4096:4096"]
[engine]
runtime = "runc"
END
export CONTAINERS_CONF=$work/containers.conf STORAGE_DRIVER=${STORAGE_DRIVER:-vfs}

compose() { "$work/tools/bin/podman-compose" --podman-build-args="--pull=never --layers=false --network host ${BUILD_OPTIONS:-}" \
  --profile cpu "$@"; }
finish() {
  if [[ ! ${KEEP:-} ]]; then compose down --volumes > /dev/null 2>&1 || true; rm -rf "$work"; fi
}
trap finish EXIT

if ! podman image exists "$base"; then
  say "making a Debian with Python as $base"
  debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip,python3-venv \
    bookworm "$work/debian" ${DEBIAN_MIRROR:-} > "$work/debootstrap.log"
  ln -s python3 "$work/debian/usr/bin/python"
  rm "$work"/debian/usr/lib/python3*/EXTERNALLY-MANAGED  # as in the official image, pip may install
  tar -C "$work/debian" -c . | podman import - "$base" > /dev/null
  rm -rf "$work/debian"
fi
if ! podman image exists "$database"; then
  say "making a PostgreSQL as $database"
  podman build --quiet --pull=never --layers=false --network host ${BUILD_OPTIONS:-} -t "$database" tests/images/postgres > /dev/null
fi

install -d -m 700 "$TUNESMITH_SECRETS"
openssl rand -hex 24 > "$TUNESMITH_SECRETS/database_password"
echo "postgresql+psycopg://tunesmith:$(cat "$TUNESMITH_SECRETS/database_password")@database/tunesmith" \
  > "$TUNESMITH_SECRETS/database_url"
touch "$TUNESMITH_SECRETS/worker_token"
chmod 644 "$TUNESMITH_SECRETS"/*

say "building the service and the worker"
compose build > "$work/build.log" 2>&1 || { tail -n 40 "$work/build.log" >&2; exit 1; }
say "starting database and service"
compose up -d database service
in_service() { compose exec -T service "$@"; }
for _ in $(seq 150); do in_service test -s operator.token > /dev/null 2>&1 && break; sleep 2; done
in_service tunesmith token create compose-workers --role worker --quiet > "$TUNESMITH_SECRETS/worker_token"
say "starting a worker and a study"
compose up -d worker-cpu
in_service tunesmith study create -f digits-demo --watch
in_service tunesmith best digits-demo
podman ps --format '{{.Names}}: {{.Status}}'
say "stopping"
compose down -t 30
