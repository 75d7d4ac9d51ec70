//! [`Place`]: this program on the host, where runtimes execute it as a hook; how it comes there and goes again.
//!
//! A runtime that is told of a hook executes it some time later, and a container whose hook can't be executed is not
//! created. So a file is whole and has been tried out before it has its name, and never changes under it: the name has the
//! version and the digest. An older one stays until no container that was told of it can still be being created.
//!
//! Nothing is known of other processes but what the directory says. It is locked while one of ours changes it (flock(2),
//! which ends with the process), so a file that is being made while nobody else has the lock was left by one that was
//! killed. A daemon has a shared lock on the file that it injects. Whoever may read a directory can lock it, too, and so
//! delay us, but no more.

use std::fs::{File, TryLockError};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};

use directory::Directory;
pub use drop_in::DropIn;
use program::Program;
pub use readiness::{Awaited, Readiness, end_on_signals, wait_for};
pub use removal::Removal;
use version::Version;

mod directory;
mod drop_in;
mod program;
mod readiness;
mod removal;
mod version;

/// How long another process of ours may take to change the directory.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory of the host in which versions of this program are installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    dir: PathBuf,
    host_root: PathBuf,
}

/// What an installation came to.
#[derive(Debug)]
pub struct Installed {
    /// The program's path on the host.
    pub path: PathBuf,
    /// Whether it was not there, or not as it should be.
    pub written: bool,
    /// Older versions that were removed.
    pub removed: Vec<PathBuf>,
    /// What could not be done and does no harm now.
    pub notes: Vec<String>,
}

impl Place {
    /// Where it is if nothing is said.
    pub const DIR: &str = "/opt/nri-ldcache";

    /// The directory `dir` of the host, whose root is seen at `host_root`.
    pub fn new(dir: &Path, host_root: &Path) -> Result<Self> {
        let name = dir.display();
        ensure!(dir.is_absolute(), "install directory {name} is not absolute");
        ensure!(dir.to_str().is_some(), "install directory {name} is not UTF-8");
        let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
        let plain = dir.components().all(plain) && dir.file_name().is_some();
        ensure!(plain, "install directory {name} is no directory of its own");
        Ok(Self { dir: dir.to_owned(), host_root: host_root.to_owned() })
    }

    /// Where on the host this very program is, once it is installed.
    pub fn path(&self) -> Result<PathBuf> {
        Ok(self.dir.join(Program::own()?.name()))
    }

    /// Installs this program, unless it is there, and removes versions that nobody can need any more.
    ///
    /// Where it is there already nothing is written: the directory may be read-only. The file has been executed once.
    ///
    /// # Errors
    ///
    /// They name the directory or file and what is wrong with it: not there, no directory, changeable by others, read-only,
    /// full, mounted noexec, locked for half a minute.
    pub fn install(&self) -> Result<Installed> {
        let (dir, mut installed) = self.put()?;
        if !dir.is_read_only() {
            match clean(&dir, &Program::own()?.name()) {
                Ok(names) => {
                    installed.removed = names.iter().map(|name| self.dir.join(name)).collect()
                }
                Err(error) => installed.notes.push(format!("old versions not removed: {error:#}")),
            }
        }
        Ok(installed)
    }

    /// Installs this program, if it is missing or damaged, and looks at no other version: a daemon that does so all the time
    /// would remove one the moment that its daemon ends.
    pub fn repair(&self) -> Result<Installed> {
        self.put().map(|(_, installed)| installed)
    }

    /// Looks at the directory and changes nothing: what is there, or what an installation would do.
    pub fn look(&self) -> Result<String> {
        let shown = self.host_root.join(below(&self.dir));
        let Some(dir) = Directory::open(&self.host_root, &self.dir)? else {
            let above = self.dir.parent().unwrap_or(Path::new("/"));
            let is_there = self.host_root.join(below(above)).is_dir();
            ensure!(is_there, "make {}: {} is not there", shown.display(), above.display());
            return Ok(format!("{} will be made", shown.display()));
        };
        let program = Program::own()?;
        let (name, place) = (program.name(), shown.display());
        ensure!(!dir.is_noexec(), "{place} is mounted noexec");
        if is_there(&dir, &name, &program)? {
            return Ok(format!("{} is this program", dir.join(&name).display()));
        }
        ensure!(!dir.is_read_only(), "{place} is read-only, and {name} is not there");
        Ok(format!("{name} will be installed in {place}"))
    }

    /// A file that is there needs no lock: nobody can keep us from finding it.
    fn put(&self) -> Result<(Directory, Installed)> {
        let place = || format!("install into {}", self.host_root.join(below(&self.dir)).display());
        let program = Program::own()?;
        let name = program.name();
        let path = self.dir.join(&name);
        let mut installed =
            Installed { path, written: false, removed: Vec::new(), notes: Vec::new() };
        let mut dir = Directory::make(&self.host_root, &self.dir).with_context(place)?;
        if !is_there(&dir, &name, &program).with_context(place)? {
            dir = self.locked().with_context(place)?;
            // Another process may have put it there while we waited.
            if !is_there(&dir, &name, &program).with_context(place)? {
                installed.notes.extend(put(&dir, &name, &program).with_context(place)?);
                installed.written = true;
                return Ok((dir, installed));
            }
        }
        program::try_out(&dir, &name).with_context(place)?;
        Ok((dir, installed))
    }

    /// The directory, made if it was not there, and locked.
    fn locked(&self) -> Result<Directory> {
        loop {
            let dir = Directory::make(&self.host_root, &self.dir)?;
            dir.lock(PATIENCE)?;
            if dir.is_current()? {
                return Ok(dir);
            }
        }
    }
}

/// Can nobody else put another file at `path` of the host, whose root is seen at `host_root`?
///
/// # Errors
///
/// The directory that somebody else can change, and why.
pub fn root_alone_may_change(path: &Path, host_root: &Path) -> Result<()> {
    let above = path.parent().unwrap_or(Path::new("/"));
    Directory::open(host_root, above).map(drop)
}

fn below(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn is_there(dir: &Directory, name: &str, program: &Program) -> Result<bool> {
    let Some(file) = dir.file(name)? else { return Ok(false) };
    program.is(&file).with_context(|| format!("read {}", dir.join(name).display()))
}

/// Makes the file, tries it out, and only then gives it its name. What SELinux refused is returned.
fn put(dir: &Directory, name: &str, program: &Program) -> Result<Option<String>> {
    remove_temporaries(dir)?;
    // The same each time, for it is in messages, of which the same is told once.
    let temporary = version::temporary(name, std::process::id().into());
    let refused = program.copy(dir, &temporary).and_then(|refused| {
        program::try_out(dir, &temporary)?;
        dir.rename(&temporary, name)?;
        Ok(refused)
    });
    if refused.is_err() {
        // A full disk must not stay full of what is of no use. The next installation removes it, too.
        drop(dir.remove(&temporary));
    }
    refused
}

/// Removes what nobody needs, once the lock is ours.
fn clean(dir: &Directory, current: &str) -> Result<Vec<String>> {
    dir.lock(PATIENCE)?;
    remove_temporaries(dir)?;
    retire(dir, current)
}

/// Removes what installations that were killed have left: the lock is ours, so none of them is at work.
fn remove_temporaries(dir: &Directory) -> Result<()> {
    let names = dir.names()?;
    names.iter().filter(|name| version::is_temporary(name)).try_for_each(|name| dir.remove(name))
}

/// Removes versions that were superseded long ago, and that nobody has a lock on.
fn retire(dir: &Directory, current: &str) -> Result<Vec<String>> {
    let now = SystemTime::now();
    let mut versions = Vec::new();
    for name in dir.names()?.into_iter().filter(|name| version::is_version(name)) {
        // What is not a file is not ours, and stays.
        if let Ok(Some(file)) = dir.file(&name) {
            versions.push(Version { name, installed: file.metadata()?.modified()? });
        }
    }
    renew(dir, &mut versions, current, now)?;
    let mut removed = Vec::new();
    for name in version::superseded(&versions, current, now) {
        let file = dir.file(name)?;
        // Locked until it is gone.
        if file.as_ref().is_some_and(|file| file.try_lock().is_ok()) {
            dir.remove(name)?;
            removed.push(name.to_owned());
        }
    }
    Ok(removed)
}

/// A version that comes back counts as installed now: the one that it replaces was current until now.
fn renew(dir: &Directory, versions: &mut [Version], current: &str, now: SystemTime) -> Result<()> {
    let newest = versions.iter().max_by_key(|version| version.installed);
    if newest.is_none_or(|newest| newest.name == current) {
        return Ok(());
    }
    if let Some(file) = dir.file(current)? {
        file.set_modified(now).with_context(|| format!("date {}", dir.join(current).display()))?;
    }
    versions.iter_mut().filter(|own| own.name == current).for_each(|own| own.installed = now);
    Ok(())
}

/// Who has a lock on any version.
#[derive(Debug)]
enum Held {
    /// A daemon, which injects the one of this name.
    By(String),
    /// We, as long as these are open.
    ByNobody(Vec<File>),
}

/// Locks every version, unless a daemon injects one.
fn held(dir: &Directory) -> Result<Held> {
    let mut locks = Vec::new();
    for name in dir.names()?.into_iter().filter(|name| version::is_version(name)) {
        let Ok(Some(file)) = dir.file(&name) else { continue };
        match file.try_lock() {
            Ok(()) => locks.push(file),
            Err(TryLockError::WouldBlock) => return Ok(Held::By(name)),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("lock {}", dir.join(&name).display()));
            }
        }
    }
    Ok(Held::ByNobody(locks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn directories_that_can_be_no_place_are_named() {
        for dir in ["opt", "/", "/opt/../x", ""] {
            let error = Place::new(Path::new(dir), Path::new("/")).unwrap_err().to_string();
            assert!(error.starts_with(&format!("install directory {dir} is no")), "{error}");
        }
        Place::new(Path::new("/opt/x/"), Path::new("/host")).unwrap();
    }

    /// A directory with versions of some age in minutes.
    fn versions(ages: &[(&str, u64)]) -> (tempfile::TempDir, Directory) {
        let root = tempfile::tempdir().unwrap();
        for (name, age) in ages {
            let file = fs::File::create(root.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age * 60)).unwrap();
        }
        let (above, name) = (root.path().parent().unwrap(), root.path().file_name().unwrap());
        fs::set_permissions(root.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let dir = Directory::open(above, &Path::new("/").join(name)).unwrap().unwrap();
        (root, dir)
    }

    const A: &str = "nri-ldcache-0.0.1-0000000a";
    const B: &str = "nri-ldcache-0.0.2-0000000b";
    const C: &str = "nri-ldcache-0.0.3-0000000c";

    #[test]
    fn a_superseded_version_goes_unless_it_is_locked() {
        let (root, dir) = versions(&[(A, 90), (B, 60), (C, 0), ("nri-ldcache", 900)]);
        let daemon = fs::File::open(root.path().join(A)).unwrap();
        daemon.lock_shared().unwrap();
        assert!(retire(&dir, C).unwrap().is_empty());
        assert!(matches!(held(&dir).unwrap(), Held::By(name) if name == A));
        drop(daemon);
        assert_eq!(retire(&dir, C).unwrap(), [A]);
        assert!(matches!(held(&dir).unwrap(), Held::ByNobody(locks) if locks.len() == 2));
        assert_eq!(dir.names().unwrap(), ["nri-ldcache", B, C]);
    }

    #[test]
    fn a_version_that_comes_back_keeps_the_one_that_it_replaces() {
        let (_root, dir) = versions(&[(A, 90), (B, 60)]);
        assert!(retire(&dir, A).unwrap().is_empty());
        assert_eq!(dir.names().unwrap(), [A, B]);
        assert!(retire(&dir, A).unwrap().is_empty(), "B was current until now");
    }

    #[test]
    fn what_was_left_by_a_killed_installation_goes() {
        let temporary = version::temporary(A, 5);
        let (_root, dir) = versions(&[(A, 90), (&temporary, 0), (".other.tmp", 0)]);
        remove_temporaries(&dir).unwrap();
        assert_eq!(dir.names().unwrap(), [".other.tmp", A]);
    }
}
