#!/usr/bin/env bash
# Makes .venv from the hashed lock: `make setup`. Reuses what is there; an interrupted run is taken up by the next.
set -euo pipefail
cd "$(dirname "$0")/.."
fail() { echo "make setup: $*" >&2; exit 1; }

is_3_11() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; }
python=
for candidate in python3.11 python3; do
  if is_3_11 "$candidate"; then python=$candidate; break; fi
done
[[ -n $python ]] || fail "Python 3.11 is needed and neither python3.11 nor python3 is one: install it, then try again"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
  fail "$python has no venv: install it (Debian: apt-get install python3.11-venv), then try again"

# Somebody else's .venv of another version, or one whose interpreter went away, is made anew.
if [[ -e .venv ]] && ! is_3_11 .venv/bin/python; then rm -rf .venv; fi
echo "installing into .venv with $("$python" --version): 6 GB with the CUDA wheels, about 3 minutes the first time"
PYTHON=$python containers/install.sh uv .venv
PYTHON=$python containers/install.sh lock .venv tests/requirements.txt .venv
touch .venv/installed
