#!/bin/bash
# Compares our engine with glibc's ldconfig: the cache byte for byte, and the links, on roots of three Debian releases as they
# are and on generated ones of odd libraries, names and configurations; then the incremental engine with the full one.
# usage: tests/oracle.sh [GENERATED-ROOTS-PER-RELEASE [SEEDS]]
set -euo pipefail
cd "$(dirname "$0")/.."
generated=${1:-13} seeds=${2:-200}
sh tests/setup.sh
cargo build --quiet --example oracle
oracle=$(echo "${CARGO_TARGET_DIR:-target}"/*/debug/examples/oracle)
cache=${NRI_LDCACHE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/nri-ldcache}
bases=("$cache/image-bookworm" "$cache/node-trixie-2" "$cache/node-forky-2")
for base in "${bases[@]}"; do
    [ -d "$base" ] || { echo "$base is missing: tests/run.sh makes it" >&2; exit 1; }
done

roots=$(mktemp -d)
trap 'rm -rf "$roots"' EXIT
for seed in $(seq "$generated"); do
    for base in "${bases[@]}"; do
        "$oracle" generate "$roots/$(basename "$base")-$seed" "$base" "$seed"
    done
done
unshare --mount --propagation private bash tests/oracle/run.sh "$(realpath "$oracle")" full "${bases[@]}" "$roots"/*
mkdir "$roots/property"
"$oracle" property "$roots/property" "$seeds" "${bases[@]}"
