#!/bin/sh
# All tests, on real container runtimes; arguments go to cargo test. The first run makes the nodes, which takes minutes.
set -eu
cd "$(dirname "$0")/.."
sh tests/setup.sh
exec cargo test --workspace --all-features "$@"
