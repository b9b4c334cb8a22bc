#!/usr/bin/env bash
# Builds the images: `make build`. Progress is plain text, so that a log shows which steps were CACHED.
#
#   BASE=IMAGE       another base image than the Dockerfiles name
#   CA_BUNDLE=FILE   certificate authorities, where a proxy inspects TLS      } build secrets:
#   PIP_CONF=FILE    pip's settings, where packages come from a mirror        } not in the images
#   PREFIX=NAME      NAME-serving and NAME-training instead of kennel-...
#   TARGETS="..."    some of: serving-cpu serving-cuda training-cuda training-launcher
set -euo pipefail
cd "$(dirname "$0")/.."
export DOCKER_BUILDKIT=1
prefix=${PREFIX:-kennel}

fail() { echo "make build: $*" >&2; exit 1; }
command -v docker >/dev/null || fail "there is no docker command: install Docker, then try again"
docker info >/dev/null 2>&1 || fail "no Docker engine answers: start Docker, or set DOCKER_HOST to one that runs"

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
revision=$(git rev-parse HEAD 2>/dev/null || true)
if [[ -n $revision && -n $(git status --porcelain 2>/dev/null) ]]; then revision+=-dirty; fi
options=(--progress=plain --build-arg "VERSION=$version" --build-arg "REVISION=$revision")
if [[ -n ${BASE:-} ]]; then options+=(--build-arg "BASE=$BASE"); fi
for secret in ca_bundle:${CA_BUNDLE:-} pip_conf:${PIP_CONF:-}; do
  file=${secret#*:}
  if [[ -z $file ]]; then continue; fi
  [[ -r $file ]] || fail "${secret%%:*} is to be ${file}, which cannot be read: give a file"
  options+=(--secret "id=${secret%%:*},src=$file")
done

build() {
  local image=$1 target=$2 start=$SECONDS
  shift 2
  docker build "${options[@]}" --file "containers/$image/Dockerfile" --target "$target" "${@/#/--tag=$prefix-$image:}" .
  echo "built $prefix-$image:$target in $((SECONDS - start)) s"
}

for wanted in ${TARGETS:-serving-cpu training-launcher serving-cuda training-cuda}; do
  case $wanted in
    serving-cpu) build serving cpu cpu latest ;;
    serving-cuda) build serving cuda cuda ;;
    training-cuda) build training cuda cuda latest ;;
    training-launcher) build training launcher launcher ;;
    *) fail "there is no target $wanted, expected serving-cpu, serving-cuda, training-cuda or training-launcher" ;;
  esac
done
docker image ls --filter "reference=$prefix-*" --format '{{.Repository}}:{{.Tag}}  {{.Size}}'
