#!/bin/bash
# Makes the root RELEASE-THEME at TARGET: a copy of BASE with the packages that tests/oracle/packages lists for it.
# usage: unshare --mount --pid --fork --propagation private tests/oracle/rich.sh RELEASE THEME BASE TARGET
set -euo pipefail
release=$1 theme=$2 base=$3 target=$4
read -ra packages < <(sed -n "s/^$release $theme //p" "$(dirname "$0")/packages")
[ ${#packages[@]} != 0 ] || { echo "no packages for $release $theme" >&2; exit 1; }

unfinished=$(dirname "$target")/.$(basename "$target").unfinished
rm -rf --one-file-system "$unfinished"
cp -a "$base" "$unfinished"
inside() { chroot "$unfinished" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }
mount -t proc proc "$unfinished/proc"
cp --remove-destination /etc/resolv.conf "$unfinished/etc/resolv.conf"
# The mirror is debootstrap's; how to reach it is this machine's.
apt-config dump Acquire >"$unfinished/etc/apt/apt.conf.d/00-machine"
cat >"$unfinished/etc/apt/apt.conf.d/01-oracle" <<'APT'
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Dpkg::Use-Pty "false";
DPkg::Options { "--force-unsafe-io"; "--path-exclude=*.a"; "--path-exclude=/usr/share/doc/*"; "--path-exclude=/usr/share/locale/*";
    "--path-exclude=/usr/share/man/*"; };
APT
printf '#!/bin/sh\nexit 101\n' >"$unfinished/usr/sbin/policy-rc.d" # start no service
chmod +x "$unfinished/usr/sbin/policy-rc.d"
[[ ${packages[*]} != *:i386* ]] || inside dpkg --add-architecture i386
inside apt-get -qq update
# Packages of two architectures must have one version, and the base's may be older than the mirror's.
inside apt-get -qq -y dist-upgrade
inside apt-get -qq -y install "${packages[@]}"
inside apt-get clean
rm -rf "$unfinished"/var/lib/apt/lists/* "$unfinished"/usr/{include,share/icons}/* # large, and without libraries

if [ "$theme" = hwcaps ]; then
    # No package has libraries for other processors in its directory's glibc-hwcaps: copies of some are taken for them.
    libraries=$unfinished/usr/lib/x86_64-linux-gnu
    for level in 2 3 4; do
        hwcaps=$libraries/glibc-hwcaps/x86-64-v$level
        mkdir -p "$hwcaps"
        find "$libraries" -maxdepth 1 -name 'lib*.so.*' | LC_ALL=C sort | awk "NR % $level == 0" | xargs cp -a -t "$hwcaps"
    done
    # Those of glibc before 2.37.
    mkdir "$libraries/haswell"
    cp -a "$libraries"/libg*.so.* "$libraries/haswell"
    inside ldconfig
fi
umount "$unfinished/proc"
mv "$unfinished" "$target"
