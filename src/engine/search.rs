//! [`Search`]: looks through one directory as `search_dir` of ldconfig does (elf/ldconfig.c).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::aout;
use super::assumed::Assumed;
use super::choice::{Choice, Soname, Told};
use super::glibc::Glibc;
use super::libraries::{Label, Libraries};
use super::links::Links;
use super::listing::{Filter, Index, Listing, contains};
use super::pace::{Pace, Paced};
use super::search_path::SearchDir;
use super::soname_link::{self, Leads};
use crate::elf::{ANY_LIBC, Arch, Headed, LIBC6, Library, Linked, Opened, Refused};
use crate::root::{Dir, Root, is_out_of_files};

/// What a search needs, and what it did.
pub(super) struct Search<'a> {
    pub(super) root: &'a Root,
    pub(super) glibc: &'a Glibc,
    pub(super) links: &'a mut dyn Links,
    /// When it must have ended.
    end: Instant,
    pace: Pace,
    /// Files that were opened.
    pub(super) opened: usize,
    /// Links that were made, changed or removed.
    pub(super) changed: usize,
}

/// Entries of a directory by name, which is also that of the file or link, with their flags.
pub(super) type Known<'a> = HashMap<&'a [u8], i32>;

/// One directory while it is looked through.
pub(super) struct Place<'a> {
    path: &'a [u8],
    pub(super) dir: &'a Dir,
    pub(super) listing: &'a Listing,
    pub(super) index: &'a Index<'a>,
    /// The listed file that each name leads to.
    leads: Vec<Option<usize>>,
}

impl Place<'_> {
    pub(super) fn path(&self, name: &[u8]) -> Vec<u8> {
        [self.path, b"/", name].concat()
    }

    /// The listed file to which the name at a place leads.
    pub(super) fn lead(&self, at: usize) -> Option<usize> {
        self.leads.get(at).copied().flatten()
    }
}

impl<'a> Search<'a> {
    pub(super) fn new(
        root: &'a Root,
        glibc: &'a Glibc,
        links: &'a mut dyn Links,
        end: Instant,
    ) -> Self {
        Self { root, glibc, links, end, pace: Pace::default(), opened: 0, changed: 0 }
    }

    /// Is there time left? Who watches from outside can only kill, and what was changed by then would stay.
    pub(super) fn in_time(&self) -> Result<()> {
        ensure!(Instant::now() < self.end, "its time was up");
        Ok(())
    }

    /// Adds the libraries of a directory to `found`, makes their links, and returns its legacy subdirectories.
    ///
    /// What is `known` of it is not read again.
    pub(super) fn dir(
        &mut self,
        searched: &SearchDir,
        label: Label,
        found: &mut Libraries,
        known: Option<&Known<'_>>,
    ) -> Result<Vec<Vec<u8>>> {
        let Some(dir) = self.root.dir(&searched.path)? else { return Ok(Vec::new()) };
        let listing = Listing::read(&dir, self.filter(searched));
        let name = || format!("search {}", String::from_utf8_lossy(&searched.path));
        let listing = listing.with_context(name)?;
        let index = listing.index();
        let (path, leads) = (searched.path.as_slice(), Vec::new());
        let mut place = Place { path, dir: &dir, listing: &listing, index: &index, leads };
        let mut choice = Choice::default();
        let none = Known::new();
        let known = known.unwrap_or(&none);
        let told = self.read(&mut place, &mut choice, known).with_context(name)?;
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

    /// Finds out where links lead, takes what is known, and reads the other files, each once.
    fn read(
        &mut self,
        place: &mut Place<'_>,
        choice: &mut Choice,
        known: &Known<'_>,
    ) -> Result<Vec<Option<Told>>> {
        let listing = place.listing;
        let all = 0..listing.len();
        place.leads = all.clone().map(|at| listing.follow(place.dir, place.index, at)).collect();
        let mut told = vec![None; listing.len()];
        let mut assumed = Assumed::of(self.root, place, known, choice, &mut told)?;
        let mut unread: Vec<_> = all.filter(|at| !assumed.has(*at)).collect();
        let mut real = HashMap::new();
        while !unread.is_empty() {
            let (links, files): (Vec<_>, Vec<_>) =
                unread.iter().partition(|at| listing.is_link(**at));
            self.files(place, &files, choice, &mut told)?;
            for at in links {
                let read = match place.lead(at) {
                    // A file that has the name of an entry need not be what that is about.
                    Some(file) if assumed.has(file) && known.contains_key(listing.name(file)) => {
                        match real.entry(file) {
                            Entry::Occupied(read) => *read.get(),
                            Entry::Vacant(unread) => *unread
                                .insert(self.file(place.dir.file(listing.name(file)), choice)?),
                        }
                    }
                    Some(file) => told.get(file).copied().flatten(),
                    None => self.outside(place, listing.name(at), choice)?,
                };
                told.get_mut(at).into_iter().for_each(|told| *told = read);
            }
            unread = assumed.give_up(place, &unread, &told, choice);
            for at in &unread {
                told.get_mut(*at).into_iter().for_each(|told| *told = None);
            }
        }
        aout::name(self.root, place, &mut told, choice)?;
        Ok(told)
    }

    /// Reads files, as many together as there are descriptors for.
    fn files(
        &mut self,
        place: &Place<'_>,
        files: &[usize],
        choice: &mut Choice,
        told: &mut [Option<Told>],
    ) -> Result<()> {
        let mut opened = Vec::new();
        for at in files {
            self.in_time()?;
            let open = || place.dir.file(place.listing.name(*at));
            let mut file = open();
            if opened.len() >= self.pace.at_once() || file.as_ref().is_err_and(is_out_of_files) {
                self.together(std::mem::take(&mut opened), choice, told)?;
                file = file.or_else(|_| open());
            }
            if let Some(file) = self.open(file)? {
                opened.push((*at, Opened::new(file)));
            }
        }
        self.together(opened, choice, told)
    }

    /// Takes each step with all of the files.
    fn together(
        &self,
        opened: Vec<(usize, Opened<Paced>)>,
        choice: &mut Choice,
        told: &mut [Option<Told>],
    ) -> Result<()> {
        let mut headed = Vec::with_capacity(opened.len());
        for (at, file) in opened {
            self.in_time()?;
            headed.push((at, file.head(Arch::own())));
        }
        let mut linked = Vec::with_capacity(headed.len());
        for (at, file) in headed {
            self.in_time()?;
            linked.push((at, file.and_then(Headed::dynamic)));
        }
        for (at, file) in linked {
            self.in_time()?;
            let read = self.understand(file.and_then(Linked::library), choice)?;
            told.get_mut(at).into_iter().for_each(|told| *told = read);
        }
        Ok(())
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
        let is_missing = file.as_ref().is_err_and(|error| !is_out_of_files(error));
        if is_missing && contains(name, b".so.") && self.root.id(&path)?.is_none() {
            self.changed += usize::from(self.links.remove(place.dir, name).is_ok());
        }
        self.file(file, choice)
    }

    /// What a file says; nothing if it is no library.
    fn file(&mut self, file: io::Result<File>, choice: &mut Choice) -> Result<Option<Told>> {
        self.in_time()?;
        let Some(file) = self.open(file)? else { return Ok(None) };
        self.understand(Library::read(file, Arch::own()), choice)
    }

    /// Takes a file that could be opened. Whether it is a regular one shows when it is read: others have no offsets, or are
    /// not there, for mounts of the jail are without devices.
    fn open(&mut self, file: io::Result<File>) -> Result<Option<Paced>> {
        match file {
            Ok(file) => {
                self.opened += 1;
                Ok(Some(self.pace.of(file)))
            }
            // That is our lack, and says nothing of the file.
            Err(error) if is_out_of_files(&error) => Err(error).context("open a library"),
            Err(_) => Ok(None),
        }
    }

    fn understand(
        &self,
        read: Result<Library, Refused>,
        choice: &mut Choice,
    ) -> Result<Option<Told>> {
        Ok(match read {
            Ok(library) => Some(self.told(&library, choice)?),
            Err(Refused::Aout) => {
                let flags = if self.glibc.is_legacy() { 0 } else { LIBC6 };
                // ldconfig sets no level, and writes that of a file that it read before.
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
        found: &mut Libraries,
    ) -> Result<()> {
        let listing = place.listing;
        let mut beaten: Vec<_> = choice.beaten.iter().collect();
        for chosen in choice.chosen.iter().rev() {
            self.in_time()?;
            let (soname, name) = (choice.soname(chosen), listing.name(chosen.at));
            let file = match () {
                () if searched.hwcaps.is_some() => name,
                () if chosen.is_link => soname,
                () => match soname_link::make(self, place, chosen.at, soname)? {
                    Leads::There => soname,
                    Leads::Elsewhere => {
                        beaten.push(chosen);
                        soname
                    }
                    Leads::Nowhere => name,
                },
            };
            let (flags, isa_level) = (chosen.flags, chosen.isa_level);
            let label = Label { flags, isa_level, ..label };
            found.push(&searched.path, file, soname, label)?;
        }
        for beaten in beaten.into_iter().filter(|_| label.is_added) {
            let (soname, name) = (choice.soname(beaten), listing.name(beaten.at));
            let (flags, isa_level) = (beaten.flags, beaten.isa_level);
            let label = Label { flags, isa_level, is_beaten: true, ..label };
            found.push(&searched.path, name, soname, label)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Dirs, NoLinks, full};
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_not_made_in_time_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("lib")).unwrap();
        let root = Root::at(dir.path()).unwrap();
        let dirs = Dirs { lines: &[b"/lib".to_vec()], added: &[] };
        let in_time = |end| full(&root, dirs, &mut NoLinks, end);
        assert!(in_time(Instant::now() + Duration::from_secs(60)).is_ok());
        let error = in_time(Instant::now()).unwrap_err();
        assert_eq!(error.to_string(), "its time was up");
    }
}
