//! The engine: makes the linker cache of a container without anybody's ldconfig.
//!
//! [`full`] does what ldconfig does: it looks through every directory that the linker searches, and the cache that it
//! makes is byte for byte that of the ldconfig of the container's own glibc.
//!
//! [`incremental`] makes the same from the image's cache, and looks only into directories of which that does not know
//! all. An image has hundreds of libraries, and on lazily pulled ones each comes over the network when it is opened.
//!
//! Nothing here writes. Links go through [`Links`], and the cache is returned.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

pub use glibc::Glibc;
pub use links::{Links, NoLinks};

use crate::ld_so_cache::{self, Cache};
use crate::root::Root;
use base::Base;
use found::{Found, Label};
use search::Search;
use search_path::SearchPath;

mod base;
mod choice;
mod found;
mod glibc;
mod legacy;
mod links;
mod listing;
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
    /// Directories that were looked through.
    pub searched: usize,
    /// Files of libraries that were opened.
    pub opened: usize,
    /// Links that were made, changed or removed.
    pub links: usize,
    /// Why the image's cache was no base, where one was wanted.
    pub fallback: Option<String>,
}

/// Makes the cache of everything that the linker searches: `first`, then what the configuration says.
///
/// # Errors
///
/// What can't be searched is named. What is not made at `end` is not made at all.
pub fn full(root: &Root, first: &[&str], links: &mut dyn Links, end: Instant) -> Result<Made> {
    let before = root.read(Path::new(CACHE), CACHE_LIMIT).ok().flatten();
    let generator = before.as_deref().and_then(|file| Cache::parse(file).ok()?.generator());
    let glibc = Glibc::of(root).or_generator(generator);
    drop(before);
    let path = search_path(root, &glibc, first)?;
    build(Search::new(root, &glibc, links, end), path, Base::default())
}

/// Makes the same cache as [`full`] if the image's was current, and reads only what that does not know: directories
/// that are new in the configuration, lie on a mount, or were changed after the cache was; and of `added`, where a runtime
/// put files, those files that no entry speaks of.
///
/// Without a cache that can be relied on it is [`full`], and the reason is told.
pub fn incremental(
    root: &Root,
    first: &[&str],
    added: &[&str],
    links: &mut dyn Links,
    end: Instant,
) -> Result<Made> {
    let file = root.read(Path::new(CACHE), CACHE_LIMIT);
    let file = file.map_err(|error| format!("{error:#}"));
    let fallback = match file.and_then(|file| file.ok_or("the image has none".to_owned())) {
        Err(reason) => reason,
        Ok(file) => {
            let cache = Cache::parse(&file).map_err(|error| error.to_string());
            let generator = cache.as_ref().ok().and_then(Cache::generator);
            let glibc = Glibc::of(root).or_generator(generator);
            let path = search_path(root, &glibc, first)?;
            match cache.and_then(|cache| Base::new(root, &glibc, &path, cache, added)) {
                Ok(base) => return build(Search::new(root, &glibc, links, end), path, base),
                Err(reason) => reason,
            }
        }
    };
    Ok(Made { fallback: Some(fallback), ..full(root, first, links, end)? })
}

fn search_path(root: &Root, glibc: &Glibc, first: &[&str]) -> Result<SearchPath> {
    let first: Vec<_> = first.iter().map(|dir| dir.as_bytes()).collect();
    SearchPath::of(root, glibc, &first)
}

/// Looks through the directories that the base does not keep, and puts all together.
fn build(mut search: Search<'_>, mut path: SearchPath, base: Base<'_>) -> Result<Made> {
    let (root, glibc) = (search.root, search.glibc);
    let (mut found, mut searched, mut rank) = (Found::default(), 0, 0);
    // Grows while it is gone through.
    while let Some(dir) = path.dirs.get(rank).cloned() {
        if !base.keeps(rank) {
            let label = label(&path, glibc, rank)?;
            let legacy = search.dir(&dir, label, &mut found, base.known(rank))?;
            legacy.iter().try_for_each(|name| path.add_legacy(root, rank, name))?;
            searched += 1;
        }
        rank += 1;
    }
    let entries = sorted::entries(base.entries, found.entries(&path.subdirectories));
    let names: Vec<_> = path.subdirectories.iter().map(Vec::as_slice).collect();
    let ranked = entries.iter().map(|(entry, _)| *entry);
    let cache = ld_so_cache::write(ranked, &names, &glibc.generator(), base.strings);
    let cache = cache.context("make linker cache")?;
    search.in_time()?;
    let (opened, links) = (search.opened, search.changed);
    Ok(Made { cache, entries: entries.len(), searched, opened, links, fallback: None })
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
