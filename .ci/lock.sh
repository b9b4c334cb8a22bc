#!/usr/bin/env bash
# Writes all locks from pyproject.toml: `make lock`. Keeps the versions that stand; UPGRADE=1 takes the newest.
#
# A later lock takes an earlier one as a constraint, so that an image trains with the decoder that another serves with.
# The locks are universal (Linux and macOS) and name no index host. Those of the servers that `make bench-serve` measures
# against are for Linux, where it runs, and share with Kennel only what computes: torch, NumPy and the decoder.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=.venv/bin/uv

lock() {
  local output=$1
  shift
  echo "$output"
  "$uv" pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
    --no-annotate --custom-compile-command "make lock" ${UPGRADE:+--upgrade} --output-file "$output" "$@"
}
lock containers/serving/requirements-cpu.txt --extra serving
lock containers/serving/requirements-cuda.txt --extra serving-cuda -c containers/serving/requirements-cpu.txt
lock containers/training/requirements-cuda.txt --extra training -c containers/serving/requirements-cuda.txt
lock containers/training/requirements-launcher.txt --extra launcher -c containers/serving/requirements-cpu.txt
lock tests/requirements.txt --extra dev -c containers/training/requirements-cuda.txt -c containers/training/requirements-launcher.txt

computing=$(mktemp)
trap 'rm -f "$computing"' EXIT
grep -oE '^(numpy|pillow|torch|torchvision)==[^ ]+' tests/requirements.txt > "$computing"
for peer in tests/bench/peers/*/; do
  echo "${peer}requirements.txt"
  "$uv" pip compile "${peer}requirements.in" --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
    --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" ${UPGRADE:+--upgrade} \
    --constraint "$computing" --output-file "${peer}requirements.txt"
done

# uv installs the locks, so it cannot come from one of them: its own entry, hashes and all, in a file that pip reads.
echo containers/uv.txt
{
  echo '# Installs the locks; versions and hashes as in the locks. Written by `make lock`.'
  sed -n '/^uv==/,/[^\\]$/p' tests/requirements.txt
} > containers/uv.txt.new
mv containers/uv.txt.new containers/uv.txt
