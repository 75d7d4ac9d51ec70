//! [`Assumed`]: what a cache says of the files of a directory, taken over without reading them.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::Result;

use super::choice::{Choice, Soname, Told};
use super::search::{Known, Place};
use crate::root::Root;
use crate::signal;

/// The files that are called as their entries say.
#[derive(Debug, Default)]
pub(super) struct Assumed<'k> {
    /// By what they are called. A link that leads out of the listing stands for its file.
    files: HashMap<&'k [u8], usize>,
    /// By place, is it one of them, or does it have an entry and lead to one?
    places: Vec<bool>,
    was_contested: bool,
}

/// What an entry says of a file.
#[derive(Clone, Copy)]
struct Called<'k> {
    name: &'k [u8],
    flags: i32,
    /// Is it the only one with a version that leads to the file?
    is_one: bool,
}

impl<'k> Assumed<'k> {
    /// Takes over the entries of a directory, and that the file to which links with entries lead is called as the longest of
    /// them.
    ///
    /// Where the name of one entry is a link to the file that has the name of another, files are not called as the library
    /// in them, and nothing is taken over.
    pub(super) fn of(
        root: &Root,
        place: &Place<'_>,
        known: &Known<'k>,
        choice: &mut Choice,
        told: &mut [Option<Told>],
    ) -> Result<Self> {
        let mut assumed = Self { places: vec![false; told.len()], ..Self::default() };
        let (mut files, mut entries) = (HashMap::new(), Vec::new());
        for at in 0..told.len() {
            let Some((name, flags)) = known.get_key_value(place.listing.name(at)) else { continue };
            let file = match place.lead(at) {
                Some(file) => file,
                // It leads to no file, which is to be seen again.
                None if !root.is_file(Path::new(OsStr::from_bytes(&place.path(name)))) => continue,
                None => at,
            };
            let target = place.listing.name(file);
            let is_short = name.ends_with(b".so") && target.starts_with(name);
            if file != at && known.contains_key(target) && !is_short {
                return Ok(assumed);
            }
            let entry = Called { name, flags: *flags, is_one: true };
            let called = files.entry(file).or_insert(entry);
            // No file has two names with versions: one of the links leads elsewhere since.
            called.is_one &=
                called.name == *name || [called.name, name].iter().any(is_for_compilers);
            if called.name.len() < name.len() {
                *called = Called { is_one: called.is_one, ..entry };
            }
            entries.push((at, file, entry));
        }
        files.retain(|at, called| called.is_one && is_told(place.listing.name(*at), called.name));
        entries.retain(|(_, file, _)| files.contains_key(file));
        let names = entries.iter().map(|(at, _, entry)| (*at, *entry));
        for (at, Called { name, flags, .. }) in names.chain(files.iter().map(|(at, of)| (*at, *of)))
        {
            let (start, end) = choice.keep(name)?;
            let new = Told { soname: Soname::Said(start, end), flags, isa_level: 0 };
            told.get_mut(at).into_iter().for_each(|told| *told = Some(new));
            assumed.places.get_mut(at).into_iter().for_each(|place| *place = true);
        }
        assumed.files = files.into_iter().map(|(file, called)| (called.name, file)).collect();
        Ok(assumed)
    }

    /// Is what is at a place taken over?
    pub(super) fn has(&self, at: usize) -> bool {
        self.places.get(at) == Some(&true)
    }

    /// Gives up the files as which others call themselves that were read: one of both will be the library, and the cache
    /// speaks of a time before the other was there. Returns the places that are to be read then.
    pub(super) fn give_up(
        &mut self,
        place: &Place<'_>,
        read: &[usize],
        told: &[Option<Told>],
        choice: &Choice,
    ) -> Vec<usize> {
        let contested = read.iter().filter_map(|at| {
            let told = told.get(*at).copied().flatten()?;
            let file = *self.files.get(choice.name(told, place.listing.name(*at)))?;
            (place.lead(*at) != Some(file)).then_some(file)
        });
        let mut contested: HashSet<usize> = contested.collect();
        if contested.is_empty() {
            return Vec::new();
        }
        // Files that were not what a cache says, one after the other, could take as long as somebody likes.
        if std::mem::replace(&mut self.was_contested, true) {
            contested.extend(self.files.values());
        }
        self.files.retain(|_, file| !contested.contains(file));
        let leads_there = |at: &usize| contested.contains(&place.lead(*at).unwrap_or(*at));
        let places: Vec<_> = (0..self.places.len()).filter(leads_there).collect();
        for at in &places {
            self.places.get_mut(*at).into_iter().for_each(|place| *place = false);
        }
        places
    }
}

/// Does an entry tell what is in a file?
///
/// A link for the linker of compilers lacks the version, and stays when the library has another one. Files of the driver are
/// put into a container by whoever starts it: of those of the last time there are empty ones left.
fn is_told(file: &[u8], name: &[u8]) -> bool {
    let is_driver = |name| str::from_utf8(name).is_ok_and(signal::is_library);
    (name == file || !is_for_compilers(&name)) && !is_driver(name) && !is_driver(file)
}

fn is_for_compilers(name: &&[u8]) -> bool {
    name.ends_with(b".so")
}
