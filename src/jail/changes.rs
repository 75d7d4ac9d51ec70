//! [`Changes`]: files of the container that are replaced as a whole, and put back if the update fails.
//!
//! Directories are opened below the root, as in [`crate::root`], and must be on its own filesystem.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, bail, ensure};
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

    /// The jail.
    pub fn confined(&self) -> &'a Confined {
        self.confined
    }

    /// Makes a directory that everybody can read. It may exist.
    pub fn make_dir(&mut self, path: &Path) -> Result<()> {
        let Place { dir, name, .. } = self.place(path)?;
        match mkdirat(&dir, name, mode(0o755)) {
            // The umask is the runtime's; non-root programs must be able to read what is put in here.
            Ok(()) => fchmodat(&dir, name, mode(0o755), FchmodatFlags::FollowSymlink)
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
        let place = self.place(path)?;
        let found = place.file()?;
        let before = self.before(path, found)?;
        if found.is_some_and(is_readable) && before.as_deref() == Some(text) {
            place.tidy();
            return Ok(());
        }
        place.replace(text)?;
        self.undo.push(match before {
            Some(bytes) => Undo::Restore(path.to_owned(), bytes),
            None => Undo::RemoveFile(path.to_owned()),
        });
        Ok(())
    }

    /// Removes a file. It may be missing.
    pub fn remove(&mut self, path: &Path) -> Result<()> {
        let place = self.place(path)?;
        let Some(before) = self.before(path, place.file()?)? else { return Ok(()) };
        place.unlink(UnlinkatFlags::NoRemoveDir)?;
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
        self.place(path)?.file().map(drop)
    }

    /// Refuses what a program can't rename a file over.
    pub fn expect_no_directory(&self, path: &Path) -> Result<()> {
        self.place(path)?.no_directory().map(drop)
    }

    /// Replaces a file as a whole, mode 0644, as the last change of all: either it is done or all is to be put back.
    ///
    /// It is not synchronized to the disk: a container's root does not outlive the machine's crash.
    pub fn finish(&mut self, path: &Path, bytes: &[u8]) -> Result<()> {
        let place = self.place(path)?;
        // A link that leads to such a file is not what this makes.
        let may_be_it = |found: FileStat| {
            is_readable(found) && usize::try_from(found.st_size) == Ok(bytes.len())
        };
        let found = place.no_directory()?;
        if found.is_some_and(may_be_it) && self.confined.root().says(path, bytes) {
            place.tidy();
            return Ok(());
        }
        place.replace(bytes)
    }

    /// Puts everything back, the last change first.
    pub fn undo(mut self) -> Result<()> {
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::RemoveDir(path) => self.place(&path)?.unlink(UnlinkatFlags::RemoveDir),
                Undo::RemoveFile(path) => self.place(&path)?.unlink(UnlinkatFlags::NoRemoveDir),
                Undo::Restore(path, bytes) => self.place(&path)?.replace(&bytes),
                Undo::RemoveNew(dir, names, before) => self.remove_new(&dir, names, &before),
            }?;
        }
        Ok(())
    }

    fn remove_new(&self, dir: &Path, names: Names, before: &[Vec<u8>]) -> Result<()> {
        let now = self.confined.root().list(dir)?;
        for name in now.iter().filter(|name| names(name) && !before.contains(name)) {
            let path = dir.join(OsStr::from_bytes(name));
            self.place(&path)?.unlink(UnlinkatFlags::NoRemoveDir)?;
        }
        Ok(())
    }

    /// What a file that was found says before it is changed.
    fn before(&self, path: &Path, found: Option<FileStat>) -> Result<Option<Vec<u8>>> {
        if found.is_some() { self.confined.root().read(path, LIMIT) } else { Ok(None) }
    }

    /// Opens the directory of `path` for a change in it. It must be on the root filesystem itself.
    fn place<'p>(&self, path: &'p Path) -> Result<Place<'p>> {
        let name = path.file_name().and_then(|name| name.to_str());
        let (Some(parent), Some(name)) = (path.parent(), name) else {
            bail!("{} is no path of a file", path.display());
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let dir = self.confined.root().open(parent, flags, ResolveFlag::RESOLVE_NO_XDEV);
        let dir = dir.with_context(|| format!("open {} for writing", parent.display()))?;
        Ok(Place { dir, name, path })
    }
}

/// A name in an open directory, where something is to be changed.
#[derive(Debug)]
struct Place<'p> {
    dir: OwnedFd,
    name: &'p str,
    path: &'p Path,
}

impl Place<'_> {
    fn stat(&self) -> Result<Option<FileStat>> {
        match fstatat(&self.dir, self.name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("stat {}", self.path.display())),
        }
    }

    /// The file that is there, if any. What is there must be one: we take no link or directory out of the way.
    fn file(&self) -> Result<Option<FileStat>> {
        let found = self.stat()?;
        let is_file = found.is_none_or(|found| kind(found.st_mode) == SFlag::S_IFREG);
        ensure!(is_file, "change {}: not a regular file", self.path.display());
        Ok(found)
    }

    /// What is there, if anything; not a directory.
    fn no_directory(&self) -> Result<Option<FileStat>> {
        let found = self.stat()?;
        let is_directory = found.is_some_and(|found| kind(found.st_mode) == SFlag::S_IFDIR);
        ensure!(!is_directory, "change {}: a directory", self.path.display());
        Ok(found)
    }

    fn replace(&self, bytes: &[u8]) -> Result<()> {
        let temporary = self.temporary();
        let mut file = make(&self.dir, &temporary);
        if file.as_ref().err() == Some(&Errno::EEXIST) {
            self.tidy();
            file = make(&self.dir, &temporary);
        }
        let written = file.map_err(Error::from).and_then(|file| {
            write_all(file, bytes)?;
            Ok(renameat(&self.dir, temporary.as_str(), &self.dir, self.name)?)
        });
        if written.is_err() {
            self.tidy();
        }
        written.with_context(|| format!("write {}", self.path.display()))
    }

    /// What the file is called while it is written.
    fn temporary(&self) -> String {
        format!(".{}.nri-ldcache", self.name)
    }

    /// Removes what a run that failed or was killed has written of it.
    fn tidy(&self) {
        let _ = unlinkat(&self.dir, self.temporary().as_str(), UnlinkatFlags::NoRemoveDir);
    }

    fn unlink(&self, how: UnlinkatFlags) -> Result<()> {
        unlinkat(&self.dir, self.name, how)
            .with_context(|| format!("remove {}", self.path.display()))
    }
}

/// Is it a file of the mode that we make? Programs of every user must be able to read it.
fn is_readable(found: FileStat) -> bool {
    found.st_mode & 0o7777 == 0o644 && kind(found.st_mode) == SFlag::S_IFREG
}

fn make(dir: &OwnedFd, name: &str) -> nix::Result<OwnedFd> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(dir, name, flags, mode(0o600))
}

fn write_all(file: OwnedFd, bytes: &[u8]) -> Result<()> {
    fchmod(file.as_fd(), mode(0o644))?;
    let mut file = File::from(file);
    file.write_all(bytes)?;
    ensure!(file.metadata()?.len() == bytes.len() as u64, "short");
    Ok(())
}

fn mode(bits: u32) -> Mode {
    Mode::from_bits_truncate(bits)
}
