//! [`Listing`]: the names of one directory that may be libraries.

use std::collections::HashMap;

use anyhow::{Result, ensure};

use super::legacy;
use crate::root::{Dir, Kind};

/// Most bytes of names; 10,000 libraries and their links have 600 kB.
const MAX_TEXT: usize = 16 << 20;
/// Links that follow each other before the kernel gives up (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Which names are looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filter {
    /// Is the directory a subdirectory of glibc-hwcaps? There links may have any name.
    pub(super) hwcaps: bool,
    /// Legacy hwcaps subdirectories are directories to search.
    pub(super) legacy: bool,
    /// Temporary files of package managers are passed over.
    pub(super) temporary: bool,
}

impl Filter {
    /// The conditions at the start of the loop in `search_dir` (elf/ldconfig.c).
    pub(super) fn takes(self, name: &[u8], kind: Kind) -> bool {
        let subdirectory = self.legacy && !self.hwcaps && legacy::is_subdirectory(name);
        let named = is_library(name) || (kind != Kind::File && (self.hwcaps || subdirectory));
        kind != Kind::Other && named && !self.skips(name)
    }

    fn skips(self, name: &[u8]) -> bool {
        const PRELINK: &[u8] = b".#prelink#";
        let before_suffix = name.len().checked_sub(7).and_then(|end| name.get(..end));
        let with_suffix = name.len().checked_sub(7).and_then(|at| name.get(at)) == Some(&b'.');
        let prelink = name.ends_with(PRELINK)
            || with_suffix && before_suffix.is_some_and(|name| name.ends_with(PRELINK));
        prelink
            || self.temporary
                && (name.contains(&b';')
                    || name.ends_with(b".dpkg-new")
                    || name.ends_with(b".dpkg-tmp"))
    }
}

/// `_dl_is_dso` (elf/dl-is_dso.h).
fn is_library(name: &[u8]) -> bool {
    (name.starts_with(b"lib") || name.starts_with(b"ld-")) && contains(name, b".so")
        || name.starts_with(b"ld.so.")
        || name.starts_with(b"ld64.so.")
}

pub(super) fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Names in the order of the directory.
#[derive(Debug, Default)]
pub(super) struct Listing {
    text: Vec<u8>,
    names: Vec<(u32, u16, bool)>,
    /// Legacy hwcaps subdirectories.
    pub(super) subdirectories: Vec<Vec<u8>>,
}

/// The place of each name in its listing.
pub(super) type Index<'a> = HashMap<&'a [u8], usize>;

impl Listing {
    pub(super) fn read(dir: &Dir, filter: Filter) -> Result<Self> {
        let mut found = Self::default();
        dir.each(|name, kind| {
            if !filter.takes(name, kind) {
                return;
            }
            match kind {
                Kind::File | Kind::Link => found.push(name, kind == Kind::Link),
                _ if filter.legacy && !filter.hwcaps && legacy::is_subdirectory(name) => {
                    found.subdirectories.push(name.to_owned());
                }
                _ => {}
            }
        })?;
        ensure!(found.text.len() <= MAX_TEXT, "directory has more than {MAX_TEXT} bytes of names");
        Ok(found)
    }

    fn push(&mut self, name: &[u8], is_link: bool) {
        if let (Ok(start), Ok(length)) = (self.text.len().try_into(), name.len().try_into())
            && self.text.len() <= MAX_TEXT
        {
            self.text.extend_from_slice(name);
            self.names.push((start, length, is_link));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn name(&self, at: usize) -> &[u8] {
        let Some((start, length, _)) = self.names.get(at) else { return &[] };
        self.text
            .get(*start as usize..)
            .and_then(|rest| rest.get(..usize::from(*length)))
            .unwrap_or_default()
    }

    pub(super) fn is_link(&self, at: usize) -> bool {
        self.names.get(at).is_some_and(|(_, _, is_link)| *is_link)
    }

    pub(super) fn index(&self) -> Index<'_> {
        (0..self.len()).map(|at| (self.name(at), at)).collect()
    }

    /// The listed file that a name leads to, if all links on the way are listed too. The kernel is asked what links
    /// say, and not to follow them: nothing is opened twice.
    pub(super) fn follow(&self, dir: &Dir, index: &Index<'_>, mut at: usize) -> Option<usize> {
        for _ in 0..MAX_LINKS {
            if !self.is_link(at) {
                return Some(at);
            }
            let target = dir.link(self.name(at))?;
            at = *index.get(target.strip_prefix(b"./").unwrap_or(&target))?;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_libraries() {
        let filter = Filter { hwcaps: false, legacy: true, temporary: true };
        let hwcaps = Filter { hwcaps: true, ..filter };
        let old = Filter { temporary: false, ..filter };
        for (filter, name, kind, taken) in [
            (filter, "libx.so", Kind::File, true),
            (filter, "libx.so.1.2", Kind::Link, true),
            (filter, "libx.sox", Kind::File, true),
            (filter, "ld-2.31.so", Kind::File, true),
            (filter, "ld64.so.2", Kind::File, true),
            (filter, "ld.so", Kind::File, false),
            (filter, "x.so", Kind::Link, false),
            (filter, "libx.so", Kind::Other, false),
            (filter, "tls", Kind::Directory, true),
            (filter, "tls", Kind::File, false),
            (hwcaps, "x", Kind::Link, true),
            (hwcaps, "x", Kind::File, false),
            (filter, "libx.so;5a", Kind::File, false),
            (old, "libx.so;5a", Kind::File, true),
            (old, "libx.so.dpkg-new", Kind::File, true),
            (filter, "libx.so.dpkg-new", Kind::File, false),
            (old, "libx.so.#prelink#", Kind::File, false),
            (old, "libx.so.#prelink#.abcdef", Kind::File, false),
            (old, "libx.so.#prelink#.abcde", Kind::File, true),
        ] {
            assert_eq!(filter.takes(name.as_bytes(), kind), taken, "{name}");
        }
    }
}
