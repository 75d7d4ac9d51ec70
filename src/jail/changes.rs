//! [`Changes`]: files of the container that are replaced as a whole, and put back if the update fails.
//!
//! Directories are opened below the root, as in [`crate::root`], and must be on its own filesystem.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, ResolveFlag, openat, renameat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmod, fchmodat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::Confined;
use crate::root::kind;

/// Most bytes of a file that is kept to be put back; ours have a few hundred.
const LIMIT: u64 = 1 << 20;

/// What was changed, in order.
#[derive(Debug)]
pub struct Changes<'a> {
    confined: &'a Confined,
    undo: Vec<Undo>,
}

/// Which names of a directory somebody else may add.
type Names = fn(&[u8]) -> bool;

#[derive(Debug)]
enum Undo {
    RemoveDir(PathBuf),
    RemoveFile(PathBuf),
    Restore(PathBuf, Vec<u8>),
    /// Of these names in a directory, those that were not there.
    RemoveNew(PathBuf, Names, Vec<Vec<u8>>),
}

impl<'a> Changes<'a> {
    /// Begins to change files of the jail.
    pub fn begin(confined: &'a Confined) -> Self {
        Self { confined, undo: Vec::new() }
    }

    /// Makes a directory that everybody can read. It may exist.
    pub fn make_dir(&mut self, path: &Path) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        match mkdirat(&parent, name, mode(0o755)) {
            // The umask is the runtime's; non-root programs must be able to read what is put in here.
            Ok(()) => fchmodat(&parent, name, mode(0o755), FchmodatFlags::FollowSymlink)
                .with_context(|| format!("change mode of {}", path.display()))?,
            Err(Errno::EEXIST) => return Ok(()),
            Err(error) => {
                return Err(error).with_context(|| format!("make directory {}", path.display()));
            }
        }
        self.undo.push(Undo::RemoveDir(path.to_owned()));
        Ok(())
    }

    /// Replaces a file as a whole, mode 0644, unless it says that already.
    pub fn write(&mut self, path: &Path, text: &[u8]) -> Result<()> {
        let before = self.before(path)?;
        let (parent, name) = self.parent(path)?;
        let readable = fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        let readable = readable.is_ok_and(|found| found.st_mode & 0o7777 == 0o644);
        if readable && before.as_deref() == Some(text) {
            return Ok(());
        }
        self.replace(path, text)?;
        self.undo.push(match before {
            Some(bytes) => Undo::Restore(path.to_owned(), bytes),
            None => Undo::RemoveFile(path.to_owned()),
        });
        Ok(())
    }

    /// Removes a file. It may be missing.
    pub fn remove(&mut self, path: &Path) -> Result<()> {
        let Some(before) = self.before(path)? else { return Ok(()) };
        self.unlink(path, UnlinkatFlags::NoRemoveDir)?;
        self.undo.push(Undo::Restore(path.to_owned(), before));
        Ok(())
    }

    /// Expects another program to leave files of these names behind in a directory if it fails.
    pub fn expect(&mut self, dir: &Path, names: Names) -> Result<()> {
        let before = self.confined.root().list(dir)?;
        let before = before.into_iter().filter(|name| names(name)).collect();
        self.undo.push(Undo::RemoveNew(dir.to_owned(), names, before));
        Ok(())
    }

    /// Refuses what a program can't open as a file, and make one of where there is none.
    pub fn expect_file(&self, path: &Path) -> Result<()> {
        self.has_file(path).map(drop)
    }

    /// Refuses what a program can't rename a file over.
    pub fn expect_no_directory(&self, path: &Path) -> Result<()> {
        match self.kind(path)? {
            Some(SFlag::S_IFDIR) => bail!("change {}: a directory", path.display()),
            _ => Ok(()),
        }
    }

    /// Replaces a file as a whole, mode 0644, as the last change of all: either it is done or all is to be put back.
    ///
    /// It is not synchronized to the disk: a container's root does not outlive the machine's crash.
    pub fn finish(&mut self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.expect_no_directory(path)?;
        let size = bytes.len() as u64;
        let has_size = |found: FileStat| {
            kind(found.st_mode) == SFlag::S_IFREG && u64::try_from(found.st_size) == Ok(size)
        };
        let same = self.stat(path)?.is_some_and(has_size)
            && self.confined.root().read(path, size).is_ok_and(|old| old.as_deref() == Some(bytes));
        if same { Ok(()) } else { self.replace(path, bytes) }
    }

    /// Puts everything back, the last change first.
    pub fn undo(mut self) -> Result<()> {
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::RemoveDir(path) => self.unlink(&path, UnlinkatFlags::RemoveDir),
                Undo::RemoveFile(path) => self.unlink(&path, UnlinkatFlags::NoRemoveDir),
                Undo::Restore(path, bytes) => self.replace(&path, &bytes),
                Undo::RemoveNew(dir, names, before) => self.remove_new(&dir, names, &before),
            }?;
        }
        Ok(())
    }

    fn remove_new(&self, dir: &Path, names: Names, before: &[Vec<u8>]) -> Result<()> {
        let now = self.confined.root().list(dir)?;
        for name in now.iter().filter(|name| names(name) && !before.contains(name)) {
            self.unlink(&dir.join(OsStr::from_bytes(name)), UnlinkatFlags::NoRemoveDir)?;
        }
        Ok(())
    }

    /// What a file says before it is changed.
    fn before(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        if self.has_file(path)? { self.confined.root().read(path, LIMIT) } else { Ok(None) }
    }

    /// Is there a file? What is there must be one: we take no link or directory out of the way.
    fn has_file(&self, path: &Path) -> Result<bool> {
        match self.kind(path)? {
            Some(SFlag::S_IFREG) => Ok(true),
            Some(_) => bail!("change {}: not a regular file", path.display()),
            None => Ok(false),
        }
    }

    fn kind(&self, path: &Path) -> Result<Option<SFlag>> {
        Ok(self.stat(path)?.map(|found| kind(found.st_mode)))
    }

    fn stat(&self, path: &Path) -> Result<Option<FileStat>> {
        let (parent, name) = self.parent(path)?;
        match fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("stat {}", path.display())),
        }
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        let temporary = format!(".{name}.nri-ldcache");
        let _ = unlinkat(&parent, temporary.as_str(), UnlinkatFlags::NoRemoveDir); // of a run that was killed
        let written = write_new(&parent, &temporary, bytes).and_then(|()| {
            renameat(&parent, temporary.as_str(), &parent, name).map_err(Into::into)
        });
        if written.is_err() {
            let _ = unlinkat(&parent, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        written.with_context(|| format!("write {}", path.display()))
    }

    fn unlink(&self, path: &Path, how: UnlinkatFlags) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        unlinkat(&parent, name, how).with_context(|| format!("remove {}", path.display()))
    }

    /// Opens the directory of `path` for a change in it. It must be on the root filesystem itself.
    fn parent<'p>(&self, path: &'p Path) -> Result<(OwnedFd, &'p str)> {
        let name = path.file_name().and_then(|name| name.to_str());
        let (Some(parent), Some(name)) = (path.parent(), name) else {
            bail!("{} is no path of a file", path.display());
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let dir = self.confined.root().open(parent, flags, ResolveFlag::RESOLVE_NO_XDEV);
        Ok((dir.with_context(|| format!("open {} for writing", parent.display()))?, name))
    }
}

fn write_new(dir: &OwnedFd, name: &str, bytes: &[u8]) -> Result<()> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(dir, name, flags, mode(0o600))?;
    fchmod(file.as_fd(), mode(0o644))?;
    let mut file = File::from(file);
    file.write_all(bytes)?;
    ensure!(file.metadata()?.len() == bytes.len() as u64, "short");
    Ok(())
}

fn mode(bits: u32) -> Mode {
    Mode::from_bits_truncate(bits)
}
