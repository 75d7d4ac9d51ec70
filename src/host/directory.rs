//! [`Directory`]: a directory of the host that nobody but root can change, opened once and worked in by descriptor.
//!
//! What lies in it runs as root on the host, so whoever can write there, or can put another directory in its place, is root
//! on the host, too. Every directory on the way is looked at, and every link, each with the same descriptor that is then used.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{self as fs, AtFlags, CWD, FileType, Mode, OFlags, Stat, StatVfsMountFlags};
use rustix::io::Errno;

/// How often links may lead elsewhere, as for the kernel (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Most entries of a directory of ours; reports have the most, and are pruned long before.
const MAX_ENTRIES: usize = 100_000;

/// To look at, and to open paths below.
const LOOK: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Mode of what is installed: everybody may look, root alone may change.
pub(super) const MODE: Mode = Mode::from_raw_mode(0o755);

/// A directory, and the one in which it has its name.
#[derive(Debug)]
pub(super) struct Directory {
    dir: File,
    parent: OwnedFd,
    name: OsString,
    /// As this process sees it, for messages.
    path: PathBuf,
}

impl Directory {
    /// Opens the directory at `path` below `root`, if there is one.
    pub(super) fn open(root: &Path, path: &Path) -> Result<Option<Self>> {
        let shown = root.join(path.strip_prefix("/").unwrap_or(path));
        let name = path.file_name().with_context(|| format!("{} has no name", path.display()))?;
        let above = path.parent().unwrap_or(Path::new("/"));
        let Some(parent) = walk(root, above)? else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match fs::openat(&parent, name, flags, Mode::empty()) {
            Ok(dir) => File::from(dir),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                bail!("{} {}", shown.display(), kind(&parent, name))
            }
            Err(error) => return Err(error).with_context(|| format!("open {}", shown.display())),
        };
        trusted(&fs::fstat(&dir)?, false).with_context(|| shown.display().to_string())?;
        Ok(Some(Self { dir, parent, name: name.to_owned(), path: shown }))
    }

    /// Opens the directory, or makes it: it alone, so that what was made can be told from what was there.
    pub(super) fn make(root: &Path, path: &Path) -> Result<Self> {
        if let Some(dir) = Self::open(root, path)? {
            return Ok(dir);
        }
        let name = path.display();
        let above = path.parent().with_context(|| format!("{name} has no parent"))?;
        let parent = walk(root, above)?;
        let parent =
            parent.with_context(|| format!("make {name}: {} is not there", above.display()))?;
        match fs::mkdirat(&parent, path.file_name().unwrap_or_default(), MODE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).with_context(|| format!("make {name}")),
        }
        let dir =
            Self::open(root, path)?.with_context(|| format!("make {name}: it was removed"))?;
        // Whatever the umask was.
        fs::fchmod(&dir.dir, MODE).with_context(|| format!("set mode of {name}"))?;
        sync(&parent).with_context(|| format!("write directory of {name}"))?;
        Ok(dir)
    }

    /// Keeps every other process of ours from changing the directory, until it is closed: however this process ends.
    pub(super) fn lock(&self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            match self.dir.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) => {
                    ensure!(
                        Instant::now() < end,
                        "{} is locked by somebody else",
                        self.path.display()
                    );
                    sleep(Duration::from_millis(5));
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("lock {}", self.path.display()));
                }
            }
        }
    }

    /// Lets others change it again.
    pub(super) fn unlock(&self) -> Result<()> {
        self.dir.unlock().with_context(|| format!("unlock {}", self.path.display()))
    }

    /// Is it still the one at its path? Who waited for the lock may find that the directory was removed meanwhile.
    pub(super) fn is_current(&self) -> Result<bool> {
        let own = fs::fstat(&self.dir)?;
        let found = fs::statat(&self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        Ok(found.is_ok_and(|found| (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)))
    }

    /// The names in it, sorted. What is no UTF-8 is nothing of ours, and only shown.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        let context = || format!("read directory {}", self.path.display());
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&self.dir).with_context(context)? {
            let name = entry.with_context(context)?.file_name().to_bytes().to_vec();
            let name = OsString::from_vec(name);
            ensure!(names.len() < MAX_ENTRIES, "{}: more than {MAX_ENTRIES} entries", context());
            if name != "." && name != ".." {
                names.push(name.to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Opens a regular file to read; `None` if there is nothing, an error if there is something else.
    pub(super) fn file(&self, name: &str) -> Result<Option<File>> {
        let path = self.join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile => {}
            Ok(_) => bail!("{} {}", path.display(), kind(&self.dir, OsStr::new(name))),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("find {}", path.display())),
        }
        let file = fs::openat(&self.dir, name, flags, Mode::empty());
        let file = File::from(file.with_context(|| format!("open {}", path.display()))?);
        ensure!(file.metadata()?.is_file(), "{} is not a regular file", path.display());
        Ok(Some(file))
    }

    /// Makes a file that is not there yet, to be written.
    pub(super) fn create(&self, name: &str) -> Result<File> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&self.dir, name, flags, Mode::RUSR | Mode::WUSR);
        Ok(File::from(file.with_context(|| format!("make {}", self.join(name).display()))?))
    }

    /// Renames a file over another, or none, and writes that to the disk.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<()> {
        fs::renameat(&self.dir, from, &self.dir, to)
            .with_context(|| format!("rename {from} to {}", self.join(to).display()))?;
        sync(&self.dir).with_context(|| format!("write directory {}", self.path.display()))
    }

    /// Removes what is no directory.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        fs::unlinkat(&self.dir, name, AtFlags::empty())
            .with_context(|| format!("remove {}", self.join(name).display()))
    }

    /// Removes the directory, if it is empty, or tells why it stays.
    pub(super) fn remove_itself(&self) -> Result<Option<&'static str>> {
        match fs::unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(None),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(Some("not empty")),
            Err(Errno::BUSY) => Ok(Some("a mount point")),
            Err(Errno::ROFS) => Ok(Some("on a read-only filesystem")),
            Err(error) => Err(error).with_context(|| format!("remove {}", self.path.display())),
        }
    }

    /// Where a file of it can be executed, whatever happens to the path of the directory.
    pub(super) fn executable(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.dir.as_raw_fd()))
    }

    /// Can nothing be written there?
    pub(super) fn is_read_only(&self) -> bool {
        self.is_mounted(StatVfsMountFlags::RDONLY)
    }

    /// Can nothing be executed there?
    pub(super) fn is_noexec(&self) -> bool {
        self.is_mounted(StatVfsMountFlags::NOEXEC)
    }

    fn is_mounted(&self, flag: StatVfsMountFlags) -> bool {
        fs::fstatvfs(&self.dir).is_ok_and(|mount| mount.f_flag.contains(flag))
    }

    /// The path of a file in it, as this process sees it.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Its path, as this process sees it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Reads a file of at most `limit` bytes.
pub(super) fn read(file: File, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= limit, "larger than {limit} bytes");
    Ok(bytes)
}

/// Goes from `root` to the directory at `path` as the kernel would, and looks at each step who could lead it elsewhere.
fn walk(root: &Path, path: &Path) -> Result<Option<OwnedFd>> {
    let mut shown = root.to_owned();
    let top = fs::openat(CWD, root, LOOK - OFlags::NOFOLLOW, Mode::empty());
    let top = top.with_context(|| format!("open host root {}", root.display()))?;
    trusted(&fs::fstat(&top)?, true).with_context(|| shown.display().to_string())?;
    let (mut way, mut links) = (vec![top], 0);
    let mut ahead: VecDeque<OsString> = steps(path);
    while let (Some(name), Some(here)) = (ahead.pop_front(), way.last()) {
        if name == ".." {
            way.truncate(way.len().saturating_sub(1).max(1));
            continue;
        }
        shown = shown.join(&name);
        let found = match fs::statat(here, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("find {}", shown.display())),
        };
        if FileType::from_raw_mode(found.st_mode) == FileType::Symlink {
            links += 1;
            ensure!(links <= MAX_LINKS, "{}: too many links", shown.display());
            owned(&found).with_context(|| format!("link {}", shown.display()))?;
            let target = fs::readlinkat(here, &name, Vec::new())?.into_bytes();
            let target = PathBuf::from(OsString::from_vec(target));
            if target.is_absolute() {
                way.truncate(1);
            }
            steps(&target).into_iter().rev().for_each(|step| ahead.push_front(step));
            continue;
        }
        let next = fs::openat(here, &name, LOOK, Mode::empty());
        let next = next.with_context(|| format!("open {}", shown.display()))?;
        trusted(&fs::fstat(&next)?, true).with_context(|| shown.display().to_string())?;
        way.push(next);
    }
    Ok(way.pop())
}

fn steps(path: &Path) -> VecDeque<OsString> {
    let steps = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    steps.collect()
}

/// Can nobody but root, or who we are, change the names in this directory?
///
/// Above the one that is used, a sticky directory as `/tmp` will do: others can't rename what is not theirs.
fn trusted(found: &Stat, above: bool) -> Result<()> {
    owned(found)?;
    let (mode, sticky) = (Mode::from_raw_mode(found.st_mode), found.st_mode & 0o1000 != 0);
    let open = mode.intersects(Mode::WGRP | Mode::WOTH) && !(above && sticky);
    ensure!(
        !open,
        "others than its owner may write there (mode {:o}), and what lies there runs as root",
        mode.bits()
    );
    Ok(())
}

fn owned(found: &Stat) -> Result<()> {
    let (owner, us) = (found.st_uid, rustix::process::geteuid().as_raw());
    ensure!(
        owner == 0 || owner == us,
        "it belongs to user {owner}, and what lies there runs as root"
    );
    Ok(())
}

/// Is it ours alone to change, and executable for all?
pub(super) fn is_intact(file: &File) -> io::Result<bool> {
    let meta = file.metadata()?;
    let ours = meta.uid() == 0 || meta.uid() == rustix::process::geteuid().as_raw();
    Ok(ours && meta.mode() & 0o7777 == MODE.bits())
}

/// What somebody finds who wanted a directory, or a file.
fn kind(dir: impl AsFd, name: &OsStr) -> &'static str {
    let found = fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    match found.map(|found| FileType::from_raw_mode(found.st_mode)) {
        Ok(FileType::Symlink) => "is a symbolic link",
        Ok(FileType::Directory) => "is a directory",
        Ok(FileType::RegularFile) => "is a file, not a directory",
        Ok(FileType::Fifo) => "is a FIFO",
        _ => "is neither a file nor a directory",
    }
}

/// Writes the names of a directory to the disk; one opened to look at can't be synced itself.
fn sync(dir: impl AsFd) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::fsync(fs::openat(dir, c".", flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn refused(root: &Path, path: &str) -> String {
        format!("{:#}", Directory::open(root, Path::new(path)).unwrap_err())
    }

    #[test]
    fn directories_that_others_can_change_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = |below: &str| root.path().join(below);
        let mode = |below: &str, mode| {
            std::fs::set_permissions(path(below), Permissions::from_mode(mode)).unwrap();
        };
        assert!(Directory::open(root.path(), Path::new("/opt/x")).unwrap().is_none());
        let error = Directory::make(root.path(), Path::new("/opt/x")).unwrap_err().to_string();
        assert_eq!(error, "make /opt/x: /opt is not there");
        std::fs::create_dir_all(path("opt")).unwrap();
        Directory::make(root.path(), Path::new("/opt/x")).unwrap();
        assert_eq!(path("opt/x").metadata().unwrap().mode() & 0o7777, 0o755);
        for open in [0o757, 0o775, 0o1777] {
            mode("opt/x", open);
            let error = refused(root.path(), "/opt/x");
            assert!(error.contains("opt/x: others than its owner may write"), "{error}");
        }
        mode("opt/x", 0o755);
        mode("opt", 0o777);
        assert!(refused(root.path(), "/opt/x").contains("/opt: others"));
        mode("opt", 0o1777);
        assert!(Directory::open(root.path(), Path::new("/opt/x")).unwrap().is_some());
    }

    #[test]
    fn links_are_followed_on_the_way_inside_the_root_and_not_at_the_end() {
        let root = tempfile::tempdir().unwrap();
        let path = |below: &str| root.path().join(below);
        std::fs::create_dir_all(path("var/opt/x")).unwrap();
        symlink("/var/opt", path("opt")).unwrap();
        symlink("x", path("var/opt/y")).unwrap();
        symlink("loop", path("loop")).unwrap();
        symlink("../../../../var", path("up")).unwrap();
        std::fs::write(path("file"), "").unwrap();
        let found = Directory::open(root.path(), Path::new("/opt/x")).unwrap().unwrap();
        std::fs::write(path("var/opt/x/f"), "f").unwrap();
        assert_eq!(found.names().unwrap(), ["f"]);
        assert!(Directory::open(root.path(), Path::new("/up/opt/x")).unwrap().is_some());
        assert!(refused(root.path(), "/opt/y").ends_with("/opt/y is a symbolic link"));
        assert!(refused(root.path(), "/loop/x").contains("too many links"));
        assert!(refused(root.path(), "/file").ends_with("is a file, not a directory"));
        assert!(refused(root.path(), "/file/x").contains("open "));
    }

    #[test]
    fn what_is_no_file_is_named() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("d/sub")).unwrap();
        symlink("sub", root.path().join("d/link")).unwrap();
        let dir = Directory::open(root.path(), Path::new("/d")).unwrap().unwrap();
        assert!(dir.file("none").unwrap().is_none());
        assert!(dir.file("sub").unwrap_err().to_string().ends_with("sub is a directory"));
        assert!(dir.file("link").unwrap_err().to_string().ends_with("link is a symbolic link"));
        assert_eq!(dir.remove_itself().unwrap(), Some("not empty"));
        assert!(dir.is_current().unwrap());
        std::fs::rename(root.path().join("d"), root.path().join("e")).unwrap();
        assert!(!dir.is_current().unwrap());
    }

    #[test]
    fn the_lock_is_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let open = || Directory::make(root.path(), Path::new("/d")).unwrap();
        let (one, other) = (open(), open());
        one.lock(Duration::ZERO).unwrap();
        assert!(
            other.lock(Duration::from_millis(10)).unwrap_err().to_string().contains("is locked")
        );
        drop(one);
        other.lock(Duration::ZERO).unwrap();
    }
}
