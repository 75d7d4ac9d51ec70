//! [`Dir`]: an open directory of the image, whose files are opened relative to it.

use std::ffi::OsStr;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, ResolveFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use rustix::fs::{FileType, RawDir, SeekFrom, seek};

use super::{Root, is_out_of_files, kind};

/// What a hostile directory may cost us to read. The largest of Debian, a `-dev` system's /usr/lib, has 10,000 entries.
const MAX_ENTRIES: usize = 200_000;

/// Bytes of entries that are read at once.
const BUFFER: usize = 32 << 10;

/// Flags of files that are read: opening does not block on a FIFO, and takes no terminal.
const READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY);

/// What an entry of a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
    /// A directory.
    Directory,
    /// A device, a socket, a FIFO.
    Other,
}

/// What tells one file from another.
pub type Id = (u64, u64);

/// An open directory.
#[derive(Debug)]
pub struct Dir {
    dir: OwnedFd,
    id: Id,
    /// When it was last changed, in nanoseconds since 1970.
    changed: i128,
}

impl Root {
    /// Opens a directory to look into it, or tells that there is none at `path`.
    pub fn dir(&self, path: &[u8]) -> Result<Option<Dir>> {
        let path = Path::new(OsStr::from_bytes(path));
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let dir = match self.open(path, flags, ResolveFlag::empty()) {
            Ok(dir) => dir,
            // That is our lack, and says nothing of the directory.
            Err(error) if is_out_of_files(&error.into()) => {
                return Err(error).with_context(|| format!("open {}", path.display()));
            }
            // ldconfig passes over what it can't open.
            Err(_) => return Ok(None),
        };
        let found = fstat(&dir).with_context(|| format!("stat {}", path.display()))?;
        let (id, changed) = (id(&found), changed(&found));
        Ok(Some(Dir { dir, id, changed }))
    }

    /// Does the way to a file or directory lead over a mount, a bind mount of the same filesystem included?
    pub fn is_mounted(&self, path: &[u8]) -> bool {
        let path = Path::new(OsStr::from_bytes(path));
        self.open(path, OFlag::O_PATH, ResolveFlag::RESOLVE_NO_XDEV).err() == Some(Errno::EXDEV)
    }

    /// Opens a file to read it, wherever links lead to it below the root.
    pub fn file(&self, path: &[u8]) -> std::io::Result<File> {
        let path = Path::new(OsStr::from_bytes(path));
        let file = self.open(path, READ, ResolveFlag::empty())?;
        Ok(File::from(file))
    }

    /// Which file links lead to, if they lead to one.
    pub fn id(&self, path: &[u8]) -> Result<Option<Id>> {
        let path = Path::new(OsStr::from_bytes(path));
        match self.open(path, OFlag::O_PATH, ResolveFlag::empty()) {
            Ok(file) => Ok(fstat(file).ok().map(|found| id(&found))),
            // That is our lack, and says nothing of the file.
            Err(error) if is_out_of_files(&error.into()) => {
                Err(error).with_context(|| format!("open {}", path.display()))
            }
            Err(_) => Ok(None),
        }
    }

    /// When a file was last changed, in nanoseconds since 1970.
    pub fn changed(&self, path: &Path) -> Option<i128> {
        let file = self.open(path, OFlag::O_PATH, ResolveFlag::empty()).ok()?;
        fstat(file).ok().map(|found| changed(&found))
    }
}

impl Dir {
    /// Which directory it is.
    pub fn id(&self) -> Id {
        self.id
    }

    /// When it was last changed, in nanoseconds since 1970.
    pub fn changed(&self) -> i128 {
        self.changed
    }

    /// Calls `each` with every entry but `.` and `..`, in the order of the filesystem: it decides between equals.
    pub fn each(&self, mut each: impl FnMut(&[u8], Kind)) -> Result<()> {
        let mut unknown = Vec::new();
        entries(&self.dir, MAX_ENTRIES, |name, kind| match kind {
            FileType::RegularFile => each(name, Kind::File),
            FileType::Symlink => each(name, Kind::Link),
            FileType::Directory => each(name, Kind::Directory),
            FileType::Unknown => unknown.push(name.to_owned()),
            _ => each(name, Kind::Other),
        })?;
        for name in unknown {
            if let Some(kind) = self.kind(&name) {
                each(&name, kind);
            }
        }
        Ok(())
    }

    /// Opens an entry that is no link, to read it.
    pub fn file(&self, name: &[u8]) -> std::io::Result<File> {
        let flags = READ | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.dir, OsStr::from_bytes(name), flags, Mode::empty())?))
    }

    /// What the entry is, if there is one; a link is a link.
    pub fn kind(&self, name: &[u8]) -> Option<Kind> {
        self.stat(name).ok().map(|found| match kind(found.st_mode) {
            SFlag::S_IFREG => Kind::File,
            SFlag::S_IFLNK => Kind::Link,
            SFlag::S_IFDIR => Kind::Directory,
            _ => Kind::Other,
        })
    }

    /// What a link says.
    pub fn link(&self, name: &[u8]) -> Option<Vec<u8>> {
        let target = readlinkat(&self.dir, OsStr::from_bytes(name)).ok()?;
        Some(target.as_bytes().to_owned())
    }

    fn stat(&self, name: &[u8]) -> Result<FileStat, Errno> {
        fstatat(&self.dir, OsStr::from_bytes(name), AtFlags::AT_SYMLINK_NOFOLLOW)
    }
}

/// Calls `each` with every entry of a directory but `.` and `..`, which has at most `limit`.
///
/// glibc's streams ask twice what they open, and are 32 KiB that are given back to the kernel each time.
pub(super) fn entries(
    dir: &OwnedFd,
    limit: usize,
    mut each: impl FnMut(&[u8], FileType),
) -> Result<()> {
    seek(dir, SeekFrom::Start(0)).context("read directory")?;
    let mut buffer = [MaybeUninit::uninit(); BUFFER];
    let mut entries = RawDir::new(dir, &mut buffer);
    let mut count = 0;
    while let Some(entry) = entries.next() {
        let entry = entry.context("read directory")?;
        count += 1;
        ensure!(count <= limit, "directory has more than {limit} entries");
        match entry.file_name().to_bytes() {
            b"." | b".." => {}
            name => each(name, entry.file_type()),
        }
    }
    Ok(())
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

fn id(found: &FileStat) -> Id {
    (found.st_dev, found.st_ino)
}

fn changed(found: &FileStat) -> i128 {
    i128::from(found.st_mtime) * 1_000_000_000 + i128::from(found.st_mtime_nsec)
}
