#!/bin/sh
# A GPU pod before and after, on a real containerd: tests/demo.sh [--node trixie|forky] [--runtime runc|crun]
set -eu
cd "$(dirname "$0")/.."
sh tests/setup.sh
# The profile of the tests, so that whoever runs both compiles once.
exec cargo run --quiet --example demo -- "$@"
