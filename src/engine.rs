//! The engine: makes the linker cache of a container without anybody's ldconfig.
//!
//! [`full`] does what ldconfig does: it looks through every directory that the linker searches, and the cache that it
//! makes is byte for byte that of the ldconfig of the container's own glibc.
//!
//! Nothing here writes. Links go through [`Links`], and the cache is returned.

use std::path::Path;

use anyhow::{Context, Result};

pub use glibc::Glibc;
pub use links::{Links, NoLinks};

use crate::ld_so_cache::{self, Cache};
use crate::root::Root;
use found::{Found, Label};
use search::Search;
use search_path::SearchPath;

mod choice;
mod conf;
mod found;
mod glibc;
mod legacy;
mod links;
mod listing;
mod pattern;
mod search;
mod search_path;
mod soname_link;
mod sorted;

/// Where the cache is.
pub const CACHE: &str = "/etc/ld.so.cache";
/// Most bytes of a cache that is read; with 10,000 libraries it has 1 MiB.
const CACHE_LIMIT: u64 = 16 << 20;

/// A cache that was made, and what it took.
#[derive(Debug)]
pub struct Made {
    /// The file.
    pub cache: Vec<u8>,
    /// Its entries.
    pub entries: usize,
    /// Files of libraries that were opened.
    pub opened: usize,
    /// Links that were made, changed or removed.
    pub links: usize,
}

/// Makes the cache of everything that the linker searches: `first`, then what the configuration says.
pub fn full(root: &Root, first: &[&str], links: &mut dyn Links) -> Result<Made> {
    let before = root.read(Path::new(CACHE), CACHE_LIMIT).ok().flatten();
    let generator = before.as_deref().and_then(|file| Cache::parse(file).ok()?.generator());
    let glibc = Glibc::of(root).or_generator(generator);
    drop(before);
    let first: Vec<_> = first.iter().map(|dir| dir.as_bytes()).collect();
    let mut path = SearchPath::of(root, &glibc, &first)?;
    let mut found = Found::default();
    let mut search = Search { root, glibc: &glibc, links, opened: 0, changed: 0 };
    // Grows while it is gone through.
    let mut rank = 0;
    while let Some(dir) = path.dirs.get(rank).cloned() {
        let legacy = search.dir(&dir, label(&path, &glibc, rank)?, &mut found)?;
        legacy.iter().try_for_each(|name| path.add_legacy(root, rank, name))?;
        rank += 1;
    }
    let (opened, changed) = (search.opened, search.changed);
    let entries = sorted::entries(found.entries(&path.subdirectories));
    let cache = write(&entries, &path, &glibc)?;
    Ok(Made { cache, entries: entries.len(), opened, links: changed })
}

/// What all entries of a directory have in common.
fn label(path: &SearchPath, glibc: &Glibc, rank: usize) -> Result<Label> {
    let dir = path.dirs.get(rank).context("find directory")?;
    let name = dir.hwcaps.as_ref();
    let subdirectory = name.and_then(|name| path.subdirectories.iter().position(|it| it == name));
    let legacy = match dir.hwcaps.is_none() && glibc.is_legacy() {
        true => legacy::hwcap(&dir.path),
        false => 0,
    };
    let subdirectory = subdirectory.map(u32::try_from).transpose()?;
    Ok(Label { flags: 0, isa_level: 0, subdirectory, legacy, rank: u32::try_from(rank)? })
}

fn write(entries: &[sorted::Ranked<'_>], path: &SearchPath, glibc: &Glibc) -> Result<Vec<u8>> {
    let names: Vec<_> = path.subdirectories.iter().map(Vec::as_slice).collect();
    let entries = entries.iter().map(|(entry, _)| *entry);
    ld_so_cache::write(entries, &names, &glibc.generator()).context("make linker cache")
}
