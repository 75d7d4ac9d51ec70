//! [`Root`]: a directory below which paths are resolved as if it were `/`. Every path that an image controls goes through here.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{
    OFlag, OpenHow, PosixFadviseAdvice, ResolveFlag, open, openat, openat2, posix_fadvise,
};
use nix::sys::stat::{Mode, SFlag, fstat};

pub use dir::{Dir, Id, Kind};

mod dir;

/// What a hostile directory may cost us to read.
const MAX_ENTRIES: usize = 10_000;

/// Bytes that a file may grow in memory without being moved.
const SPARE: usize = 16 << 10;

/// How often a path is tried again that another process's renames came in the way of.
const MAX_RETRIES: usize = 1000;

/// A directory below which paths are resolved: absolute links and `..` stay in it, magic links are not followed.
#[derive(Debug)]
pub struct Root {
    dir: OwnedFd,
    /// Is it `/` of this process? Then a kernel without openat2(2) (before 5.6) resolves its paths in the same way.
    own: bool,
}

impl Root {
    /// The root of this process.
    pub fn own() -> Result<Self> {
        Ok(Self { own: true, ..Self::at(Path::new("/"))? })
    }

    /// Any directory.
    pub fn at(path: &Path) -> Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = open(path, flags, Mode::empty());
        let dir = dir.with_context(|| format!("open root {}", path.display()))?;
        Ok(Self { dir, own: false })
    }

    /// Opens a directory, or tells that there is none at `path` that could be opened.
    pub(crate) fn open_dir(&self, path: &Path) -> Result<Option<OwnedFd>> {
        match self.open(path, OFlag::O_PATH | OFlag::O_DIRECTORY, ResolveFlag::empty()) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EACCES) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("open {}", path.display())),
        }
    }

    /// Is there a regular file at `path`?
    pub fn is_file(&self, path: &Path) -> bool {
        let found = self.open(path, OFlag::O_PATH, ResolveFlag::empty()).and_then(fstat);
        found.is_ok_and(|found| kind(found.st_mode) == SFlag::S_IFREG)
    }

    /// Is there anything at `path`, be it a link that leads nowhere?
    pub fn exists(&self, path: &Path) -> bool {
        self.open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW, ResolveFlag::empty()).is_ok()
    }

    /// Reads a file of at most `limit` bytes, or tells that there is none that could be read.
    ///
    /// Opening does not block, and what would block whoever opens it after us, a FIFO, is an error. So is a file that is too
    /// large. Links that lead nowhere, directories and devices are no files, and harmless.
    pub fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        self.read_into(Vec::new(), path, limit)
    }

    /// Reads a file in place of the bytes of another.
    pub fn read_into(
        &self,
        mut bytes: Vec<u8>,
        path: &Path,
        limit: u64,
    ) -> Result<Option<Vec<u8>>> {
        let name = path.display();
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = match self.open(path, flags, ResolveFlag::empty()) {
            Ok(file) => file,
            // ENXIO is a socket, EACCES a device on a filesystem that is mounted without devices.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EACCES | Errno::ENXIO) => {
                return Ok(None);
            }
            Err(error) => return Err(error).with_context(|| format!("open {name}")),
        };
        let found = fstat(&file).with_context(|| format!("stat {name}"))?;
        match kind(found.st_mode) {
            SFlag::S_IFREG => {}
            SFlag::S_IFDIR => return Ok(None),
            _ => bail!("read {name}: not a regular file"),
        }
        let size = u64::try_from(found.st_size).unwrap_or_default().min(limit);
        let size = usize::try_from(size)?;
        match bytes.capacity() <= size {
            // Zeroes from the allocator are pages that nobody has touched yet.
            true => bytes = vec![0; size + SPARE],
            false => bytes.resize(size, 0),
        }
        bytes.truncate(size);
        let read = fill(&File::from(file), &mut bytes, limit);
        read.with_context(|| format!("read {name}"))?;
        ensure!(bytes.len() as u64 <= limit, "read {name}: larger than {limit} bytes");
        Ok(Some(bytes))
    }

    /// The first bytes of a file, if it is one and has so many.
    pub fn read_start(&self, path: &Path, count: usize) -> Option<Vec<u8>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = self.open(path, flags, ResolveFlag::empty()).ok()?;
        let regular = kind(fstat(&file).ok()?.st_mode) == SFlag::S_IFREG;
        let mut bytes = vec![0; count];
        (regular && File::from(file).read_exact(&mut bytes).is_ok()).then_some(bytes)
    }

    /// The names in a directory, sorted as bytes; none if there is no such directory.
    pub fn list(&self, path: &Path) -> Result<Vec<Vec<u8>>> {
        let Ok(dir) = self.open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, ResolveFlag::empty())
        else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        dir::entries(&dir, MAX_ENTRIES, |name, _| names.push(name.to_owned()))
            .with_context(|| format!("read {}", path.display()))?;
        names.sort();
        Ok(names)
    }

    /// Opens a path below the root.
    pub(crate) fn open(
        &self,
        path: &Path,
        flags: OFlag,
        resolve: ResolveFlag,
    ) -> nix::Result<OwnedFd> {
        let resolve = resolve | ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        // A rename or mount anywhere on the machine while a `..` is walked is EAGAIN, for the kernel can't tell then that the
        // way stayed in the root (openat2(2)).
        let mut opened = openat2(&self.dir, path, how);
        for _ in 0..MAX_RETRIES {
            if opened.as_ref().err() != Some(&Errno::EAGAIN) {
                break;
            }
            opened = openat2(&self.dir, path, how);
        }
        match opened {
            Err(Errno::ENOSYS) if self.own => {
                openat(&self.dir, path, flags | OFlag::O_CLOEXEC, Mode::empty())
            }
            done => done,
        }
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// Reads a file into a buffer of its size, in one go if it has not changed.
fn fill(mut file: &File, bytes: &mut Vec<u8>, limit: u64) -> io::Result<()> {
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    let more = limit.saturating_add(1).saturating_sub(filled as u64);
    file.take(more).read_to_end(bytes).map(drop)
}

/// Tells that a part of a file will be read, for a disk to fetch it until then. A filesystem that can't is read without.
pub(crate) fn will_read(file: &File, offset: u64, size: u64) {
    if let (Ok(offset), Ok(size)) = (offset.try_into(), size.try_into()) {
        let _ = posix_fadvise(file, offset, size, PosixFadviseAdvice::POSIX_FADV_WILLNEED);
    }
}

/// Are there no descriptors left, or none in the whole system?
pub(crate) fn is_out_of_files(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE))
}

/// The kind of file that a mode of stat(2) tells.
pub(crate) fn kind(mode: u32) -> SFlag {
    SFlag::from_bits_truncate(mode) & SFlag::S_IFMT
}
