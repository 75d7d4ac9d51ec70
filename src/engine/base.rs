//! [`Base`]: what the image's cache says, as far as it can be relied on.

use std::collections::HashMap;
use std::path::Path;

use memchr::memrchr;

use super::CACHE;
use super::glibc::Glibc;
use super::links::is_name;
use super::listing::Filter;
use super::search::Known;
use super::search_path::SearchPath;
use super::sorted::Ranked;
use crate::ld_so_cache::{Cache, Entry, Format, Hwcap, is_wild};
use crate::root::{Id, Kind, Root};

/// A cache, and which of its directories need not be looked through again. Empty, it is that of the full engine.
#[derive(Debug, Default)]
pub(super) struct Base<'a> {
    /// Those of directories that are kept.
    pub(super) entries: Vec<Ranked<'a>>,
    /// All its strings.
    pub(super) strings: &'a [u8],
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

type Reason = String;

impl<'a> Base<'a> {
    /// Relies on a cache, or tells why it can't.
    pub(super) fn new(
        root: &Root,
        glibc: &Glibc,
        path: &SearchPath,
        cache: Cache<'a>,
        added: &[&str],
    ) -> Result<Self, Reason> {
        check(glibc, cache)?;
        let written = root.changed(Path::new(CACHE)).ok_or("it can't be dated")?;
        // By identity: links may lead to a directory, and then it is searched under another name.
        let added: Vec<Id> = added.iter().filter_map(|dir| root.id(dir.as_bytes())).collect();
        let dirs = path.dirs.iter().enumerate().map(|(rank, dir)| (dir.path.as_slice(), rank));
        let ranks: HashMap<&[u8], usize> = dirs.collect();
        let filter = Filter {
            hwcaps: false,
            legacy: glibc.is_legacy(),
            temporary: glibc.skips_temporary_files(),
        };
        let listed = |name: &[u8]| filter.takes(name, Kind::File);
        let entries = Vec::with_capacity(cache.len());
        let dirs = path.dirs.iter().map(|_| None).collect();
        let mut base = Self { entries, strings: cache.strings(), dirs };
        let mut last: Option<(&[u8], Option<usize>)> = None;
        for entry in cache.entries() {
            let entry = entry.map_err(|error| error.to_string())?;
            let (dir, file) = split(&entry)?;
            // Neighbours are often of one directory.
            let rank = match last {
                Some((last, rank)) if last == dir => rank,
                _ => find(root, path, &ranks, dir)?,
            };
            last = Some((dir, rank));
            let Some(rank) = rank else { continue }; // not searched any more
            let Some(state) = base.dirs.get_mut(rank) else { continue };
            let state = state.get_or_insert_with(|| state_of(root, path, rank, written, &added));
            match state {
                State::Kept => {
                    base.entries.push((entry, u32::try_from(rank).map_err(|e| e.to_string())?));
                }
                State::Known(known) if file == entry.name && listed(file) => {
                    known.insert(file, entry.flags);
                }
                // An entry without its link, where none could be made, or by a name that a search passes over.
                State::Known(_) => *state = State::Searched,
                State::Searched => {}
            }
        }
        Ok(base)
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
fn check(glibc: &Glibc, cache: Cache<'_>) -> Result<(), Reason> {
    if cache.format() != Format::New {
        return Err("it has an old format".to_owned());
    }
    let (theirs, ours) = (cache.generator().unwrap_or_default(), glibc.generator());
    if theirs != ours {
        let [theirs, ours] = [theirs, &ours].map(String::from_utf8_lossy);
        return Err(format!("it is by {theirs:?} and not by {ours:?}"));
    }
    Ok(())
}

/// Directory and file of an entry that is like those of ldconfig.
fn split<'a>(entry: &Entry<'a>) -> Result<(&'a [u8], &'a [u8]), Reason> {
    let odd = |what: &str| Err(format!("{:?} {what}", String::from_utf8_lossy(entry.name)));
    if is_wild(entry.name) {
        return odd("has a number that overflows");
    }
    if matches!(entry.hwcap, Hwcap::Legacy(_)) {
        return odd("is for legacy hwcaps");
    }
    if !is_name(entry.name) {
        return odd("is no name of a file");
    }
    match memrchr(b'/', entry.path) {
        Some(slash) => {
            let (dir, file) = entry.path.split_at_checked(slash).unwrap_or_default();
            Ok((dir, file.get(1..).unwrap_or_default()))
        }
        None => odd("is in no directory"),
    }
}

/// The place of an entry's directory in the search, if it has one.
fn find(
    root: &Root,
    path: &SearchPath,
    ranks: &HashMap<&[u8], usize>,
    dir: &[u8],
) -> Result<Option<usize>, Reason> {
    if let Some(rank) = ranks.get(dir) {
        return Ok(Some(*rank));
    }
    let id = root.dir(dir).map_err(|error| format!("{error:#}"))?.map(|dir| dir.id());
    match path.dirs.iter().find(|other| Some(other.id) == id) {
        Some(other) => {
            let [dir, other] = [dir, &other.path].map(String::from_utf8_lossy);
            Err(format!("{dir} is searched as {other} now"))
        }
        None => Ok(None),
    }
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
