#!/bin/sh
# Creates N containers (2000) of all kinds on one containerd, compares what was decided and done with what was made, and
# prints what it cost the plugin, as it is shipped: tests/soak.sh [N] [trixie|forky]
set -eu
cd "$(dirname "$0")/.."
sh tests/setup.sh
SOAK=${1:-2000} SOAK_NODE=${2:-forky} RUST_BACKTRACE=0 exec cargo test --release --test all -- soak:: --nocapture
