//! [`Found`]: what the linker finds after an update, read back from the cache that it will use.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::ld_so_cache::Cache;
use crate::root::Root;

const CACHE: &str = "/etc/ld.so.cache";

/// More than any cache: that of an image with 100,000 libraries has 12 MiB.
const LIMIT: u64 = 64 << 20;

/// What programs that use CUDA ask for.
const LIBCUDA: &[u8] = b"libcuda.so.1";

/// What a cache has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Its entries.
    pub libraries: usize,
    /// Where it has `libcuda.so.1`, if it has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libcuda: Option<Library>,
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
    /// Reads the cache below `root`.
    pub fn read(root: &Root) -> Result<Self> {
        let file =
            root.read(Path::new(CACHE), LIMIT)?.with_context(|| format!("{CACHE} is not there"))?;
        let cache = Cache::parse(&file).with_context(|| format!("read {CACHE}"))?;
        // The loader takes the first that fits; a GPU has no driver for another architecture than the node's.
        let mut first = None;
        for entry in cache.entries() {
            let entry = entry.with_context(|| format!("read {CACHE}"))?;
            first = first.or((entry.name == LIBCUDA).then_some(entry));
        }
        let libcuda = first.map(|entry| {
            let path = Path::new(OsStr::from_bytes(entry.path));
            let is = match root.is_file(path) {
                true if root.is_mounted(entry.path) => Target::Mounted,
                true => Target::OfImage,
                false => Target::Missing,
            };
            Library { path: path.display().to_string(), is }
        });
        Ok(Self { libraries: cache.len(), libcuda })
    }
}
