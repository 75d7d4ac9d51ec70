#!/bin/sh
# Runs every fuzzing target for that many seconds (default 600), or those that are named: tests/fuzz.sh 60 oci mux
# Prints a line for each, and fails if one has found something. What the fuzzers keep is in target/fuzz/TARGET, with a log.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-600}
[ $# = 0 ] || shift
dir=${CARGO_TARGET_DIR:-$PWD/target}/fuzz

if ! command -v c++ >/dev/null; then
    echo "a C++ compiler is missing, for libFuzzer: install g++" >&2
    exit 1
fi
command -v cargo-fuzz >/dev/null || (cd / && cargo install --locked cargo-fuzz)
# The instrumentation is an unstable option of the compiler, which the stable one has, too. There is next to no unsafe code, so
# that a sanitizer would only cost time.
export RUSTC_BOOTSTRAP=1
# One target makes small roots, thousands in a second.
[ ! -w /dev/shm ] || export TMPDIR=/dev/shm
fuzz() { # COMMAND ARGUMENTS
    command=$1
    shift
    nice -n 19 cargo fuzz "$command" --fuzz-dir tests/fuzz --target-dir "$dir" --sanitizer none "$@"
}
fuzz build

# shellcheck disable=SC2046 # a list
[ $# != 0 ] || set -- $(cargo fuzz list --fuzz-dir tests/fuzz)
failed=0
for target; do
    mkdir -p "$dir/$target/corpus" "$dir/$target/findings"
    log=$dir/$target/log
    dictionary=tests/fuzz/dictionaries/$target
    # shellcheck disable=SC2046 # one argument or none
    fuzz run "$target" "$dir/$target/corpus" "$PWD/tests/fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=64 -max_len=20000 \
        -print_final_stats=1 -artifact_prefix="$dir/$target/findings/" \
        $([ -e "$dictionary" ] && echo "-dict=$PWD/$dictionary") >"$log" 2>&1 || failed=1
    findings=$(find "$dir/$target/findings" -type f | wc -l)
    [ "$findings" = 0 ] || failed=1
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    printf '%-12s %5s s %11s executions %6s edges %3s findings\n' \
        "$target" "$seconds" "${executions:-?}" "${coverage:-?}" "$findings"
done
exit $failed
