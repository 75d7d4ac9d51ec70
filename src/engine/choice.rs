//! [`Choice`]: of all libraries of a directory with one SONAME, the one that counts.

use std::collections::HashMap;

use anyhow::{Result, ensure};

use super::legacy;
use super::listing::Listing;
use crate::elf::ANY_LIBC;
use crate::ld_so_cache::libcmp;

/// Most bytes of SONAMEs of one directory.
const MAX_TEXT: usize = 32 << 20;

/// What a file says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) soname: Soname,
    pub(super) flags: i32,
    pub(super) isa_level: u32,
}

/// Where a library's name is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Soname {
    /// In the text of the choice.
    Said(u32, u32),
    /// It has none: it is the file's.
    File,
    /// An a.out file's is one of the file's, up to the major version.
    Major,
}

/// A library that was chosen.
#[derive(Debug)]
pub(super) struct Chosen {
    soname: (u32, u32),
    /// The place of its file in the listing.
    pub(super) at: usize,
    pub(super) flags: i32,
    pub(super) isa_level: u32,
    /// Is it in the cache as a link of its own name?
    pub(super) is_link: bool,
}

/// The libraries of a directory.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// What they are called.
    text: Vec<u8>,
    /// In the order in which their names first appeared.
    pub(super) chosen: Vec<Chosen>,
    /// Files that have the name of one that was chosen.
    pub(super) beaten: Vec<Chosen>,
}

impl Choice {
    /// Keeps a name.
    pub(super) fn keep(&mut self, name: &[u8]) -> Result<(u32, u32)> {
        let start = u32::try_from(self.text.len())?;
        self.text.extend_from_slice(name);
        ensure!(self.text.len() <= MAX_TEXT, "names of libraries have more than {MAX_TEXT} bytes");
        Ok((start, u32::try_from(self.text.len())?))
    }

    /// What a library is called that is in a file of this name.
    pub(super) fn name<'a>(&'a self, told: Told, file: &'a [u8]) -> &'a [u8] {
        match told.soname {
            Soname::Said(start, end) => text(&self.text, (start, end)),
            Soname::File | Soname::Major => file,
        }
    }

    pub(super) fn soname(&self, chosen: &Chosen) -> &[u8] {
        text(&self.text, chosen.soname)
    }

    /// Chooses as the second half of the loop in `search_dir` does (elf/ldconfig.c). `flags` are those that the
    /// directory gives to libraries that do not say for which C library they are.
    pub(super) fn make(
        &mut self,
        listing: &Listing,
        told: &[Option<Told>],
        flags: Option<i32>,
    ) -> Result<()> {
        let mut all = Vec::with_capacity(told.len());
        for (at, told) in told.iter().enumerate() {
            if let Some(told) = told {
                all.push(self.candidate(listing, at, *told, flags)?);
            }
        }
        let mut places: HashMap<&[u8], usize> = HashMap::with_capacity(all.len());
        for new in all {
            let place = *places.entry(text(&self.text, new.soname)).or_insert(self.chosen.len());
            match self.chosen.get_mut(place) {
                Some(best) => {
                    let beaten = replace(best, new, listing);
                    // A link is not the library itself.
                    self.beaten.extend(Some(beaten).filter(|it| !listing.is_link(it.at)));
                }
                None => self.chosen.push(new),
            }
        }
        Ok(())
    }

    /// A link that is called as its target's SONAME, or so without a version, stands for itself; one of another name is
    /// taken for a file.
    fn candidate(
        &mut self,
        listing: &Listing,
        at: usize,
        told: Told,
        flags: Option<i32>,
    ) -> Result<Chosen> {
        let name = listing.name(at);
        let mut soname = match told.soname {
            Soname::Said(start, end) => (start, end),
            Soname::File | Soname::Major => self.keep(name)?,
        };
        let said = text(&self.text, soname);
        let is_link = listing.is_link(at)
            && (name == said || name.ends_with(b".so") && said.starts_with(name));
        if is_link && name != said {
            soname = self.keep(name)?;
        }
        let typed = flags.filter(|flags| told.flags == ANY_LIBC && matches!(flags, 2 | 3));
        let flags = typed.unwrap_or(told.flags);
        Ok(Chosen { soname, at, flags, isa_level: told.isa_level, is_link })
    }
}

/// A file counts more than a link, and otherwise the higher version. The type stays that of the first, but for what
/// old ldconfig merges. Returns the other one.
fn replace(best: &mut Chosen, new: Chosen, listing: &Listing) -> Chosen {
    let newer = || libcmp(listing.name(best.at), listing.name(new.at)).is_lt();
    if (!new.is_link && best.is_link) || (new.is_link == best.is_link && newer()) {
        let flags = legacy::merge(best.flags, new.flags);
        return std::mem::replace(best, Chosen { soname: best.soname, flags, ..new });
    }
    new
}

fn text(text: &[u8], (start, end): (u32, u32)) -> &[u8] {
    text.get(start as usize..end as usize).unwrap_or_default()
}
