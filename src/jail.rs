//! [`Jail`]: a process whose `/` is the container's root, and which can write nothing else.
//!
//! # Threat model
//!
//! The image is hostile: every file, link and directory below the container's root is chosen by an attacker, and so are
//! the contents of its volumes. At stake are the host's files and mounts, the volumes, and the start of other containers.
//! The hook runs as root on the host, before the runtime has confined anything.
//!
//! | layer | what it stops |
//! |---|---|
//! | own mount namespace, private propagation | mounts of ours that reach the host or another container |
//! | own pid, ipc, uts, network namespace | signals, sockets and processes of the host; killing pid 1 ends it all |
//! | `pivot_root` into the container's root, old root detached | `..`, absolute links, a leaked working directory |
//! | no procfs or sysfs visible | magic links as in CVE-2025-23267: `/etc -> /proc/1/root/etc` |
//! | the whole tree read-only but for the root filesystem | `DT_SONAME=../../../vol/x`, `/etc -> /vol`, `ld.so.cache~ -> /vol/x` |
//! | `nodev`, `nosuid`, `noexec` on the whole tree | device nodes and programs of the image |
//! | sealed memfd, empty environment ([`crate::ldconfig`]) | CVE-2024-0135, CVE-2024-0136, CVE-2025-23266 |
//!
//! The container's own root filesystem is what the attacker owns already: what he makes the update write there is his.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, stat};
use nix::unistd::{chdir, chroot, pivot_root};

mod files;
mod mount_setattr;
mod mountinfo;
mod stage;
mod tree;

pub use stage::run;

/// Proof that `/` of this process is a container's root and not the host's.
///
/// Whatever writes below `/etc` or executes ldconfig asks for one, and only [`enter`] makes one.
#[derive(Debug)]
pub struct Jail {
    root: OwnedFd,
}

/// Enters the working directory as `/`, in a mount namespace of its own.
///
/// The namespace is made here and not by the caller, so that there is no way to this code that changes the host's mounts.
/// The directory is the working directory, not a path: it stays the one that was checked, also across the new namespace.
pub fn enter() -> Result<Jail> {
    nix::sys::prctl::set_no_new_privs().context("set no_new_privs")?;
    let here = std::env::current_dir().context("get working directory")?;
    let (root, host) = (stat(".").context("stat .")?, stat("/").context("stat /")?);
    ensure!(
        (root.st_dev, root.st_ino) != (host.st_dev, host.st_ino),
        "working directory is the host's own /"
    );
    unshare(CloneFlags::CLONE_NEWNS).context("unshare mount namespace")?;
    const NONE: Option<&str> = None;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .context("make mounts private")?;
    tree::attach(&here).context("attach container root")?;
    // The container's own procfs and sysfs, wherever the runtime mounted them; read while there is a /proc to read.
    let full = mountinfo::pseudo_filesystems_below(&here).context("read /proc/self/mountinfo")?;
    change_root()?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let jail = Jail { root: open("/", flags, Mode::empty()).context("open /")? };
    for path in
        ["/proc", "/sys", "/dev"].iter().map(Path::new).chain(full.iter().map(|p| p.as_path()))
    {
        tree::cover(&jail, path).with_context(|| format!("cover {}", path.display()))?;
    }
    // ldconfig reads and would write its auxiliary cache there; it is no part of what an update leaves behind.
    tree::protect(&jail, Path::new("/var/cache")).context("make /var/cache read-only")?;
    Ok(jail)
}

/// Makes the working directory `/` and the old root unreachable.
///
/// `pivot_root(".", ".")` stacks the old root upon the new one, from where it is detached (pivot_root(2), "Notes").
/// A root on an initramfs can't be pivoted (EINVAL): it is moved, after every mount that could name the old one is gone.
fn change_root() -> Result<()> {
    match pivot_root(".", ".") {
        Ok(()) => umount2(".", MntFlags::MNT_DETACH).context("detach host root")?,
        Err(nix::Error::EINVAL) => move_root().context("move root")?,
        Err(error) => return Err(error).context("pivot root"),
    }
    chdir("/").context("change to /")
}

fn move_root() -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    for path in mountinfo::pseudo_filesystems(&table) {
        // A mount below one that has just been detached is gone already.
        if let Err(error) = umount2(&path, MntFlags::MNT_DETACH) {
            tracing::debug!(path = %path.display(), %error, "not unmounted");
        }
    }
    const NONE: Option<&str> = None;
    mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE).context("mount over /")?;
    chroot(".").context("change root")
}
