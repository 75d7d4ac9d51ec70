//! The mount tree of a container, cloned and made read-only but for its top.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, ResolveFlag};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{chdir, fchdir};
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsmount, fsopen, move_mount, open_tree,
};

use super::Jail;
use super::mount_setattr::{Change, mount_setattr};
use super::mountinfo::MountInfo;

const NONE: Option<&str> = None;

/// Mounts a clone of the working directory, whose path is `here`, upon itself and changes into it.
///
/// All of it becomes read-only, then its top alone writable again: volumes, driver directories and whatever else is
/// mounted below can't be written through it. A top that was read-only before stays so, for it may be the host's, unless
/// it is the runtime that made it so.
pub(super) fn attach(here: &Path, mounts: &MountInfo) -> Result<()> {
    let read_only = statvfs(".").context("stat filesystem")?.flags().contains(FsFlags::ST_RDONLY);
    let writable = !read_only || mounts.covers_writable(here);
    match clone_read_only(writable) {
        Ok(tree) => {
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(&tree, "", CWD, ".", flags).context("move_mount")?;
            fchdir(&tree).context("change into the clone")
        }
        // Before Linux 5.2 (open_tree) or 5.12 (mount_setattr), or behind a filter that knows neither.
        Err(Errno::ENOSYS) => bind_read_only(here, writable),
        Err(error) => Err(error).context("clone mount tree"),
    }
}

fn clone_read_only(writable: bool) -> nix::Result<OwnedFd> {
    let tree = sealed_clone(CWD)?;
    if writable {
        mount_setattr(tree.as_fd(), Change::OPEN)?;
    }
    Ok(tree)
}

/// A detached clone of the mounts at and below `dir`.
fn sealed_clone(dir: impl AsFd) -> nix::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(dir, "", flags).map_err(errno)?;
    mount_setattr(tree.as_fd(), Change::SEAL)?;
    Ok(tree)
}

/// The same with mount(2) alone: the tree is bound upon its own path, and each mount of it remounted.
fn bind_read_only(here: &Path, writable: bool) -> Result<()> {
    mount(Some(here), here, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)
        .context("bind container root")?;
    chdir(here).context("change into the bound root")?;
    let mounts = MountInfo::read().context("read /proc/self/mountinfo")?;
    for path in mounts.points_below(here) {
        let top = path == here;
        match remount(path, !(top && writable)) {
            // Hidden by another mount, perhaps; what can be reached and written is looked for below.
            Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) if !top => {}
            done => done.with_context(|| format!("remount {}", path.display()))?,
        }
    }
    let mounts = MountInfo::read().context("read /proc/self/mountinfo")?;
    match mounts.writable_below(here) {
        Some(path) => bail!("{} can still be written", path.display()),
        None => Ok(()),
    }
}

fn remount(path: &Path, read_only: bool) -> nix::Result<()> {
    // A remount sets exactly the flags it is given, and one that clears a locked one is refused (mount_namespaces(7)).
    let had = statvfs(path)?.flags();
    let mut flags = MsFlags::MS_REMOUNT
        | MsFlags::MS_BIND
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV
        | MsFlags::MS_NOEXEC;
    flags.set(MsFlags::MS_RDONLY, read_only);
    flags.set(MsFlags::MS_NOATIME, had.contains(FsFlags::ST_NOATIME));
    flags.set(MsFlags::MS_NODIRATIME, had.contains(FsFlags::ST_NODIRATIME));
    flags.set(MsFlags::MS_RELATIME, had.contains(FsFlags::ST_RELATIME));
    mount(NONE, path, NONE, flags, NONE)
}

/// Covers a directory of the jail, if there is one, with an empty read-only filesystem.
pub(super) fn cover(jail: &Jail, path: &Path) -> Result<()> {
    match jail.root.open_dir(path)? {
        Some(dir) => cover_dir(&dir, path),
        None => Ok(()),
    }
}

/// Covers a procfs or sysfs of the jail, which must be found where the mount table says.
pub(super) fn cover_pseudo_filesystem(jail: &Jail, path: &Path) -> Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let dir = jail.root.open(path, flags, ResolveFlag::RESOLVE_NO_SYMLINKS).context("open")?;
    let kind = fstatfs(&dir).context("stat filesystem")?.filesystem_type();
    // A mount upon a part of one that is covered already can't be reached anymore.
    if matches!(kind, PROC_SUPER_MAGIC | SYSFS_MAGIC) {
        cover_dir(&dir, path)
    } else {
        bail!("not found there")
    }
}

fn cover_dir(dir: &OwnedFd, path: &Path) -> Result<()> {
    match empty_filesystem() {
        Ok(empty) => mount_upon(&empty, dir),
        Err(Errno::ENOSYS) => {
            mount(Some("tmpfs"), path, Some("tmpfs"), EMPTY, NONE).context("mount tmpfs")
        }
        Err(error) => Err(error).context("make an empty tmpfs"),
    }
}

/// How an empty filesystem is mounted with mount(2).
pub(super) const EMPTY: MsFlags =
    MsFlags::MS_RDONLY.union(MsFlags::MS_NOSUID).union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

fn empty_filesystem() -> nix::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(errno)?;
    fsconfig_create(&context).map_err(errno)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(errno)
}

/// Makes a directory of the root filesystem readable only. It may be missing.
pub(super) fn protect(jail: &Jail, path: &Path) -> Result<()> {
    let Some(dir) = jail.root.open_dir(path)? else { return Ok(()) };
    match sealed_clone(&dir) {
        Ok(clone) => mount_upon(&clone, &dir),
        Err(Errno::ENOSYS) => {
            mount(Some(path), path, NONE, MsFlags::MS_BIND, NONE).context("bind")?;
            remount(path, true).context("remount")
        }
        Err(error) => Err(error).context("clone"),
    }
}

fn mount_upon(mount: &OwnedFd, dir: &OwnedFd) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", dir, "", flags).context("move_mount")
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}
