//! Changes of files of the jail. Its directories are opened below the root, as in [`crate::root`], and on its own filesystem.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, ResolveFlag, openat, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmod, fchmodat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::Jail;
use crate::root::kind;

impl Jail {
    /// Makes a directory that everybody can read. It may exist.
    pub fn make_dir(&self, path: &Path) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        match mkdirat(&parent, name, Mode::from_bits_truncate(0o755)) {
            // The umask is the runtime's; non-root programs must be able to read what is put in here.
            Ok(()) => fchmodat(
                &parent,
                name,
                Mode::from_bits_truncate(0o755),
                FchmodatFlags::FollowSymlink,
            )
            .with_context(|| format!("change mode of {}", path.display())),
            Err(Errno::EEXIST) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("make directory {}", path.display())),
        }
    }

    /// Replaces a file as a whole, mode 0644, unless it says that already.
    pub fn write(&self, path: &Path, text: &str) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        if self.says(&parent, name, text) {
            return Ok(());
        }
        let temporary = format!(".{name}.nri-ldcache");
        let _ = unlinkat(&parent, temporary.as_str(), UnlinkatFlags::NoRemoveDir); // of a run that was killed
        let written = write_new(&parent, &temporary, text).and_then(|()| {
            renameat(&parent, temporary.as_str(), &parent, name).map_err(Into::into)
        });
        if written.is_err() {
            let _ = unlinkat(&parent, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        written.with_context(|| format!("write {}", path.display()))
    }

    /// Removes a file. It may be missing.
    pub fn remove(&self, path: &Path) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        match unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("remove {}", path.display())),
        }
    }

    /// Opens the directory of `path` for a change in it. It must be on the root filesystem itself.
    fn parent<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a str)> {
        let (Some(parent), Some(name)) =
            (path.parent(), path.file_name().and_then(|name| name.to_str()))
        else {
            bail!("{} is no path of a file", path.display());
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let dir = self.root.open(parent, flags, ResolveFlag::RESOLVE_NO_XDEV);
        Ok((dir.with_context(|| format!("open {} for writing", parent.display()))?, name))
    }

    /// Is the file there, regular, readable by all, and made of `text`?
    fn says(&self, parent: &OwnedFd, name: &str, text: &str) -> bool {
        let Ok(found) = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) else { return false };
        if kind(found.st_mode) != SFlag::S_IFREG
            || found.st_mode & 0o7777 != 0o644
            || found.st_size as usize != text.len()
        {
            return false;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let Ok(file) = openat(parent, name, flags, Mode::empty()) else { return false };
        let mut bytes = Vec::new();
        let read = File::from(file).take(text.len() as u64 + 1).read_to_end(&mut bytes);
        read.is_ok() && bytes == text.as_bytes()
    }
}

fn write_new(dir: &OwnedFd, name: &str, text: &str) -> Result<()> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(dir, name, flags, Mode::from_bits_truncate(0o600))?;
    fchmod(file.as_fd(), Mode::from_bits_truncate(0o644))?;
    File::from(file).write_all(text.as_bytes())?;
    Ok(())
}
