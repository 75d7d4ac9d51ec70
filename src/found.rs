//! [`Found`]: what the linker finds after an update, read back from the cache that it will use.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::engine::Made;
use crate::ld_so_cache::{Bytes, Cache, Entry};
use crate::root::Root;
use crate::update::LibDir;

const CACHE: &str = "/etc/ld.so.cache";

/// More than any cache: that of an image with 100,000 libraries has 12 MiB.
const LIMIT: u64 = 64 << 20;

/// What programs that use CUDA ask for.
const LIBCUDA: &[u8] = b"libcuda.so.1";

/// Most libraries with another path in the cache that are looked at, most that are told of, and most characters of a path.
const MAX_LOOKED_AT: usize = 1000;
const MAX_HIDDEN: usize = 64;
const MAX_PATH: usize = 500;

/// What a cache has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Its entries.
    pub libraries: usize,
    /// Where it has `libcuda.so.1`, if it has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libcuda: Option<Library>,
    /// Mounted libraries that it does not find by their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hidden: Vec<Hidden>,
}

/// A library that another one hides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hidden {
    /// Where it is.
    pub path: String,
    /// What the loader will open instead, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Where a library was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Library {
    /// The path that the loader will open.
    pub path: String,
    /// What is there.
    pub is: Target,
}

/// What a path of the cache leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// A file that was put into the container.
    Mounted,
    /// A file of the image: a stub, or a driver that somebody committed into it.
    OfImage,
    /// Nothing: a link that could not be made, of a directory that is mounted without it.
    Missing,
}

impl Found {
    /// Reads the cache below `root` back, and looks for what was added, as a loader will: for what was `made`, or else for what is
    /// in `dirs`.
    pub fn read(root: &Root, made: Option<&Made>, dirs: &[LibDir]) -> Result<Self> {
        let path = Path::new(CACHE);
        let (missing, damaged) = (|| format!("{CACHE} is not there"), || format!("read {CACHE}"));
        let Some(made) = made else {
            // All entries are looked at.
            let file = root.pages(path, LIMIT)?.with_context(missing)?;
            let cache = Cache::parse(&file).with_context(damaged)?;
            return Ok(Self::of(root, cache, entries_in(cache, dirs)));
        };
        let file = root.blocks(path, LIMIT)?.with_context(missing)?;
        let cache = Cache::of(&file).with_context(damaged)?;
        let found = Self::of(root, cache, made.added().chain(made.beaten()));
        ensure!(!file.is_lost(), "a part of {CACHE} could not be read");
        Ok(found)
    }

    fn of<'a, F: Bytes + ?Sized>(
        root: &Root,
        cache: Cache<'a, F>,
        added: impl Iterator<Item = Entry<'a>>,
    ) -> Self {
        let other = added.filter_map(|added| {
            let found = cache.find(added.name, Some(added.flags)).map(|found| found.path);
            (found != Some(added.path)).then_some((added.path, found))
        });
        let other = other.take(MAX_LOOKED_AT).filter(|(path, by)| is_hidden(root, path, *by));
        let other = other.map(|(path, by)| Hidden { path: text(path), by: by.map(text) });
        let hidden = other.take(MAX_HIDDEN).collect();
        // A GPU has no driver for another architecture than the node's.
        let libcuda = cache.find(LIBCUDA, None).map(|entry| {
            let is = match root.is_file(Path::new(OsStr::from_bytes(entry.path))) {
                true if root.is_mounted(entry.path) => Target::Mounted,
                true => Target::OfImage,
                false => Target::Missing,
            };
            Library { path: text(entry.path), is }
        });
        Self { libraries: cache.len(), libcuda, hidden }
    }
}

/// The entries of libraries that lie in a directory themselves.
fn entries_in<'a>(cache: Cache<'a>, dirs: &[LibDir]) -> impl Iterator<Item = Entry<'a>> {
    let is_in = |path: &[u8], dir: &LibDir| {
        let file = path.strip_prefix(dir.as_str().as_bytes()).and_then(|it| it.strip_prefix(b"/"));
        file.is_some_and(|file| !file.contains(&b'/'))
    };
    let entries = cache.entries().filter_map(Result::ok);
    entries.filter(move |entry| dirs.iter().any(|dir| is_in(entry.path, dir)))
}

/// Is it a mounted library, and not the file that a loader opens by another path?
fn is_hidden(root: &Root, path: &[u8], by: Option<&[u8]>) -> bool {
    let id = |path| root.id(path).ok().flatten();
    root.is_mounted(path) && by.is_none_or(|by| id(by) != id(path))
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(MAX_PATH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ld_so_cache::{Hwcap, Merge, compare_ranked};
    use crate::pages::Pages;

    #[test]
    fn a_directory_has_only_what_lies_in_it() {
        let entries = ["/a/libx.so", "/a/b/libx.so", "/ab/libx.so", "libx.so"];
        let entries = entries.map(|path| {
            let (name, path) = (&b"libx.so"[..], path.as_bytes());
            (Entry { name, path, flags: 3, hwcap: Hwcap::None }, 0)
        });
        let file =
            Merge::default().plan(&entries, &[], b"").unwrap().apply(Pages::default()).unwrap();
        let dirs = ["/a".parse().unwrap()];
        let found = entries_in(Cache::parse(&file).unwrap(), &dirs);
        assert!(found.map(|entry| entry.path).eq([b"/a/libx.so"]));
    }

    #[test]
    fn no_entry_is_lost_among_long_ones() {
        let long = "x".repeat(300);
        let mut names: Vec<_> = (0..5000).map(|i| format!("/opt/lib{i:04}.so.{long}")).collect();
        names.push("/driver/libcuda.so.1".into());
        let entries = names.iter().rev().map(|path| {
            let name = path.rsplit_once('/').unwrap().1.as_bytes();
            (Entry { name, path: path.as_bytes(), flags: 0x303, hwcap: Hwcap::None }, 0)
        });
        let mut entries: Vec<_> = entries.collect();
        entries.sort_by(compare_ranked);
        let plan = Merge::default().plan(&entries, &[], b"").unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let cache = plan.apply(Pages::default()).unwrap();
        std::fs::write(dir.path().join("etc/ld.so.cache"), &*cache).unwrap();
        let root = Root::at(dir.path()).unwrap();
        let found = Found::read(&root, None, &["/opt".parse().unwrap()]).unwrap();
        assert_eq!(found.libraries, names.len());
        assert_eq!(found.libcuda.unwrap().path, "/driver/libcuda.so.1");
    }
}
