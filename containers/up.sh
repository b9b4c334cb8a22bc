#!/usr/bin/env bash
# Serves a bundle with docker-compose and waits until it answers: `make up`.
#
#   MODEL=PATH   folder of a bundle, or its model.tar.gz (default: what `make demo` wrote)
#   PORT=N       port on 127.0.0.1 (default 8080)
#   WAIT_S=N     seconds until it must be healthy (default 120)
#   GPU=1        the cuda image, on an NVIDIA GPU
#   METRICS=1    Prometheus beside it, on 127.0.0.1:9090
set -euo pipefail
cd "$(dirname "$0")/.."
fail() { echo "make up: $*" >&2; exit 1; }
model=${MODEL:-demo/model} service=serving image=kennel-serving:cpu
if [[ -n ${GPU:-} ]]; then service=serving-gpu image=kennel-serving:cuda; fi

docker info >/dev/null 2>&1 || fail "no Docker engine answers: start Docker, or set DOCKER_HOST to one that runs"
docker compose version >/dev/null 2>&1 || fail "this Docker has no compose: install its compose plugin"
if [[ ! -f $model && ! -f $model/bundle.json && ! -f $model/model.tar.gz ]]; then
  fail "there is no bundle in $model: run \`make demo\` to train one, or give MODEL=DIR, the folder that train wrote"
fi
docker image inspect "$image" >/dev/null 2>&1 || fail "there is no image $image: run \`make build\` first"

# The container reads the bundle as whoever asks for it, so that a folder closed to others works too.
MODEL=$(realpath "$model") RUN_AS=$(id -u):$(id -g)
export MODEL RUN_AS
services=("$service")
if [[ -n ${METRICS:-} ]]; then services+=(prometheus); fi
if ! docker compose up --detach --wait --wait-timeout "${WAIT_S:-120}" "${services[@]}"; then
  docker compose logs --tail 20 "$service" >&2
  fail "the server did not become healthy; its last words stand above, \`make down\` removes it"
fi
picture=$(find demo -path '*/test/*' -name '*.jpg' 2>/dev/null | sort | sed -n 1p) || true
if [[ -n ${METRICS:-} ]]; then echo "Prometheus is on http://localhost:${PROMETHEUS_PORT:-9090}"; fi
echo "answers on 127.0.0.1:${PORT:-8080}; try:"
echo "  curl -X POST --data-binary @${picture:-dog.jpg} -H 'Content-Type: image/jpeg' localhost:${PORT:-8080}/invocations"
