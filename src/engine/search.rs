//! [`Search`]: looks through one directory as `search_dir` of ldconfig does (elf/ldconfig.c).

use std::io;

use anyhow::{Context, Result};

use super::choice::{Choice, Soname, Told};
use super::found::{Found, Label};
use super::glibc::Glibc;
use super::links::Links;
use super::listing::{Filter, Index, Listing, contains};
use super::search_path::SearchDir;
use super::soname_link;
use crate::elf::{ANY_LIBC, Arch, LIBC6, Library, Refused};
use crate::root::{Dir, Root};

/// What a search needs, and what it did.
pub(super) struct Search<'a> {
    pub(super) root: &'a Root,
    pub(super) glibc: &'a Glibc,
    pub(super) links: &'a mut dyn Links,
    /// Files that were opened.
    pub(super) opened: usize,
    /// Links that were made, changed or removed.
    pub(super) changed: usize,
}

/// One directory while it is looked through.
pub(super) struct Place<'a> {
    path: &'a [u8],
    pub(super) dir: &'a Dir,
    pub(super) listing: &'a Listing,
    pub(super) index: &'a Index<'a>,
    /// The listed file that each name leads to.
    pub(super) leads: Vec<Option<usize>>,
}

impl Place<'_> {
    pub(super) fn path(&self, name: &[u8]) -> Vec<u8> {
        [self.path, b"/", name].concat()
    }
}

impl Search<'_> {
    /// Adds the libraries of a directory to `found`, makes their links, and returns its legacy subdirectories.
    pub(super) fn dir(
        &mut self,
        searched: &SearchDir,
        label: Label,
        found: &mut Found,
    ) -> Result<Vec<Vec<u8>>> {
        let Some(mut dir) = self.root.dir(&searched.path)? else { return Ok(Vec::new()) };
        let listing = Listing::read(&mut dir, self.filter(searched));
        let name = || format!("search {}", String::from_utf8_lossy(&searched.path));
        let listing = listing.with_context(name)?;
        let index = listing.index();
        let (path, leads) = (searched.path.as_slice(), vec![None; listing.len()]);
        let mut place = Place { path, dir: &dir, listing: &listing, index: &index, leads };
        let mut choice = Choice::default();
        let told = self.read(&mut place, &mut choice).with_context(name)?;
        choice.make(&listing, &told, searched.flags).with_context(name)?;
        drop(told);
        self.emit(searched, &place, &choice, label, found).with_context(name)?;
        Ok(listing.subdirectories)
    }

    fn filter(&self, searched: &SearchDir) -> Filter {
        Filter {
            hwcaps: searched.hwcaps.is_some(),
            legacy: self.glibc.is_legacy(),
            temporary: self.glibc.skips_temporary_files(),
        }
    }

    /// Reads the files, each once, and then finds out where the links lead.
    fn read(&mut self, place: &mut Place<'_>, choice: &mut Choice) -> Result<Vec<Option<Told>>> {
        let listing = place.listing;
        let mut told = vec![None; listing.len()];
        let files = |is_link| (0..listing.len()).filter(move |at| listing.is_link(*at) == is_link);
        for at in files(false) {
            let read = self.file(place.dir.file(listing.name(at)), choice)?;
            told.get_mut(at).into_iter().for_each(|told| *told = read);
            place.leads.get_mut(at).into_iter().for_each(|lead| *lead = Some(at));
        }
        for at in files(true) {
            let lead = listing.follow(place.dir, place.index, at);
            let read = match lead {
                Some(file) => told.get(file).copied().flatten(),
                None => self.outside(place, listing.name(at), choice)?,
            };
            told.get_mut(at).into_iter().for_each(|told| *told = read);
            place.leads.get_mut(at).into_iter().for_each(|place| *place = lead);
        }
        Ok(told)
    }

    /// Reads what a link leads to that is not in the listing; one that leads nowhere is removed if it has a version.
    fn outside(
        &mut self,
        place: &Place<'_>,
        name: &[u8],
        choice: &mut Choice,
    ) -> Result<Option<Told>> {
        let path = place.path(name);
        let file = self.root.file(&path);
        if file.is_err() && contains(name, b".so.") && self.root.id(&path).is_none() {
            self.changed += usize::from(self.links.remove(place.dir, name).is_ok());
        }
        self.file(file, choice)
    }

    /// What an opened file says; nothing if it is no library. Whether it is a regular file shows when it is read: others
    /// have no offsets, or are not there, for mounts of the jail are without devices.
    fn file(
        &mut self,
        file: io::Result<impl Into<std::fs::File>>,
        choice: &mut Choice,
    ) -> Result<Option<Told>> {
        let Ok(file) = file else { return Ok(None) };
        self.opened += 1;
        Ok(match Library::read(&file.into(), Arch::own()) {
            Ok(library) => Some(self.told(&library, choice)?),
            Err(Refused::Aout) => {
                let flags = if self.glibc.is_legacy() { 0 } else { LIBC6 };
                Some(Told { soname: Soname::Major, flags, isa_level: 0 })
            }
            Err(_) => None,
        })
    }

    fn told(&self, library: &Library, choice: &mut Choice) -> Result<Told> {
        let soname = match &library.soname {
            Some(soname) => {
                let (start, end) = choice.keep(soname)?;
                Soname::Said(start, end)
            }
            None => Soname::File,
        };
        let unknown = self.glibc.is_legacy() && library.flags == LIBC6 && !library.names_libc6;
        let flags = if unknown { ANY_LIBC } else { library.flags };
        Ok(Told { soname, flags, isa_level: library.isa_level })
    }

    /// Makes links and entries, the last first. A hwcaps subdirectory gets no links; there the file itself is the entry.
    fn emit(
        &mut self,
        searched: &SearchDir,
        place: &Place<'_>,
        choice: &Choice,
        label: Label,
        found: &mut Found,
    ) -> Result<()> {
        for chosen in choice.chosen.iter().rev() {
            let (soname, name) = (choice.soname(chosen), place.listing.name(chosen.at));
            let file = match () {
                () if searched.hwcaps.is_some() => name,
                () if chosen.is_link => soname,
                () => match soname_link::make(self, place, chosen.at, soname) {
                    true => soname,
                    false => name,
                },
            };
            let label = Label { flags: chosen.flags, isa_level: chosen.isa_level, ..label };
            found.push(&searched.path, file, soname, label)?;
        }
        Ok(())
    }
}
