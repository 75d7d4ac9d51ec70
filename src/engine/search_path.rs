//! [`SearchPath`]: the directories that a cache is made of, in their order, each once.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Result, ensure};

use super::glibc::Glibc;
use super::legacy;
use crate::ld_so_conf::is_space;
use crate::root::{Dir, Id, Kind, Root};

/// Most directories; a system with everything has 50, and some dozens of hwcaps subdirectories.
const MAX_DIRS: usize = 4096;

/// A directory to search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SearchDir {
    /// As the configuration calls it: its libraries' paths start so.
    pub(super) path: Vec<u8>,
    /// Its name, if it is a subdirectory of glibc-hwcaps.
    pub(super) hwcaps: Option<Vec<u8>>,
    /// For which C library it says to be, with a `=` behind it; glibc before 2.37.
    pub(super) flags: Option<i32>,
    pub(super) id: Id,
    /// When it was last changed.
    pub(super) changed: i128,
}

/// The directories in the order of the search.
#[derive(Debug, Default)]
pub(super) struct SearchPath {
    pub(super) dirs: Vec<SearchDir>,
    seen: HashSet<Id>,
    /// What those that were named are. The system's are often named by the configuration, too, and twice.
    named: HashMap<Vec<u8>, Id>,
    /// Names of hwcaps subdirectories in the order of their first appearance, those of doubles included: each is in the
    /// strings of the cache.
    pub(super) subdirectories: Vec<Vec<u8>>,
}

impl SearchPath {
    /// What ldconfig searches: the directories of these lines, then the system's.
    pub(super) fn of(root: &Root, glibc: &Glibc, lines: &[Vec<u8>]) -> Result<Self> {
        let mut path = Self::default();
        let debian = root.is_file(Path::new("/etc/debian_version"));
        lines.iter().try_for_each(|line| path.add(root, line, glibc.is_legacy()))?;
        let system = glibc.system_dirs(debian);
        system.iter().try_for_each(|dir| path.add(root, dir, false))?;
        Ok(path)
    }

    /// Adds the directory of a line, and its glibc-hwcaps subdirectories, as `add_dir_1` does.
    fn add(&mut self, root: &Root, line: &[u8], typed: bool) -> Result<()> {
        let (path, flags) = match line.iter().position(|byte| *byte == b'=').filter(|_| typed) {
            Some(equals) => (line.get(..equals).unwrap_or_default(), line.get(equals + 1..)),
            None => (line, None),
        };
        let path = trim_end(trim_end(path, is_space), |byte| byte == b'/');
        if path.is_empty() {
            return Ok(());
        }
        let flags = flags.and_then(legacy::library_type);
        if let Some(id) = self.named.get(path).copied() {
            self.name_again(id, flags);
            return Ok(());
        }
        let Some(dir) = root.dir(path)? else { return Ok(()) };
        self.named.insert(path.to_owned(), dir.id());
        if self.push(path.to_owned(), None, flags, &dir)? {
            self.add_subdirectories(root, path, flags)?;
        }
        Ok(())
    }

    /// The newer type counts.
    fn name_again(&mut self, id: Id, flags: Option<i32>) {
        self.dirs.iter_mut().filter(|dir| dir.id == id).for_each(|dir| dir.flags = flags);
    }

    fn push(
        &mut self,
        path: Vec<u8>,
        hwcaps: Option<Vec<u8>>,
        flags: Option<i32>,
        dir: &Dir,
    ) -> Result<bool> {
        let id = dir.id();
        if !self.seen.insert(id) {
            self.name_again(id, flags);
            return Ok(false);
        }
        ensure!(self.dirs.len() < MAX_DIRS, "linker searches more than {MAX_DIRS} directories");
        self.dirs.push(SearchDir { path, hwcaps, flags, id, changed: dir.changed() });
        Ok(true)
    }

    fn add_subdirectories(&mut self, root: &Root, path: &[u8], flags: Option<i32>) -> Result<()> {
        let parent = [path, b"/glibc-hwcaps"].concat();
        let Some(dir) = root.dir(&parent)? else { return Ok(()) };
        let mut names = Vec::new();
        dir.each(|name, kind| {
            // The loader's list of subdirectories has colons between them.
            if !name.starts_with(b".") && kind != Kind::File && !name.contains(&b':') {
                names.push(name.to_owned());
            }
        })?;
        for name in names {
            let path = [&parent, &b"/"[..], &name].concat();
            let Some(dir) = root.dir(&path)? else { continue };
            if !self.subdirectories.contains(&name) {
                let few = self.subdirectories.len() < MAX_DIRS;
                ensure!(few, "more than {MAX_DIRS} names of hwcaps subdirectories");
                self.subdirectories.push(name.clone());
            }
            self.push(path, Some(name), flags, &dir)?;
        }
        Ok(())
    }

    /// Adds a legacy hwcaps subdirectory, found while its parent was searched, behind all others.
    pub(super) fn add_legacy(&mut self, root: &Root, parent: usize, name: &[u8]) -> Result<()> {
        let Some(parent) = self.dirs.get(parent) else { return Ok(()) };
        let (path, flags) = ([&parent.path, &b"/"[..], name].concat(), parent.flags);
        if let Some(dir) = root.dir(&path)? {
            self.push(path, None, flags, &dir)?;
        }
        Ok(())
    }
}

fn trim_end(text: &[u8], mut is_end: impl FnMut(u8) -> bool) -> &[u8] {
    let last = text.iter().rposition(|byte| !is_end(*byte));
    last.and_then(|last| text.get(..=last)).unwrap_or_default()
}
