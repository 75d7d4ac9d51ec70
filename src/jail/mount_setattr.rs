//! mount_setattr(2), Linux 5.12, which neither nix 0.31 nor rustix 1.1 has.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// What to change of a mount.
pub(super) struct Change {
    set: u64,
    clear: u64,
    propagation: u64,
    /// Of all mounts below, too.
    recursive: bool,
}

impl Change {
    /// Nothing can be written, run or opened as a device through these mounts, and they are in no peer group.
    pub(super) const SEAL: Self = Self {
        set: libc::MOUNT_ATTR_RDONLY
            | libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NODEV
            | libc::MOUNT_ATTR_NOEXEC,
        clear: 0,
        propagation: libc::MS_PRIVATE,
        recursive: true,
    };

    /// This one mount can be written again.
    pub(super) const OPEN: Self =
        Self { set: 0, clear: libc::MOUNT_ATTR_RDONLY, propagation: 0, recursive: false };
}

/// Does the kernel know the call, and let this process make it? Asked with a change of nothing.
pub(crate) fn is_there() -> nix::Result<()> {
    let nothing = Change { set: 0, clear: 0, propagation: 0, recursive: false };
    let here = std::fs::File::open("/").map_err(|_| Errno::EACCES)?;
    mount_setattr(here.as_fd(), nothing)
}

/// Changes the mount that `mount` is the root of.
pub(super) fn mount_setattr(mount: BorrowedFd<'_>, change: Change) -> nix::Result<()> {
    const HERE: &CStr = c"";
    let flags = libc::AT_EMPTY_PATH | if change.recursive { libc::AT_RECURSIVE } else { 0 };
    let attr = libc::mount_attr {
        attr_set: change.set,
        attr_clr: change.clear,
        propagation: change.propagation,
        userns_fd: 0,
    };
    // SAFETY: the kernel reads a NUL-terminated string that is 'static, and `size_of` bytes of `attr`, which outlives the
    // call; it writes to neither. `mount` is an open descriptor for as long as it is borrowed.
    #[allow(unsafe_code)]
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            HERE.as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(result).map(drop)
}
