//! [`Found`]: what the linker finds after an update, read back from the cache that it will use.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
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
        let file = root.blocks(Path::new(CACHE), LIMIT)?;
        let file = file.with_context(|| format!("{CACHE} is not there"))?;
        let cache = Cache::of(&file).with_context(|| format!("read {CACHE}"))?;
        let added: Box<dyn Iterator<Item = Entry<'_>>> = match made {
            Some(made) => Box::new(made.added()),
            None => Box::new(entries_in(cache, dirs)),
        };
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
        Ok(Self { libraries: cache.len(), libcuda, hidden })
    }
}

/// The entries of libraries that lie in a directory themselves.
fn entries_in<'a, F: Bytes + ?Sized>(
    cache: Cache<'a, F>,
    dirs: &[LibDir],
) -> impl Iterator<Item = Entry<'a>> {
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
    use crate::ld_so_cache::{Hwcap, Merge};
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
}
