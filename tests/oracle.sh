#!/bin/bash
# Compares our engines with glibc's ldconfig: the caches byte for byte, the links, and what the real loader finds, on roots of three
# Debian releases as they are and on generated ones of odd libraries, names and configurations; then the incremental engine with
# the full one.
# usage: tests/oracle.sh [--rich] [GENERATED-ROOTS-PER-RELEASE [SEEDS]]
# --rich: also on roots with hundreds of packages of libraries, which are made once: 15 GB, and half an hour
set -euo pipefail
cd "$(dirname "$0")/.."
rich=
if [ "${1:-}" = --rich ]; then rich=1; shift; fi
generated=${1:-13} seeds=${2:-200}
sh tests/setup.sh
cargo build --quiet --bin nri-ldcache --example oracle
hook=$(realpath "${CARGO_TARGET_DIR:-target}"/*/debug/nri-ldcache)
oracle=$(dirname "$hook")/examples/oracle
cache=${NRI_LDCACHE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/nri-ldcache}
declare -A bases=([bookworm]=$cache/image-bookworm [trixie]=$cache/node-trixie-2 [forky]=$cache/node-forky-2)
for base in "${bases[@]}"; do
    [ -d "$base" ] || { echo "$base is missing: tests/run.sh makes it" >&2; exit 1; }
done
roots=("${bases[@]}")

if [ "$rich" ]; then
    while read -r release theme _; do
        root=$cache/rich-$release-$theme
        [ -d "$root" ] || unshare --mount --pid --fork --propagation private \
            tests/oracle/rich.sh "$release" "$theme" "${bases[$release]}" "$root" >&2
        roots+=("$root")
    done < <(grep -v '^#' tests/oracle/packages)
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for seed in $(seq "$generated"); do
    for base in "${bases[@]}"; do
        root=$work/$(basename "$base")-$seed
        "$oracle" generate "$root" "$base" "$seed"
        # Every other one has a cache. A link that one run makes may be what the next one counts.
        [ $((seed % 2)) = 0 ] || for _ in 1 2 3; do chroot "$root" /sbin/ldconfig 2>/dev/null || true; done
        roots+=("$root")
    done
done
mkdir -p "$work/driver/lib"
for name in cuda nvidia-ml nvidia-ptxjitcompiler; do
    echo 'int cuInit(void) { return 0; }' |
        cc -shared -x c -o "$work/driver/lib/lib$name.so.570.1" "-Wl,-soname,lib$name.so.1" -
done
echo 'int cuInit(void); int main(void) { return cuInit(); }' |
    cc -x c -o "$work/driver/program" - -x none "$work/driver/lib/libcuda.so.570.1"
unshare --mount --propagation private tests/oracle/run.sh "$hook" "$work/driver" "${roots[@]}"
mkdir "$work/property"
"$oracle" property "$work/property" "$seeds" "${bases[@]}"
