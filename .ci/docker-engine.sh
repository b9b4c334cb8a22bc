#!/usr/bin/env bash
# Debian 12 and root  ->  a Docker engine that answers, a client with buildx and compose, and the base image.
# Does only what is missing, so it may run again and again. Prints the file to source afterwards:
#
#   source "$(.ci/docker-engine.sh)"
#
# Debian 12's own engine is old, and a machine without access to an image registry has no base image. So engine, client,
# buildx and compose come from the next Debian, unpacked beside the system, and the base image is made from Debian's
# packages where it cannot be pulled.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kennel-ci
suite=trixie
base=${BASE:-python:3.11-slim-bookworm}
environment=$cache/environment
mkdir -p "$cache/bin" "$cache/config/cli-plugins"
export DEBIAN_FRONTEND=noninteractive

say() { echo "docker-engine: $*" >&2; }
quietly() { "$@" >"$cache/log" 2>&1 || { tail -20 "$cache/log" >&2; return 1; }; }
packages() {
  local installed
  installed=$(dpkg-query --show --showformat '${db:Status-Status}\n' "$@" 2>/dev/null | grep -cx installed || true)
  if ((installed == $#)); then return; fi
  say "installing $*"
  quietly apt-get -q update
  quietly apt-get -qy install --no-install-recommends "$@"
}
has_tools() { docker buildx version && docker compose version; } >/dev/null 2>&1
answers() { docker info >/dev/null 2>&1; }

fetch_tools() {
  local mirror apt root=$cache/root
  say "fetching engine, client, buildx and compose of Debian $suite"
  packages ca-certificates containerd runc iptables iproute2
  # the mirror that apt uses already; the system's own settings of apt stay as they are
  mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Codename: bookworm' 'Component: main' | sed -n 1p)
  mkdir -p "$cache/apt/lists/partial" "$cache/apt/archives/partial" "$cache/debs"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$cache/apt/sources.list"
  apt=(-o "Dir::Etc::sourcelist=$cache/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$cache/apt/lists" -o "Dir::Cache=$cache/apt" -o APT::Sandbox::User=root)
  quietly apt-get -q "${apt[@]}" update
  (cd "$cache/debs" && quietly apt-get -q "${apt[@]}" download docker.io docker-cli docker-compose docker-buildx)
  for deb in "$cache"/debs/*.deb; do dpkg-deb --extract "$deb" "$root"; done
  cp "$root"/usr/libexec/docker/cli-plugins/* "$cache/config/cli-plugins/"
  ln -sf "$root/usr/bin/docker" "$root/usr/sbin/dockerd" "$root/usr/sbin/docker-proxy" "$cache/bin/"
  # SageMaker's SDK does not recognise the version that Debian's compose plugin gives, but knows this name
  ln -sf "$cache/config/cli-plugins/docker-compose" "$cache/bin/docker-compose"
}

start_engine() {
  say "starting the engine"
  packages containerd runc iptables iproute2
  setsid nohup dockerd >"$cache/dockerd.log" 2>&1 </dev/null &
  for _ in $(seq 120); do
    if answers; then return; fi
    sleep 0.5
  done
  tail -20 "$cache/dockerd.log" >&2
  say "the engine did not start within 60 s; its last words stand above"
  return 1
}

make_base_image() {
  local root=$cache/base
  say "$base cannot be pulled: making one like it from Debian's packages"
  packages debootstrap
  if [[ ! -f $cache/base.whole ]]; then
    rm -rf "$root"
    quietly debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip bookworm "$root"
    touch "$cache/base.whole"
  fi
  # this machine's certificate authorities, so that an unmodified Dockerfile installs packages from behind its proxy
  cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
  printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$root/etc/pip.conf"
  ln -sf python3 "$root/usr/bin/python"
  rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/usr/share/{doc,man,locale,info}/*
  tar -C "$root" --exclude='./dev/*' -c . |
    docker import --change 'CMD ["python3"]' --change 'ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt' - "$base" >&2
}

touch "$environment"
source "$environment"
if ! has_tools || { ! answers && ! command -v dockerd >/dev/null; }; then
  if [[ ! -x $cache/bin/dockerd ]]; then fetch_tools; fi
  printf 'export PATH=%q:$PATH DOCKER_CONFIG=%q\n' "$cache/bin" "$cache/config" >"$environment"
  source "$environment"
fi
answers || start_engine
docker image inspect "$base" >/dev/null 2>&1 || quietly timeout 120 docker pull "$base" || make_base_image
echo "$environment"
