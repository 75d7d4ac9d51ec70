#!/bin/bash
# Compares what the loaders of two roots, of one image with two caches, find for the programs in them and for libraries, and runs
# a program that needs a library of the driver. Says how many files were looked at, and what they need.
# usage: tests/oracle/loader.sh ROOT OTHER-ROOT
set -euo pipefail
programs=200 libraries=100

# Reads names of files; prints what is needed, and where that was found, without addresses.
# shellcheck disable=SC2016 # the shell inside shall expand it
list='while read -r file; do
    for loader in /lib64/ld-linux-x86-64.so.2 /lib/ld-linux.so.2; do
        [ -e $loader ] && found=$($loader --list "$file" 2>&1) && echo "$file:
$found" && break
    done
done
true'
inside() { chroot "$1" /usr/bin/env -i PATH=/usr/bin:/bin sh -c "$list" <"$work/files" 2>/dev/null | sed 's/ (0x.*//'; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$1" && find usr/bin -type f -printf '/%p\n' | sort | sed -n "1,${programs}p") >"$work/files"
(cd "$1" && find usr/lib* -name 'lib*.so*' -type f -printf '/%p\n' | sort) >"$work/all"
awk -v step="$(($(wc -l <"$work/all") / libraries + 1))" 'NR % step == 0' "$work/all" >>"$work/files"
echo /opt/driver/program >>"$work/files"
inside "$1" >"$work/one"
inside "$2" >"$work/other"
if ! diff "$work/one" "$work/other" >"$work/differences"; then
    echo "DIFFERS: $(head -5 "$work/differences")"
    exit 1
fi
for root in "$1" "$2"; do
    chroot "$root" /usr/bin/env -i /opt/driver/program || { echo "the program that needs the driver FAILED"; exit 1; }
done
grep -q 'libcuda.so.1 => /opt/driver/lib/libcuda.so.1' "$work/other" || { echo "libcuda.so.1 is NOT FOUND"; exit 1; }
echo "$(grep -c ':$' "$work/one") files, $(grep -c '=> /' "$work/one") libraries"
