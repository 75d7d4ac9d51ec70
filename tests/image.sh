#!/usr/bin/env bash
# Packs a static binary into an image, as .ci/Containerfile describes it, with no registry and no daemon:
#   tests/image.sh BINARY OUT [amd64|arm64]
# OUT becomes an archive in OCI's format, for `ctr -n k8s.io images import` or `skopeo copy oci-archive:OUT docker://…`. Prints the
# digest of its manifest. Two builds of one binary have one digest, or this fails.
set -euo pipefail

binary=$(realpath "$1") out=$(realpath -m "$2") arch=${3:-amd64}
root=$(realpath "$(dirname "$0")/..")
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml" | head -n 1)
revision=$(git -C "$root" rev-parse HEAD 2>/dev/null || echo unknown)

work=$(mktemp -d)
buildah() {
    command buildah --root "$work/root" --runroot "$work/run" --storage-driver vfs "$@"
}
trap 'rm -rf "$work"' EXIT

fail() {
    echo "image: $*" >&2
    exit 1
}

case $arch in
    amd64) machine=X86-64 ;;
    arm64) machine=AArch64 ;;
    *) fail "there is no image for $arch" ;;
esac
readelf -h "$binary" 2>/dev/null | grep -q "Machine:.*$machine" || fail "$binary is not a program for $arch"
if readelf -l "$binary" 2>/dev/null | grep -q INTERP; then
    fail "$binary is not static"
fi
mkdir -p "$work/build/out" "$work/empty"
install -m 0755 "$binary" "$work/build/out/nri-ldcache"
# The stage that compiles has its place taken by a directory, so that nothing is pulled.
for build in 1 2; do
    touch -d "@$build" "$work/build/out/nri-ldcache" # what may differ between builds, and must not matter
    buildah build --quiet --isolation chroot --no-cache --timestamp 0 --platform "linux/$arch" \
        --build-context "build=$work/build" --build-arg "VERSION=$version" --build-arg "REVISION=$revision" \
        --tag "localhost/nri-ldcache:$version" --file "$root/.ci/Containerfile" "$work/empty" >/dev/null
    buildah push --quiet "localhost/nri-ldcache:$version" "oci:$work/layout$build:$version"
done
digest() {
    jq -er '.manifests[0].digest' "$work/layout$1/index.json"
}
[ "$(digest 1)" = "$(digest 2)" ] || fail "two builds have two digests: $(digest 1) and $(digest 2)"

umoci unpack --image "$work/layout1:$version" "$work/bundle" >/dev/null
found=$(cd "$work/bundle/rootfs" && find . -mindepth 1 | sort | tr '\n' ' ')
[ "$found" = "./nri-ldcache " ] || fail "the image holds more than the program: $found"
cmp "$binary" "$work/bundle/rootfs/nri-ldcache" || fail "the image holds another program"
config() {
    jq -ec "$1" "$work/layout1/blobs/sha256/$(jq -er '.config.digest' "$work/layout1/blobs/sha256/$(digest 1 | cut -d: -f2)" | cut -d: -f2)"
}
[ "$(config '[.config.Entrypoint, .config.Cmd, .os, .architecture]')" = "[[\"/nri-ldcache\"],[\"run\"],\"linux\",\"$arch\"]" ] ||
    fail "configuration: $(config .)"
[ "$(config '.config.Labels["org.opencontainers.image.version"]')" = "\"$version\"" ] || fail "labels: $(config .config.Labels)"
if [ "$arch" = "$(dpkg --print-architecture)" ]; then
    said=$(chroot "$work/bundle/rootfs" /nri-ldcache --version) || fail "the program does not run in the image"
    [ "$said" = "nri-ldcache $version" ] || fail "the program in the image says it is $said"
fi

mkdir -p "$(dirname "$out")"
rm -f "$out"
skopeo copy --quiet --insecure-policy "oci:$work/layout1:$version" "oci-archive:$out:localhost/nri-ldcache:$version"
digest 1
