#!/bin/bash
# Refreshes each root with the hook, by both of our engines and with a driver added, and with the root's own ldconfig and the same
# configuration; compares the caches byte for byte, and the links; then what the root's own loader finds with both caches.
# usage: unshare --mount --propagation private tests/oracle/run.sh HOOK DRIVER ROOT...
# The roots are not changed. KEEP=DIR keeps what differs.
set -euo pipefail
hook=$1 driver=$2; shift 2
here=$(realpath "$(dirname "$0")")
work=$(mktemp -d)
mount -t tmpfs tmpfs "$work"
trap 'cd /; umount -R "$work"; rmdir "$work"' EXIT

# layer ROOT WHOSE: a layer above the root, in $work/WHOSE, with a driver that nobody has told the linker of
layer() {
    mkdir -p "$work/$2/"{up,work,root}
    mount -t overlay overlay -o "lowerdir=$1,upperdir=$work/$2/up,workdir=$work/$2/work" "$work/$2/root"
    mkdir -p "$work/$2/root/opt"
    cp -a "$driver" "$work/$2/root/opt/driver"
}
refresh() { # ENGINE
    printf '{"id":"%s","bundle":"/","root":"%s"}' "$1" "$work/$1/root" >"$work/state"
    "$hook" update-ldcache --engine "$1" --folder /opt/driver/lib --container-spec "$work/state" --report-dir "$work/reports"
}
# changes WHOSE: what was changed in that layer but the caches; a link with its target
changes() { (cd "$work/$1/up"; find . \( -type l -printf '%p -> %l\n' \) -o \( ! -type d -printf '%p %y\n' \) |
    grep -a -v '/etc/ld.so.cache\|/aux-cache' | sort); }
# compare ENGINE: says how its cache and links differ from ldconfig's, and who made it if it was another
compare() {
    local result=identical by
    cmp -s "$work/"{ldconfig,"$1"}/root/etc/ld.so.cache || result="CACHES DIFFER"
    diff <(changes ldconfig) <(changes "$1") >"$work/links" || result="$result, LINKS DIFFER"
    by=$(sed 's/.*"engine":"\([^"]*\)".*/\1/' "$work/reports/$1.json")
    [ "$by" = "$1" ] || result="$result, by $by"
    echo "$result"
    if [[ $result == *DIFFER* && -n ${KEEP:-} ]]; then
        mkdir -p "$KEEP/$name"
        cp "$work/ldconfig/root/etc/ld.so.cache" "$KEEP/$name/ldconfig"
        cp "$work/$1/root/etc/ld.so.cache" "$KEEP/$name/$1"
        cp "$work/links" "$KEEP/$name/$1.links"
    fi
}

failed=0
printf '%-26s %-42s %7s %5s %-9s %-20s %s\n' root "ldconfig's glibc" entries links native incremental loader
for root; do
    name=$(basename "$root")
    for whose in ldconfig native incremental; do layer "$root" $whose; done
    ok=1 native=- incremental=- loader=-
    { refresh native && refresh incremental; } 2>"$work/said" || ok=
    if [ $ok ]; then
        cp -a "$work/native/root/etc/ld.so.conf.d/"*-nvcr-ldcache.conf "$work/ldconfig/root/etc/ld.so.conf.d"
        chroot "$work/ldconfig/root" /sbin/ldconfig -f /etc/ld.so.conf -C /etc/ld.so.cache >"$work/said" 2>&1 || true
        native=$(compare native) incremental=$(compare incremental)
        [[ $native$incremental != *DIFFER* ]] || failed=1
        # A generated root has no programs.
        if [ -e "$root/usr/bin/env" ]; then
            loader=$("$here/loader.sh" "$work/"{ldconfig,incremental}/root 2>&1) || { failed=1; loader="FAILED: $loader"; }
        fi
    else
        failed=1 loader="FAILED: $(cat "$work/said")"
    fi
    generator=$(tail -c 100 "$work/ldconfig/root/etc/ld.so.cache" | tr '\0' '\n' | grep -a -o '(.*' | tail -1)
    entries=$(sed -n 's/.*"libraries":\([0-9]*\).*/\1/p' "$work/reports/native.json") || entries=-
    printf '%-26s %-42s %7s %5s %-9s %-20s %s\n' "$name" "${generator/ stable release version/}" "$entries" \
        "$(changes native | grep -c -e '->')" "$native" "$incremental" "$loader"
    for whose in ldconfig native incremental; do umount "$work/$whose/root"; rm -rf "${work:?}/$whose"; done
done
exit $failed
