#!/usr/bin/env bash
# Serves a bundle with docker-compose and waits until it answers: `make up`.
#
#   MODEL=PATH   folder of a bundle, or its model.tar.gz (default: what `make demo` wrote)
#   PORT=N       port on 127.0.0.1 (default 8080)
#   WAIT_S=N     seconds until it must be healthy (default 120)
#   GPU=1        the cuda image, on an NVIDIA GPU
#   METRICS=1    Prometheus beside it, on 127.0.0.1:9090 (PROMETHEUS_PORT=N: on another)
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
if [[ -n ${METRICS:-} ]]; then
  services+=(prometheus)
  docker compose pull --policy missing prometheus ||
    fail "Prometheus's image cannot be had, Docker's reason stands above: leave METRICS=1 away to serve without it"
fi

said=$(mktemp)
trap 'rm -f "$said"' EXIT
if ! docker compose up --detach "${services[@]}" 2>&1 | tee "$said" >&2; then
  case $(<"$said") in
    *"already allocated"* | *"already in use"*)
      fail "a port is taken, Docker's words above say which: give another with PORT= (Prometheus's: PROMETHEUS_PORT=)" ;;
    *"device driver"* | *nvidia*)
      fail "this Docker has no NVIDIA GPU to give: install the NVIDIA Container Toolkit, or leave GPU=1 away" ;;
  esac
  fail "Docker could not start the server, its reason stands above; \`make down\` removes what there is of it"
fi

# Not compose's own --wait: it waits on where the log has long said why, and when its time is over says that all is well.
container=$(docker compose ps --all --quiet "$service")
give_up() {
  docker compose logs --tail 20 "$service" >&2
  fail "$1; its last words stand above, \`make down\` removes it"
}
until [[ $(docker inspect --format '{{.State.Health.Status}}' "$container") == healthy ]]; do
  if [[ $(docker inspect --format '{{.State.Status}}' "$container") != running ]]; then give_up "the server ended"; fi
  if docker logs "$container" 2>&1 | grep ' serving.models: model not loaded' >/dev/null; then
    give_up "the server did not become healthy: it cannot load the model"
  fi
  if ((SECONDS >= ${WAIT_S:-120})); then give_up "the server did not become healthy within ${WAIT_S:-120} s"; fi
  sleep 0.5
done
if [[ -n ${METRICS:-} && -z $(docker compose ps --quiet --status running prometheus) ]]; then
  docker compose logs --tail 20 prometheus >&2
  fail "Prometheus ended; its last words stand above, the server runs"
fi
picture=$(find demo -path '*/test/*' -name '*.jpg' 2>/dev/null | sort | sed -n 1p) || true
if [[ -n ${METRICS:-} ]]; then echo "Prometheus is on http://localhost:${PROMETHEUS_PORT:-9090}"; fi
echo "answers on 127.0.0.1:${PORT:-8080}; try:"
echo "  curl -X POST --data-binary @${picture:-dog.jpg} -H 'Content-Type: image/jpeg' localhost:${PORT:-8080}/invocations"
