#!/bin/sh
# A GPU pod before and after, on a real containerd: tests/demo.sh [--node trixie|forky] [--runtime runc|crun]
set -eu
cd "$(dirname "$0")/.."
start=$(date +%s)
sh tests/setup.sh
# The profile of the tests, so that whoever runs both compiles once.
cargo run --quiet --example demo -- "$@"
echo
echo "$(($(date +%s) - start)) s from the start of this command: installing, compiling and the node, as far as they were missing"
