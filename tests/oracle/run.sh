#!/bin/bash
# Compares the caches and links of an engine with those of the ldconfig of each root, which is not changed.
# usage: unshare -m tests/oracle/run.sh ORACLE ENGINE ROOT...
# A ROOT/.dirs lists directories to be added to the configuration, as the hook would.
set -euo pipefail
oracle=$1 engine=$2; shift 2
work=$(mktemp -d)
mount -t tmpfs tmpfs "$work"
trap 'cd /; umount -R "$work"; rmdir "$work"' EXIT

# layer ROOT NAME: the root with a layer of its own above it
layer() {
    mkdir -p "$work/$2/"{up,work,root}
    mount -t overlay overlay -o "lowerdir=$1,upperdir=$work/$2/up,workdir=$work/$2/work" "$work/$2/root"
}
# changes NAME: what was changed in the layer of that name but the cache; a link with its target
changes() { (cd "$work/$1/up"; find . \( -type l -printf '%p -> %l\n' \) -o \( ! -type d -printf '%p %y\n' \) |
    grep -a -v '/etc/ld.so.cache\|/aux-cache' | sort); }

failed=0
printf '%-28s %-44s %8s %8s %6s  %s\n' root generator entries links opened result
for root; do
    name=$(basename "$root")
    layer "$root" "$name.theirs"; layer "$root" "$name.ours"
    theirs=$work/$name.theirs/root ours=$work/$name.ours/root
    chroot "$theirs" /sbin/ldconfig -f /etc/ld.so.conf -C /etc/ld.so.cache >"$work/said" 2>&1 || true
    said=$("$oracle" "$engine" "$ours" 2>&1) || said="failed: $said"
    generator=$(tail -c 100 "$theirs/etc/ld.so.cache" | tr '\0' '\n' | grep -a -o '(.*' | tail -1 | cut -c1-44)
    result=identical; [[ $said == *" us, "* ]] || result=FAILED
    cmp -s "$theirs/etc/ld.so.cache" "$ours/etc/ld.so.cache" || result="CACHES DIFFER"
    diff <(changes "$name.theirs") <(changes "$name.ours") >"$work/links" || result="$result, LINKS DIFFER"
    if [ "$result" != identical ]; then
        failed=1
        [ -z "${KEEP:-}" ] || { mkdir -p "$KEEP/$name"; cp "$theirs/etc/ld.so.cache" "$KEEP/$name/theirs"
            cp "$ours/etc/ld.so.cache" "$KEEP/$name/ours" || true; cp "$work/links" "$KEEP/$name/links"; }
    fi
    numbers=$(sed -n 's/.* us, \([0-9]*\) entries, \([0-9]*\) opened, \([0-9]*\) links.*/\1 \3 \2/p' <<<"$said")
    # shellcheck disable=SC2086
    printf '%-28s %-44s %8s %8s %6s  %s\n' "$name" "$generator" ${numbers:-- - -} "$result"
    [ -n "$numbers" ] || { echo "$said"; failed=1; }
    umount "$theirs" "$ours"; rm -rf "$work/$name".*
done
exit $failed
