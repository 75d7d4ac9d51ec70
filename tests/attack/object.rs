//! What the attacker puts at a path.

use std::fmt;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use super::place::Place;
use crate::bundle::VOLUME;

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    Absent,
    VolumeLink,
    RelativeLink,
    DanglingLink,
    LoopLink,
    /// Of the first process, which is the host's unless procfs is gone.
    ProcRootLink,
    ProcCwdLink,
    ProcExeLink,
    ProcFdLink,
    /// `/proc/1/root` of a procfs that the image has elsewhere.
    OtherProcfsLink,
    RootLink,
    EtcLink,
    Directory,
    Fifo,
    Socket,
    CharDevice,
    Sparse,
    Immutable,
    /// Mode 0: root may read it all the same.
    Forbidden,
    WritableMount,
    ReadOnlyMount,
    SharedMount,
    Tmpfs,
    Procfs,
    /// What a hook before this one left.
    Done,
}

impl Object {
    pub(crate) const ALL: [Self; 25] = [
        Self::Absent,
        Self::VolumeLink,
        Self::RelativeLink,
        Self::DanglingLink,
        Self::LoopLink,
        Self::ProcRootLink,
        Self::ProcCwdLink,
        Self::ProcExeLink,
        Self::ProcFdLink,
        Self::OtherProcfsLink,
        Self::RootLink,
        Self::EtcLink,
        Self::Directory,
        Self::Fifo,
        Self::Socket,
        Self::CharDevice,
        Self::Sparse,
        Self::Immutable,
        Self::Forbidden,
        Self::WritableMount,
        Self::ReadOnlyMount,
        Self::SharedMount,
        Self::Tmpfs,
        Self::Procfs,
        Self::Done,
    ];

    /// Can it be made there, and is it another case than the one without it?
    pub(crate) fn fits(self, place: Place) -> bool {
        match self {
            Self::Tmpfs => place.is_dir(),
            Self::Procfs | Self::RootLink | Self::EtcLink => place.is_covered(),
            Self::Done => place == Place::Cache,
            _ => true,
        }
    }

    /// Is a link that leads to nothing once procfs is out of the way?
    pub(crate) fn dangles(self) -> bool {
        matches!(
            self,
            Self::DanglingLink
                | Self::ProcRootLink
                | Self::ProcCwdLink
                | Self::ProcExeLink
                | Self::ProcFdLink
                | Self::OtherProcfsLink
        )
    }

    pub(crate) fn is_mount(self) -> bool {
        matches!(
            self,
            Self::WritableMount
                | Self::ReadOnlyMount
                | Self::SharedMount
                | Self::Tmpfs
                | Self::Procfs
        )
    }

    /// Puts it at `place` of `root`.
    pub(crate) fn plant(self, root: &Path, place: Place) -> Result<()> {
        let path = root.join(place.path().trim_start_matches('/'));
        self.put(root, place, &path).with_context(|| format!("make {place} {self}"))
    }

    fn put(self, root: &Path, place: Place, path: &Path) -> Result<()> {
        if let Some(target) = self.target(place) {
            remove(path)?;
            return Ok(symlink(target, path)?);
        }
        match self {
            Self::Absent => remove(path),
            Self::Done => Ok(()),
            Self::Immutable | Self::Forbidden => self.restrict(place, path),
            _ if self.is_mount() => self.mount(place, path),
            Self::OtherProcfsLink => {
                let procfs = root.join("opt/procfs");
                fs::create_dir_all(&procfs)?;
                bind("/proc", &procfs)?;
                remove(path)?;
                Ok(symlink(format!("/opt/procfs/1/root{place}"), path)?)
            }
            _ => {
                remove(path)?;
                self.make(path)
            }
        }
    }

    /// Where a link of this kind leads.
    fn target(self, place: Place) -> Option<String> {
        let target = match self {
            Self::VolumeLink => format!("/vol{place}"),
            Self::RelativeLink => format!("../../../../../../../../vol{place}"),
            Self::DanglingLink => "/nowhere/at/all".to_owned(),
            Self::LoopLink => place.path().rsplit('/').next()?.to_owned(),
            Self::ProcRootLink => format!("/proc/1/root{place}"),
            Self::ProcCwdLink => format!("/proc/self/cwd/../../../../../../..{place}"),
            Self::ProcExeLink => "/proc/self/exe".to_owned(),
            Self::ProcFdLink => "/proc/self/fd/3".to_owned(),
            Self::RootLink => "/".to_owned(),
            Self::EtcLink => "/etc".to_owned(),
            _ => return None,
        };
        Some(target)
    }

    fn make(self, path: &Path) -> Result<()> {
        let all = Mode::from_bits_truncate(0o666);
        match self {
            Self::Directory => fs::create_dir(path)?,
            Self::Fifo => mkfifo(path, all)?,
            Self::Socket => drop(UnixListener::bind(path)?),
            // /dev/zero, which never ends.
            Self::CharDevice => mknod(path, SFlag::S_IFCHR, all, makedev(1, 5))?,
            Self::Sparse => File::create(path)?.set_len(1 << 40)?,
            _ => anyhow::bail!("{self} is not made"),
        }
        Ok(())
    }

    fn restrict(self, place: Place, path: &Path) -> Result<()> {
        if !path.exists() {
            create(place, path)?;
        }
        if self == Self::Forbidden {
            return Ok(fs::set_permissions(path, Permissions::from_mode(0o0))?);
        }
        let file = File::open(path)?;
        let flags = ioctl_getflags(&file)?;
        Ok(ioctl_setflags(&file, flags | IFlags::IMMUTABLE)?)
    }

    fn mount(self, place: Place, path: &Path) -> Result<()> {
        if path.is_symlink() {
            remove(path)?;
        }
        if !path.exists() {
            create(place, path)?;
        }
        match self {
            Self::Tmpfs => {
                let none = None::<&str>;
                mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), none)?;
            }
            Self::Procfs => bind("/proc", path)?,
            _ => bind(&format!("{VOLUME}{place}"), path)?,
        }
        match self {
            Self::SharedMount => change(path, MsFlags::MS_SHARED),
            Self::ReadOnlyMount => {
                change(path, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY)
            }
            _ => change(path, MsFlags::MS_PRIVATE),
        }
    }
}

/// An innocent object for what is put upon it.
fn create(place: Place, path: &Path) -> Result<()> {
    if place.is_dir() {
        fs::create_dir(path)?
    } else {
        fs::write(path, "")?
    }
    Ok(())
}

/// Binds `from` upon `to`, with what is mounted below.
pub(crate) fn bind(from: &str, to: &Path) -> Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(from), to, None::<&str>, flags, None::<&str>).context("bind")
}

/// Changes flags or propagation of a mount.
pub(crate) fn change(path: &Path, flags: MsFlags) -> Result<()> {
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>).context("change mount")
}

/// Removes whatever is at `path`, if anything.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path)?,
        Ok(_) => fs::remove_file(path)?,
        Err(_) => {}
    }
    Ok(())
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "absent",
            Self::VolumeLink => "link into a volume",
            Self::RelativeLink => "link ../../.. into a volume",
            Self::DanglingLink => "dangling link",
            Self::LoopLink => "link to itself",
            Self::ProcRootLink => "link through /proc/1/root",
            Self::ProcCwdLink => "link through /proc/self/cwd",
            Self::ProcExeLink => "link to /proc/self/exe",
            Self::ProcFdLink => "link to /proc/self/fd/3",
            Self::OtherProcfsLink => "link through a procfs elsewhere",
            Self::RootLink => "link to /",
            Self::EtcLink => "link to /etc",
            Self::Directory => "empty directory",
            Self::Fifo => "FIFO",
            Self::Socket => "socket",
            Self::CharDevice => "character device",
            Self::Sparse => "file of 1 TiB",
            Self::Immutable => "immutable",
            Self::Forbidden => "mode 0",
            Self::WritableMount => "volume, writable",
            Self::ReadOnlyMount => "volume, read-only",
            Self::SharedMount => "volume, shared",
            Self::Tmpfs => "tmpfs",
            Self::Procfs => "procfs of the host",
            Self::Done => "refreshed before",
        })
    }
}
