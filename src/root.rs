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

use crate::blocks::Blocks;
use crate::pages::Pages;
pub use dir::{Dir, Id, Kind};

mod dir;

/// What a hostile directory may cost us to read.
const MAX_ENTRIES: usize = 10_000;

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
        Ok(self.pages(path, limit)?.map(Into::into))
    }

    /// The same of a file that may be large.
    pub fn pages(&self, path: &Path, limit: u64) -> Result<Option<Pages>> {
        let Some((file, size)) = self.sized(path, limit)? else { return Ok(None) };
        let bytes = fill(file, size, limit).with_context(|| format!("read {}", path.display()))?;
        is_small(path, bytes.len() as u64, limit)?;
        Ok(Some(bytes))
    }

    /// The same of one of which little is looked at.
    pub fn blocks(&self, path: &Path, limit: u64) -> Result<Option<Blocks>> {
        Ok(self.sized(path, limit)?.map(|(file, size)| Blocks::of(file, size)))
    }

    /// Opens a file of at most `limit` bytes, and tells how many it has.
    fn sized(&self, path: &Path, limit: u64) -> Result<Option<(File, usize)>> {
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
        let size = u64::try_from(found.st_size).unwrap_or_default();
        is_small(path, size, limit)?;
        Ok(Some((file.into(), usize::try_from(size)?)))
    }

    /// Is there a file of these bytes? It is not kept in memory, as one that is read is.
    pub fn says(&self, path: &Path, bytes: &[u8]) -> bool {
        let Some(mut file) = self.regular(path) else { return false };
        let mut buffer = [0; 8192];
        bytes.chunks(buffer.len()).all(|part| {
            let read = &mut buffer[..part.len()];
            file.read_exact(read).is_ok() && read == part
        }) && matches!(file.read(&mut buffer[..1]), Ok(0))
    }

    /// The first bytes of a file, if it is one and has so many.
    pub fn read_start(&self, path: &Path, count: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.regular(path)?.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }

    /// Opens a regular file to read it, without waiting for whatever else may be there.
    fn regular(&self, path: &Path) -> Option<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = self.open(path, flags, ResolveFlag::empty()).ok()?;
        let is_regular = kind(fstat(&file).ok()?.st_mode) == SFlag::S_IFREG;
        is_regular.then(|| file.into())
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

fn is_small(path: &Path, size: u64, limit: u64) -> Result<()> {
    ensure!(size <= limit, "read {}: larger than {limit} bytes", path.display());
    Ok(())
}

/// Reads a file of this size, in one go if that has not changed, and of one that became larger than `limit` a byte more than that.
fn fill(file: File, size: usize, limit: u64) -> io::Result<Pages> {
    let mut file = file.take(limit.saturating_add(1));
    let mut bytes = Pages::zeroed(size);
    let (mut filled, mut more) = (0, [0; 512]);
    loop {
        let is_full = filled == bytes.len();
        let rest = if is_full { &mut more[..] } else { &mut bytes[filled..] };
        let count = match file.read(rest) {
            Ok(0) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if is_full {
            bytes.resize((2 * filled).max(filled + more.len()));
            bytes[filled..filled + count].copy_from_slice(&more[..count]);
        }
        filled += count;
    }
    bytes.resize(filled);
    Ok(bytes)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_are_read_whole_and_up_to_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path()).unwrap();
        for size in [0, 1, 511, 513, 600_000] {
            let text: Vec<_> = (0..size).map(|at: u32| at as u8).collect();
            fs::write(dir.path().join("file"), &text).unwrap();
            assert_eq!(root.read("/file".as_ref(), size.into()).unwrap().unwrap(), text);
            let blocks = root.blocks("/file".as_ref(), size.into()).unwrap().unwrap();
            assert_eq!((blocks.len(), blocks.get(0..1)), (text.len(), text.get(0..1)));
            assert!(root.says("/file".as_ref(), &text));
            assert!(!root.says("/file".as_ref(), &[&text[..], b"x"].concat()));
            if let Some(limit) = size.checked_sub(1) {
                assert!(!root.says("/file".as_ref(), &text[1..]));
                let read = root.read("/file".as_ref(), limit.into()).map(drop);
                let blocks = root.blocks("/file".as_ref(), limit.into()).map(drop);
                for result in [read, blocks] {
                    let error = result.unwrap_err().to_string();
                    assert_eq!(error, format!("read /file: larger than {limit} bytes"));
                }
            }
        }
        assert!(root.read("/none".as_ref(), 1).unwrap().is_none());
        assert!(!root.says("/none".as_ref(), b""));
    }

    #[test]
    fn a_file_that_does_not_tell_its_size_is_read_whole() {
        let root = Root::at("/proc".as_ref()).unwrap();
        let path = Path::new("/cpuinfo");
        assert_eq!(fs::metadata("/proc/cpuinfo").unwrap().len(), 0);
        let read = String::from_utf8(root.read(path, 1 << 20).unwrap().unwrap()).unwrap();
        let text = fs::read_to_string("/proc/cpuinfo").unwrap();
        // How fast a processor is changes.
        let [read, text] = [&read, &text]
            .map(|text| text.lines().filter(|line| !line.contains("MHz")).collect::<Vec<_>>());
        assert_eq!(read, text);
        let error = root.read(path, 100).unwrap_err().to_string();
        assert_eq!(error, "read /cpuinfo: larger than 100 bytes");
    }
}
