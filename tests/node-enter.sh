#!/bin/sh
# A node: a directory made by debootstrap as the root of its own mount, pid, ipc, uts and network namespaces.
#
#   node-enter.sh DIRECTORY CGROUP
#
# Prints the pid of the node's PID 1 once the node stands. The node lives as long as stdin is open: when whoever holds
# the other end dies, even of SIGKILL, PID 1 reads the end of file and the kernel takes every process and mount of the
# node with it. What outlives a namespace is cgroups, so they are removed here, outside, afterwards.
set -eu

outside() {
    unshare --mount --pid --ipc --uts --net --fork --propagation private sh "$0" "$1" || status=$?
    find /sys/fs/cgroup -depth -type d -path "*/$2*" -exec rmdir {} + 2>/dev/null || true
    exit "${status:-0}"
}

# The directory stays as debootstrap left it: it is the lower layer, and what a test writes is in memory.
# It is named `.` so that no comma or colon of its path can end the mount option early.
stand() {
    cd "$1"
    mount -t tmpfs -o mode=755 node /mnt
    mkdir -p /mnt/upper /mnt/work /mnt/root
    mount -t overlay -o lowerdir=.,upperdir=/mnt/upper,workdir=/mnt/work node /mnt/root
    cd /mnt/root
}

# A /dev of its own: the fake GPU's device nodes must not appear on the host.
devices() {
    mount -t tmpfs -o mode=755 dev dev
    for name in null zero full random urandom tty; do
        touch "dev/$name"
        mount --bind "/dev/$name" "dev/$name"
    done
    mkdir dev/pts dev/shm dev/mqueue
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
    mount -t tmpfs shm dev/shm
    mount -t mqueue mqueue dev/mqueue
    ln -s pts/ptmx dev/ptmx
    ln -s /proc/self/fd dev/fd
}

kernel() {
    mount -t proc proc proc
    mount --rbind /sys sys
    # crun 1.28 refuses a hybrid hierarchy.
    if mountpoint -q sys/fs/cgroup/unified; then umount sys/fs/cgroup/unified; fi
}

# overlayfs takes no upper layer on overlayfs, so containerd gets a tmpfs.
state() {
    mount -t tmpfs -o mode=755 run run
    mkdir -p var/lib/containerd
    mount -t tmpfs -o mode=755 containerd var/lib/containerd
    # containerd copies both into its sandboxes.
    echo '127.0.0.1 localhost' >etc/hosts
    rm -f etc/resolv.conf
    : >etc/resolv.conf
}

inside() {
    # The host's procfs still: it names us as the host does.
    read -r pid _ </proc/self/stat
    stand "$1"
    devices
    kernel
    state
    pivot_root . mnt
    cd /
    umount -l /mnt
    mount --make-rshared /
    echo "$pid"
    exec tini -- cat >/dev/null
}

# Only the first process of a pid namespace is 1.
if [ $# -eq 2 ]; then outside "$@"; else inside "$@"; fi
