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
//! | own pid, ipc, uts, network namespace for ldconfig, and where there is no seccomp | signals, sockets and processes of the host; killing pid 1 ends it all |
//! | inherited descriptors closed, and our own to the root | ways around every mount (runc's CVE-2024-21626) |
//! | `pivot_root` into the container's root, old root detached | `..`, absolute links, a leaked working directory |
//! | no procfs or sysfs visible | magic links as in CVE-2025-23267: `/etc -> /proc/1/root/etc` |
//! | the whole tree read-only but for the root filesystem | `DT_SONAME=../../../vol/x`, `/etc -> /vol`, `ld.so.cache~ -> /vol/x` |
//! | `nodev`, `nosuid`, `noexec` on the whole tree | device nodes and programs of the image |
//! | paths by openat2(2) below the root, opened without blocking | links that swap (CVE-2026-24260), FIFOs |
//! | sealed memfd, empty environment ([`crate::ldconfig`]) | CVE-2024-0135, CVE-2024-0136, CVE-2025-23266 |
//! | one capability, no new privileges, not dumpable | mounts, raw devices, tracing, after a bug in a parser |
//! | Landlock | files written outside `/etc`, links outside the searched directories |
//! | seccomp, before the first byte of the image is read | sockets, namespaces, mapped code of the image, and with our own engines signals and every other program: the kernel's own bugs behind some 300 system calls |
//! | limits of memory, file size, processor and wall-clock time | include loops, glob bombs, huge files; see `Child` |
//!
//! Each layer may be refused by a kernel, or by whoever started us; then the others hold, and the report says so, or with
//! `--sandbox=strict` the update fails.
//!
//! # What is not stopped
//!
//! The container's own root filesystem is what the attacker owns already: what he makes the update write there is his.
//! A kernel whose filesystem code a crafted image can attack is attacked by mounting it, before we come. An update can
//! be made to fail, or to take its whole time limit, which delays the start of that one container. And a runtime that
//! lies in the state it passes is believed: it is root on this host.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::stat::stat;
use nix::unistd::{chdir, chroot, pivot_root};

use crate::root::Root;
use crate::update::Sandbox;

pub(crate) mod answer;
mod capabilities;
mod changes;
mod filter;
mod landlock;
mod limits;
mod links;
mod mount_setattr;
mod mountinfo;
mod process;
mod seccomp;
mod stage;
mod tree;

pub use changes::Changes;
pub(crate) use mount_setattr::is_there as mount_setattr_is_there;
pub(crate) use mountinfo::{MountInfo, is_mount_point};
pub use process::Killed;
pub(crate) use process::{Child, Memory, open_without_waiting, readable};
pub(crate) use seccomp::restrict_to_ldconfig;
pub use stage::{close_inherited, run};

const NONE: Option<&str> = None;

/// Proof that `/` of this process is a container's root and not the host's.
#[derive(Debug)]
pub struct Jail {
    root: Root,
    layers: Layers,
    mounted: Vec<PathBuf>,
}

/// The layers of the sandbox that are missing, and whether one may be.
#[derive(Debug)]
struct Layers {
    sandbox: Sandbox,
    refused: Vec<String>,
}

/// What keeps a jail from the host's processes, sockets, names and queues.
#[derive(Debug)]
pub enum Shield {
    /// It has no system call for them. Namespaces would add nothing but their making: a third of the time that a hook takes, most
    /// of it for a network, and all hooks of a node one by one (`pernet_ops_rwsem`).
    Seccomp,
    /// It is in namespaces of its own, but for those that are named.
    Namespaces(Vec<String>),
}

/// What is executed in a jail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Executes {
    /// Nothing: there is no system call for it, and whoever tries to gets ENOSYS.
    Nothing,
    /// The sealed ldconfig, in a child.
    Ldconfig,
}

/// Proof that this process is in a jail, and has given up what it does not need there.
///
/// Whatever writes below `/etc` or executes ldconfig asks for one, and only [`Jail::confine`] makes one.
#[derive(Debug)]
pub struct Confined(Jail);

/// Enters the working directory as `/`, in a mount namespace of its own, with a limit of processor time, and gives up what
/// reading there does not need.
///
/// The namespace is made here and not by the caller, so that there is no way to this code that changes the host's mounts.
/// The directory is the working directory, not a path: it stays the one that was checked, also across the new namespace.
pub fn enter(sandbox: Sandbox, executes: Executes, shield: Shield, time: Duration) -> Result<Jail> {
    let here = std::env::current_dir().context("get working directory")?;
    let (root, host) = (stat(".").context("stat .")?, stat("/").context("stat /")?);
    let same = (root.st_dev, root.st_ino) == (host.st_dev, host.st_ino);
    ensure!(!same, "working directory is the host's own /");
    // Kept open until the table is read: where we go, there is no procfs to trust.
    let this = mountinfo::ThisProcess::open();
    unshare(CloneFlags::CLONE_NEWNS).context("unshare mount namespace")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(NONE, "/", NONE, private, NONE).context("make mounts private")?;
    tree::attach(&here).context("attach container root")?;
    change_root()?;
    let mut layers = Layers { sandbox, refused: Vec::new() };
    // Where there is no table, what is mounted in unusual places is not known.
    let mounts = this.and_then(|this| this.mounts()).or_else(|error| {
        layers.note("mount table", Err(error.into())).map(|()| MountInfo::default())
    })?;
    let mut jail = Jail { root: Root::own()?, layers, mounted: mounts.visible_below("/".as_ref()) };
    tree::cover(&jail, &mounts)?;
    if executes == Executes::Ldconfig {
        // It would write its auxiliary cache there, which is no part of what an update leaves behind.
        tree::protect(&jail, Path::new("/var/cache")).context("make /var/cache read-only")?;
    }
    jail.give_up(executes, shield, time)?;
    Ok(jail)
}

impl Jail {
    /// The root, to read in.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Where something is mounted below the root, in the order in which it was.
    pub fn mounted(&self) -> &[PathBuf] {
        &self.mounted
    }

    /// Gives up what reading, and writing the configuration, the cache and links, does not need.
    fn give_up(&mut self, executes: Executes, shield: Shield, time: Duration) -> Result<()> {
        let limits = limits::set(time).map_err(Into::into);
        self.layers.note("resource limits", limits)?;
        let may_execute = !matches!(shield, Shield::Seccomp);
        let dropped = capabilities::drop(may_execute).map_err(Into::into);
        self.layers.note("capabilities", dropped)?;
        let privileges = prctl::set_no_new_privs().and_then(|()| prctl::set_dumpable(false));
        self.layers.note("no new privileges", privileges.map_err(Into::into))?;
        let filtered = seccomp::restrict(executes);
        match shield {
            Shield::Seccomp => filtered.context("apply seccomp, which stands for namespaces"),
            Shield::Namespaces(refused) => {
                let mut layers = refused.iter();
                layers.try_for_each(|name| self.layers.note(name, Err(anyhow!("refused"))))?;
                self.layers.note("seccomp", filtered)
            }
        }
    }

    /// Gives up to write anything but the configuration and the cache, and links in `dirs`.
    pub fn confine(mut self, dirs: &[String]) -> Result<Confined> {
        let landlock = landlock::restrict(&self.root, dirs);
        self.layers.note("landlock", landlock)?;
        Ok(Confined(self))
    }
}

impl Layers {
    /// A layer that this kernel or whoever started us refuses is missed, and told; or the end.
    fn note(&mut self, name: &str, done: Result<()>) -> Result<()> {
        match done {
            Err(error) if self.sandbox == Sandbox::Strict => {
                Err(error).with_context(|| format!("apply {name}, as --sandbox=strict demands"))
            }
            Err(error) => {
                self.refused.push(format!("{name}: {error:#}"));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

impl Confined {
    /// The root, to read in.
    pub fn root(&self) -> &Root {
        &self.0.root
    }

    /// The layers that are missing, each with its reason.
    pub fn refused(&self) -> &[String] {
        &self.0.layers.refused
    }
}

/// Makes the working directory `/` and the old root unreachable.
///
/// `pivot_root(".", ".")` stacks the old root upon the new one, from where it is detached (pivot_root(2), "Notes").
/// A root on an initramfs can't be pivoted (EINVAL): it is moved, after every mount that could name the old one is gone
/// or covered.
fn change_root() -> Result<()> {
    match pivot_root(".", ".") {
        Ok(()) => umount2(".", MntFlags::MNT_DETACH).context("detach host root")?,
        Err(nix::Error::EINVAL) => move_root().context("move root")?,
        Err(error) => return Err(error).context("pivot root"),
    }
    chdir("/").context("change to /")
}

fn move_root() -> Result<()> {
    let here = std::env::current_dir().context("get working directory")?;
    // That there is no table is told when what is left of it is read.
    let mounts = MountInfo::read().unwrap_or_default();
    // Those of the container are covered like everywhere.
    for path in mounts.pseudo_filesystems().filter(|path| !path.starts_with(&here)) {
        let gone = umount2(path, MntFlags::MNT_DETACH);
        // In a user namespace a mount may be locked (mount_namespaces(7)), and is covered instead. A mount below one that
        // has been detached is gone already, and there is no such path to cover.
        let gone = gone.or_else(|_| mount(Some("tmpfs"), path, Some("tmpfs"), tree::EMPTY, NONE));
        match gone {
            Ok(()) | Err(nix::Error::ENOENT) => {}
            Err(error) => return Err(error).with_context(|| format!("cover {}", path.display())),
        }
    }
    mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE).context("mount over /")?;
    chroot(".").context("change root")
}
