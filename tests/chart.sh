#!/usr/bin/env bash
# Checks the image, the chart, the manifests and all that is not Rust: lints, schemas, mistakes, drift, alerts. As root, on Debian.
#   tests/chart.sh [NAME...]   the checks whose names contain one of these, else all
#   tests/chart.sh --write     writes what is generated: the table in the chart's README, and manifests/
# The program is $NRI_LDCACHE_BINARY, else it is built. What the checks need is installed, once, into ~/.cache/nri-ldcache/tools.
set -euo pipefail
cd "$(dirname "$0")/.."

NRI_LDCACHE_TOOLS=$(bash tests/chart/setup.sh)
export NRI_LDCACHE_TOOLS PYTHONPATH=tests/chart PYTHONDONTWRITEBYTECODE=1
python=$NRI_LDCACHE_TOOLS/python/bin/python

if [ "${1-}" = --write ]; then
    "$NRI_LDCACHE_TOOLS/node/node_modules/.bin/readme-generator" --values charts/nri-ldcache/values.yaml --readme charts/nri-ldcache/README.md
    exec "$python" tests/chart/manifests.py
fi
if [ -z "${NRI_LDCACHE_BINARY-}" ]; then
    NRI_LDCACHE_BINARY=$(cargo build --quiet --release --locked --message-format=json --package nri-ldcache --bin nri-ldcache |
        jq -r 'select(.executable != null).executable')
fi
NRI_LDCACHE_BINARY=$(realpath "$NRI_LDCACHE_BINARY")
export NRI_LDCACHE_BINARY
exec "$python" tests/chart/gate.py "$@"
