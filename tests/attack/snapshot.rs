//! What files are, so that two moments of them can be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell;

/// Content is compared up to this size; what is larger here is sparse.
const CONTENT: u64 = 1 << 20;

/// Every file of a host with what stat(2) says of it: changes of content and of nothing but time included.
#[derive(Debug)]
pub(crate) struct Tree(String);

impl Tree {
    /// Looks with find(1), which is faster than a test without optimisation, at each of `roots` on its own filesystem.
    pub(crate) fn look(mut find: Command, roots: &[&str], but: &str) -> Result<Self> {
        find.args(roots).args(["-xdev", "-path", but, "-prune", "-o", "-printf"]);
        find.arg(r"%p %y %m %U:%G %s %T@ %C@ %l\n");
        shell::output(&mut find).map(Self)
    }

    /// The lines in which the two differ.
    pub(crate) fn difference(&self, after: &Self) -> Vec<String> {
        if self.0 == after.0 {
            return Vec::new();
        }
        let [old, new] = [self, after].map(|tree| tree.0.lines().collect::<BTreeSet<_>>());
        let gone = old.difference(&new).map(|line| format!("-{line}"));
        gone.chain(new.difference(&old).map(|line| format!("+{line}"))).collect()
    }
}

/// Every file of a container's root, its content, and nothing that changes when a change is undone.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot(BTreeMap<PathBuf, Entry>);

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    mode: u32,
    owner: (u32, u32),
    size: u64,
    device: u64,
    pub(crate) target: Option<PathBuf>,
    content: Vec<u8>,
}

impl Snapshot {
    /// Looks at a root and what is mounted in it, but for procfs.
    pub(crate) fn of_container(root: &Path) -> Result<Self> {
        let mut snapshot = Self::default();
        let procfs = Path::new("/proc").symlink_metadata()?.dev();
        snapshot.walk(root, &mut |path, found| {
            let mut entry = Entry::of(found);
            // A directory's size is its filesystem's affair.
            if found.is_dir() {
                entry.size = 0;
            }
            if found.is_file() && found.size() <= CONTENT {
                entry.content = fs::read(path).unwrap_or_default();
            }
            (found.dev() != procfs).then_some(entry)
        })?;
        let below = |path: PathBuf| path.strip_prefix(root).map(Path::to_owned).unwrap_or(path);
        Ok(Self(snapshot.0.into_iter().map(|(path, entry)| (below(path), entry)).collect()))
    }

    fn walk(
        &mut self,
        path: &Path,
        entry: &mut impl FnMut(&Path, &fs::Metadata) -> Option<Entry>,
    ) -> Result<()> {
        let name = || format!("look at {}", path.display());
        let found = path.symlink_metadata().with_context(name)?;
        let Some(mut seen) = entry(path, &found) else { return Ok(()) };
        if found.is_symlink() {
            seen.target = Some(fs::read_link(path).with_context(name)?);
        }
        self.0.insert(path.to_owned(), seen);
        if found.is_dir() {
            for child in fs::read_dir(path).with_context(name)? {
                self.walk(&child?.path(), entry)?;
            }
        }
        Ok(())
    }

    pub(crate) fn get(&self, path: &Path) -> Option<&Entry> {
        self.0.get(path)
    }

    /// The paths at which the two differ.
    pub(crate) fn difference<'a>(&'a self, after: &'a Self) -> Vec<&'a Path> {
        let gone = self.0.iter().filter(|(path, entry)| after.0.get(*path) != Some(entry));
        let new = after.0.keys().filter(|path| !self.0.contains_key(*path));
        let mut paths: Vec<_> = gone.map(|(path, _)| path).chain(new).map(AsRef::as_ref).collect();
        paths.sort();
        paths
    }
}

impl Entry {
    fn of(found: &fs::Metadata) -> Self {
        Self {
            mode: found.mode(),
            owner: (found.uid(), found.gid()),
            size: found.size(),
            device: found.rdev(),
            target: None,
            content: Vec::new(),
        }
    }

    /// Is it what ldconfig makes for a SONAME: a link to a file beside it?
    pub(crate) fn is_soname_link(&self) -> bool {
        self.target.as_ref().is_some_and(|target| !target.as_os_str().as_bytes().contains(&b'/'))
    }
}
