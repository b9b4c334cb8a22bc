#!/usr/bin/env bash
# Installs packages from locks. Both Dockerfiles and `make setup` run this.
#
#   install.sh uv UV_VENV              uv itself, from containers/uv.txt
#   install.sh lock UV_VENV LOCK VENV  what LOCK lists, and nothing else, into VENV
#
# uv installs locks, never pip: they hold overridden pins that pip would resolve again and refuse.
#
# Behind a proxy or a mirror, certificate authorities and pip's settings are given as files; in a build they are secrets
# (ca_bundle, pip_conf) and leave no trace in the image. uv does not read pip's settings, so index-url is handed on.
set -euo pipefail
ca_bundle=/run/secrets/ca_bundle pip_conf=/run/secrets/pip_conf
if [[ -s $ca_bundle ]]; then export SSL_CERT_FILE=$ca_bundle PIP_CERT=$ca_bundle; fi
if [[ -s $pip_conf ]]; then export PIP_CONFIG_FILE=$pip_conf; fi
python=${PYTHON:-python3}

install_uv() {
  local uv_venv=$1 lock
  lock=$(dirname "$0")/uv.txt
  [[ -x $uv_venv/bin/pip ]] || "$python" -m venv "$uv_venv"
  "$uv_venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$lock"
}

install_lock() {
  local uv_venv=$1 lock=$2 venv=$3 settings scope url
  settings=$("$uv_venv/bin/python" -m pip config list)  # `pip config get` would read one file alone
  for scope in global install :env:; do
    url=$(sed -n "s/^$scope\.index-url='\(.*\)'\$/\1/p" <<<"$settings")
    if [[ -n $url ]]; then export UV_DEFAULT_INDEX=$url; fi
  done
  [[ -x $venv/bin/python ]] || "$uv_venv/bin/uv" venv --quiet --python "$python" "$venv"
  VIRTUAL_ENV=$venv "$uv_venv/bin/uv" pip sync --require-hashes "$lock"
}

case ${1:-} in
  uv) install_uv "$2" ;;
  lock) install_lock "$2" "$3" "$4" ;;
  *) sed -n '2,5s/^# *//p' "$0" >&2; exit 2 ;;
esac
