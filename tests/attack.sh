#!/bin/sh
# Prints the attack matrix: each case with its outcome, its time and the reason, and which of them cover which CVE.
# An argument is a part of the names of the cases to run, such as `/etc/ld.so.cache` or `[userns]`.
set -eu
cd "$(dirname "$0")/.."
sh tests/setup.sh
ATTACK="${1:-}" RUST_BACKTRACE=0 exec cargo test --quiet --test all -- attack::every_attack --nocapture
