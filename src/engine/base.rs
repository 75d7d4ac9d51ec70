//! [`Base`]: what the image's cache says, as far as it can be relied on.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::CACHE;
use super::glibc::Glibc;
use super::links::is_name;
use super::listing::Filter;
use super::search::Known;
use super::search_path::SearchPath;
use crate::ld_so_cache::{Cache, Entry, Format, Hwcap, Merge};
use crate::root::{Id, Kind, Root};

/// Most directories that the cache knows and the linker does not search.
const MAX_ELSEWHERE: usize = 4096;

/// A cache, and which of its directories need not be looked through again. Empty, it is that of the full engine.
#[derive(Debug, Default)]
pub(super) struct Base<'a> {
    /// The entries of directories that are kept, ranked by these.
    pub(super) merge: Merge<'a>,
    /// By the places of directories in the search.
    dirs: Vec<Option<State<'a>>>,
}

#[derive(Debug)]
enum State<'a> {
    /// The cache says all.
    Kept,
    /// What the cache says is so, but there may be more.
    Known(Known<'a>),
    /// Nothing is relied on.
    Searched,
}

impl<'a> Base<'a> {
    /// Relies on a cache, or tells why it can't.
    pub(super) fn new(
        root: &Root,
        glibc: &Glibc,
        path: &SearchPath,
        cache: Cache<'a>,
        added: &[Id],
    ) -> Result<Self> {
        check(glibc, cache)?;
        let written = root.changed(Path::new(CACHE)).context("it can't be dated")?;
        let ranks = path.dirs.iter().enumerate().map(|(rank, dir)| (dir.path.as_slice(), rank));
        let ranks: HashMap<&[u8], usize> = ranks.collect();
        let filter = Filter {
            hwcaps: false,
            legacy: glibc.is_legacy(),
            temporary: glibc.skips_temporary_files(),
        };
        let listed = |name: &[u8]| filter.takes(name, Kind::File);
        let mut elsewhere = HashSet::new();
        let mut dirs: Vec<_> = path.dirs.iter().map(|_| None).collect();
        let mut last: Option<(&[u8], Option<usize>)> = None;
        let merge = Merge::of(cache, |entry, dir| {
            let (dir, file) = split(entry, dir)?;
            // Neighbours are often of one directory.
            let rank = match last {
                Some((last, rank)) if last == dir => rank,
                _ if elsewhere.contains(dir) => None,
                _ => find(root, path, &ranks, dir)?,
            };
            if rank.is_none() && elsewhere.insert(dir) {
                let few = elsewhere.len() <= MAX_ELSEWHERE;
                ensure!(
                    few,
                    "it is of more than {MAX_ELSEWHERE} directories that are not searched"
                );
            }
            last = Some((dir, rank));
            let Some(rank) = rank else { return Ok(None) }; // not searched any more
            let Some(state) = dirs.get_mut(rank) else { return Ok(None) };
            let state = state.get_or_insert_with(|| state_of(root, path, rank, written, added));
            match state {
                State::Kept => return Ok(Some(u32::try_from(rank)?)),
                State::Known(known) if file == entry.name && listed(file) => {
                    known.insert(file, entry.flags);
                }
                // An entry without its link, where none could be made, or by a name that a search passes over.
                State::Known(_) => *state = State::Searched,
                State::Searched => {}
            }
            Ok(None)
        })?;
        Ok(Self { merge, dirs })
    }

    /// Need the directory not be looked through?
    pub(super) fn keeps(&self, rank: usize) -> bool {
        matches!(self.dirs.get(rank), Some(Some(State::Kept)))
    }

    /// What is known of a directory that is.
    pub(super) fn known(&self, rank: usize) -> Option<&Known<'a>> {
        match self.dirs.get(rank) {
            Some(Some(State::Known(known))) => Some(known),
            _ => None,
        }
    }
}

/// Is it a cache that the container's own ldconfig, or this engine, would write?
fn check(glibc: &Glibc, cache: Cache<'_>) -> Result<()> {
    ensure!(cache.format() == Format::New, "it has an old format");
    let (theirs, ours) = (cache.generator().unwrap_or_default(), glibc.generator());
    let [their, our] = [theirs, &ours].map(String::from_utf8_lossy);
    ensure!(theirs == ours, "it is by {their:?} and not by {our:?}");
    Ok(())
}

/// Directory and file of an entry that is like those of ldconfig.
fn split<'a>(entry: &Entry<'a>, dir: Option<&'a [u8]>) -> Result<(&'a [u8], &'a [u8])> {
    let name = || String::from_utf8_lossy(entry.name);
    ensure!(!matches!(entry.hwcap, Hwcap::Legacy(_)), "{:?} is for legacy hwcaps", name());
    let dir = dir.with_context(|| format!("{:?} is in no directory", name()))?;
    let file = entry.path.get(dir.len() + 1..).unwrap_or_default();
    ensure!(is_name(entry.name), "{:?} is no name of a file", name());
    Ok((dir, file))
}

/// The place of an entry's directory in the search, if it has one.
fn find(
    root: &Root,
    path: &SearchPath,
    ranks: &HashMap<&[u8], usize>,
    dir: &[u8],
) -> Result<Option<usize>> {
    if let Some(rank) = ranks.get(dir) {
        return Ok(Some(*rank));
    }
    let id = root.dir(dir)?.map(|dir| dir.id());
    if let Some(other) = path.dirs.iter().find(|other| Some(other.id) == id) {
        let [dir, other] = [dir, &other.path].map(String::from_utf8_lossy);
        bail!("{dir} is searched as {other} now");
    }
    Ok(None)
}

/// Hwcaps subdirectories are read again when they may have changed, for their entries do not tell a file's name from the
/// SONAME's link; they are small.
fn state_of<'a>(
    root: &Root,
    path: &SearchPath,
    rank: usize,
    written: i128,
    added: &[Id],
) -> State<'a> {
    let Some(dir) = path.dirs.get(rank) else { return State::Searched };
    if root.is_mounted(&dir.path) {
        return State::Searched;
    }
    match added.contains(&dir.id) || dir.changed > written {
        false => State::Kept,
        true if dir.hwcaps.is_some() => State::Searched,
        true => State::Known(Known::new()),
    }
}
