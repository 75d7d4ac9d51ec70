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

use anyhow::{Context, Error, Result};

pub use glibc::Glibc;
pub use links::{Links, NoLinks};

use crate::ld_so_cache::{Cache, Entry, Plan, is_wild};
use crate::pages::Pages;
use crate::root::{Id, Root};
use base::Base;
use libraries::{Label, Libraries};
use search::Search;
use search_path::SearchPath;

mod aout;
mod assumed;
mod base;
mod choice;
mod glibc;
mod legacy;
mod libraries;
mod links;
mod listing;
mod pace;
mod search;
mod search_path;
mod soname_link;
mod sorted;
mod strings;

/// Where the cache is.
pub const CACHE: &str = "/etc/ld.so.cache";
/// Most bytes of a cache that is read; with 10,000 libraries it has 1 MiB.
const CACHE_LIMIT: u64 = 16 << 20;

/// A cache that was made, and what it took.
#[derive(Debug)]
pub struct Made {
    /// The file.
    pub cache: Pages,
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
    /// Its new entries.
    libraries: Libraries,
}

impl Made {
    /// The entries of libraries in directories where a runtime put files.
    pub fn added(&self) -> impl Iterator<Item = Entry<'_>> {
        self.libraries.added()
    }

    /// Libraries in such directories that have no entry, for another one there has their name.
    pub fn beaten(&self) -> impl Iterator<Item = Entry<'_>> {
        self.libraries.beaten()
    }

    /// Would a loader find what was added? Not in a base that is in no order.
    fn is_found(&self) -> Result<(), Reason> {
        let cache = Cache::parse(&self.cache).map_err(|malformed| malformed.to_string())?;
        let is_lost = |new: &Entry<'_>| cache.find(new.name, Some(new.flags)).is_none();
        match self.added().find(is_lost) {
            Some(lost) => {
                Err(format!("{:?} would not be found in it", String::from_utf8_lossy(lost.name)))
            }
            None => Ok(()),
        }
    }
}

/// Directories of an update.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dirs<'a> {
    /// Those that are searched before the system's, as the lines of a configuration name them.
    pub lines: &'a [Vec<u8>],
    /// Those where a runtime put files.
    pub added: &'a [&'a str],
}

/// Makes the cache of everything that the linker searches.
///
/// # Errors
///
/// What can't be searched is named. What is not made at `end` is not made at all.
pub fn full(root: &Root, dirs: Dirs<'_>, links: &mut dyn Links, end: Instant) -> Result<Made> {
    let before = root.blocks(Path::new(CACHE), CACHE_LIMIT).ok().flatten();
    let generator = before.as_ref().and_then(|file| Cache::of(file).ok()?.generator());
    let glibc = Glibc::of(root).or_generator(generator);
    drop(before);
    let path = SearchPath::of(root, &glibc, dirs.lines)?;
    let search = Search::new(root, &glibc, links, end);
    let plan = build(search, path, &Base::default(), &ids(root, dirs)?)?;
    plan.map_err(Error::msg)?.apply(Pages::default())
}

/// Makes the same cache as [`full`] if the image's was current, and reads only what that does not know: directories
/// that are new in the configuration, lie on a mount, or were changed after the cache was; and of those where a runtime put
/// files, the files that no entry speaks of.
///
/// Without a cache that can be relied on it is [`full`], and the reason is told.
pub fn incremental(
    root: &Root,
    dirs: Dirs<'_>,
    links: &mut dyn Links,
    end: Instant,
) -> Result<Made> {
    let reason = match root.pages(Path::new(CACHE), CACHE_LIMIT) {
        Err(error) => format!("{error:#}"),
        Ok(None) => "the image has none".to_owned(),
        Ok(Some(file)) => match update(root, file, dirs, links, end)? {
            Ok(made) => return Ok(made),
            Err(reason) => reason,
        },
    };
    Ok(Made { fallback: Some(reason), ..full(root, dirs, links, end)? })
}

/// Why a cache can't be relied on.
type Reason = String;

/// Makes a cache of the image's, or tells why that can't be relied on.
fn update(
    root: &Root,
    file: Pages,
    dirs: Dirs<'_>,
    links: &mut dyn Links,
    end: Instant,
) -> Result<Result<Made, Reason>> {
    let cache = match Cache::parse(&file) {
        Ok(cache) => cache,
        Err(malformed) => return Ok(Err(malformed.to_string())),
    };
    let glibc = Glibc::of(root).or_generator(cache.generator());
    let (path, added) = (SearchPath::of(root, &glibc, dirs.lines)?, ids(root, dirs)?);
    let base = match Base::new(root, &glibc, &path, cache, &added) {
        Ok(base) => base,
        Err(error) => return Ok(Err(format!("{error:#}"))),
    };
    let planned = build(Search::new(root, &glibc, links, end), path, &base, &added)?;
    let is_kept = !base.merge.is_empty();
    drop(base);
    Ok(planned.and_then(|planned| {
        let made = planned.apply(file).map_err(|error| format!("{error:#}"))?;
        if is_kept { made.is_found().map(|()| made) } else { Ok(made) }
    }))
}

/// A cache, as what is to become of its base.
struct Planned {
    made: Made,
    plan: Plan,
}

impl Planned {
    fn apply(self, base: Pages) -> Result<Made> {
        let cache = self.plan.apply(base).context("make linker cache")?;
        Ok(Made { cache, ..self.made })
    }
}

/// Where a runtime put files. By identity: links may lead to a directory, and then it is searched under another name.
fn ids(root: &Root, dirs: Dirs<'_>) -> Result<Vec<Id>> {
    dirs.added.iter().filter_map(|dir| root.id(dir.as_bytes()).transpose()).collect()
}

/// Looks through the directories that the base does not keep, and puts all together; or tells why that base is none.
fn build(
    mut search: Search<'_>,
    mut path: SearchPath,
    base: &Base<'_>,
    added: &[Id],
) -> Result<Result<Planned, Reason>> {
    let (root, glibc) = (search.root, search.glibc);
    let (mut libraries, mut searched, mut rank) = (Libraries::default(), 0, 0);
    // Grows while it is gone through.
    while let Some(dir) = path.dirs.get(rank).cloned() {
        if !base.keeps(rank) {
            let label = label(&path, glibc, rank, added)?;
            let legacy = search.dir(&dir, label, &mut libraries, base.known(rank))?;
            legacy.iter().try_for_each(|name| path.add_legacy(root, rank, name))?;
            searched += 1;
        }
        rank += 1;
    }
    let new = sorted::entries(libraries.entries(&path.subdirectories));
    let wild = new.iter().find(|(entry, _)| is_wild(entry.name));
    if let (Some((entry, _)), false) = (wild, base.merge.is_empty()) {
        let name = String::from_utf8_lossy(entry.name);
        return Ok(Err(format!("{name:?} has a number that overflows")));
    }
    let entries = base.merge.len() + new.len();
    let names: Vec<_> = path.subdirectories.iter().map(Vec::as_slice).collect();
    let plan = match base.merge.plan(&new, &names, &glibc.generator()) {
        Err(error) if !base.merge.is_empty() => return Ok(Err(format!("{error:#}"))),
        plan => plan.context("make linker cache")?,
    };
    drop(new);
    search.in_time()?;
    let (cache, opened, links, fallback) = (Pages::default(), search.opened, search.changed, None);
    let made = Made { cache, entries, searched, opened, links, fallback, libraries };
    Ok(Ok(Planned { made, plan }))
}

/// What all entries of a directory have in common.
fn label(path: &SearchPath, glibc: &Glibc, rank: usize, added: &[Id]) -> Result<Label> {
    let dir = path.dirs.get(rank).context("find directory")?;
    let name = dir.hwcaps.as_ref();
    let subdirectory = name.and_then(|name| path.subdirectories.iter().position(|it| it == name));
    let legacy = match dir.hwcaps.is_none() && glibc.is_legacy() {
        true => legacy::hwcap(&dir.path),
        false => 0,
    };
    let subdirectory = subdirectory.map(u32::try_from).transpose()?;
    let (is_added, rank) = (added.contains(&dir.id), u32::try_from(rank)?);
    let (flags, isa_level, is_beaten) = (0, 0, false);
    Ok(Label { flags, isa_level, subdirectory, legacy, rank, is_added, is_beaten })
}

#[cfg(test)]
mod tests;
