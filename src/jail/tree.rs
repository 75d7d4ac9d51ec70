//! The mount tree of a container, cloned and made read-only but for its top.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
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
pub(super) fn attach(here: &Path) -> Result<()> {
    let read_only = statvfs(".").context("stat filesystem")?.flags().contains(FsFlags::ST_RDONLY);
    let by_runtime = || MountInfo::read().is_ok_and(|mounts| mounts.covers_writable(here));
    let writable = !read_only || by_runtime();
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
    let tree = clone(dir, OpenTreeFlags::AT_RECURSIVE)?;
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

/// Where a runtime mounts what leads out of a root, whatever it is.
const COVERED: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Covers these directories of the jail, if they are there, and every other procfs and sysfs in it, with an empty read-only
/// filesystem.
pub(super) fn cover(jail: &Jail, mounts: &MountInfo) -> Result<()> {
    let mut cover = Cover(None);
    for path in COVERED.map(Path::new) {
        if let Some(dir) = jail.root.open_dir(path)? {
            cover.lay(&dir, path).with_context(|| format!("cover {}", path.display()))?;
        }
    }
    let is_covered = |path: &PathBuf| COVERED.iter().any(|cover| path.starts_with(cover));
    for path in mounts.pseudo_filesystems_below("/".as_ref()) {
        if !is_covered(&path) {
            let covered = pseudo_filesystem(jail, &path).and_then(|dir| cover.lay(&dir, &path));
            covered.with_context(|| format!("cover {}", path.display()))?;
        }
    }
    Ok(())
}

/// Opens a procfs or sysfs of the jail, which must be found where the mount table says.
fn pseudo_filesystem(jail: &Jail, path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let dir = jail.root.open(path, flags, ResolveFlag::RESOLVE_NO_SYMLINKS).context("open")?;
    let kind = fstatfs(&dir).context("stat filesystem")?.filesystem_type();
    // A mount upon a part of one that is covered already can't be reached anymore.
    ensure!(matches!(kind, PROC_SUPER_MAGIC | SYSFS_MAGIC), "not found there");
    Ok(dir)
}

/// The empty filesystem, once it is mounted somewhere.
struct Cover(Option<OwnedFd>);

impl Cover {
    fn lay(&mut self, dir: &OwnedFd, path: &Path) -> Result<()> {
        let empty = match &self.0 {
            Some(mounted) => clone(mounted, OpenTreeFlags::empty()),
            None => empty_filesystem(),
        };
        match empty {
            Ok(empty) => {
                mount_upon(&empty, dir)?;
                self.0.get_or_insert(empty);
                Ok(())
            }
            Err(Errno::ENOSYS) => {
                mount(Some("tmpfs"), path, Some("tmpfs"), EMPTY, NONE).context("mount tmpfs")
            }
            Err(error) => Err(error).context("make an empty tmpfs"),
        }
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

fn clone(dir: impl AsFd, flags: OpenTreeFlags) -> nix::Result<OwnedFd> {
    let detached = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(dir, "", flags | detached | OpenTreeFlags::AT_EMPTY_PATH).map_err(errno)
}

fn mount_upon(mount: &OwnedFd, dir: &OwnedFd) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", dir, "", flags).context("move_mount")
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}
