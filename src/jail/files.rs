//! Files of the jail. Every path that the image controls goes through here.
//!
//! Paths are resolved by openat2(2) (Linux 5.6) below the root descriptor, without magic links. Older kernels resolve them
//! from `/`, which in the jail is the same place, and there is no procfs that could have magic links.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmod, fchmodat, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::Jail;

/// What a hostile directory may cost us to read.
const MAX_ENTRIES: usize = 10_000;

impl Jail {
    /// Opens a directory, or tells that there is none at `path`.
    pub(super) fn open_dir(&self, path: &Path) -> Result<Option<OwnedFd>> {
        match self.open(path, OFlag::O_PATH | OFlag::O_DIRECTORY, ResolveFlag::empty()) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("open {}", path.display())),
        }
    }

    /// Is there a regular file at `path`?
    pub fn is_file(&self, path: &Path) -> bool {
        let found = self.open(path, OFlag::O_PATH, ResolveFlag::empty()).and_then(fstat);
        found.is_ok_and(|found| kind(found.st_mode) == SFlag::S_IFREG)
    }

    /// Reads a regular file of at most `limit` bytes, or tells that there is none.
    ///
    /// Opening does not block, so that a FIFO in its place is an error and not a wait for ever.
    pub fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        let name = path.display();
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = match self.open(path, flags, ResolveFlag::empty()) {
            Ok(file) => file,
            Err(Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("open {name}")),
        };
        let found = fstat(&file).with_context(|| format!("stat {name}"))?;
        ensure!(kind(found.st_mode) == SFlag::S_IFREG, "read {name}: not a regular file");
        let mut bytes = Vec::new();
        File::from(file)
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .with_context(|| format!("read {name}"))?;
        ensure!(bytes.len() as u64 <= limit, "read {name}: larger than {limit} bytes");
        Ok(Some(bytes))
    }

    /// The names in a directory, sorted as bytes; none if there is no such directory.
    pub fn list(&self, path: &Path) -> Result<Vec<Vec<u8>>> {
        let Ok(dir) = self.open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, ResolveFlag::empty())
        else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        for entry in Dir::from_fd(dir).with_context(|| format!("read {}", path.display()))?.iter() {
            let entry = entry.with_context(|| format!("read {}", path.display()))?;
            names.push(entry.file_name().to_bytes().to_owned());
            ensure!(
                names.len() <= MAX_ENTRIES,
                "read {}: more than {MAX_ENTRIES} entries",
                path.display()
            );
        }
        names.sort();
        Ok(names)
    }

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
        let dir = self.open(parent, flags, ResolveFlag::RESOLVE_NO_XDEV);
        Ok((dir.with_context(|| format!("open {} for writing", parent.display()))?, name))
    }

    fn open(&self, path: &Path, flags: OFlag, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
        let resolve = resolve | ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        match openat2(&self.root, path, how) {
            Err(Errno::ENOSYS) => openat(&self.root, path, flags | OFlag::O_CLOEXEC, Mode::empty()),
            done => done,
        }
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

fn kind(mode: u32) -> SFlag {
    SFlag::from_bits_truncate(mode) & SFlag::S_IFMT
}
