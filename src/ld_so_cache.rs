//! [`Cache`]: `/etc/ld.so.cache`, the loader's index of libraries.
//!
//! Three formats are about (sysdeps/generic/dl-cache.h): `ld.so-1.7.0` of libc 5 and glibc 2.0, `glibc-ld.so.cache1.1`
//! since glibc 2.2, and the second hidden in the strings of the first, which was ldconfig's default before 2.32. All are
//! read as the loader reads them, with bounds where it trusts; the second alone is written. Numbers have the byte order of
//! the machine. What is read is chosen by an attacker; no byte of it makes this panic.

use std::cmp::Ordering;
use std::fmt;

pub use bytes::Bytes;
pub use merge::{Merge, Plan};
pub use order::{compare, compare_ranked, is_wild, libcmp};

use crate::byte;
use bytes::{MAX_STRING, end, number, starts_with, string, word};
use record::{OLD_SIZE as OLD_ENTRY, Record, SIZE as ENTRY};
use strings::Lines;

mod bytes;
mod merge;
mod order;
mod patch;
mod record;
mod strings;
mod writer;

const OLD_MAGIC: &[u8] = b"ld.so-1.7.0\0";
const OLD_HEADER: usize = 16;
const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
/// What the hidden header is aligned to where a `u64` is.
const ALIGN: usize = 8;
/// `cache_extension_magic`.
const EXTENSION_MAGIC: u32 = 0xeaa4_2174;
const EXTENSION_HEADER: usize = 8;
const SECTION: usize = 16;
const TAG_GENERATOR: u32 = 0;
const TAG_HWCAPS: u32 = 1;
/// The low bits of the flags are the byte order: 0 is unknown, 2 little, 3 big.
const ENDIAN: u8 = if cfg!(target_endian = "little") { 2 } else { 3 };
/// `DL_CACHE_HWCAP_EXTENSION` and the mask of ISA levels, in the upper half of the hwcap field.
const EXTENSION_BIT: u64 = 1 << 30;
const ISA_MASK: u64 = (1 << 10) - 1;

/// Which of the three formats a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `ld.so-1.7.0` alone.
    Old,
    /// `glibc-ld.so.cache1.1` alone.
    New,
    /// The second in the strings of the first.
    Both,
}

/// Why a file is no cache that a loader would use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Malformed {
    /// It starts with the name of no known format.
    Magic,
    /// It ends before its entries.
    Truncated,
    /// It is of the other byte order.
    Endian,
    /// Its extension directory leads out of it.
    Extension,
    /// The strings of this entry lead out of it.
    Entry(usize),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => f.write_str("not a linker cache"),
            Self::Truncated => f.write_str("truncated"),
            Self::Endian => f.write_str("of another byte order"),
            Self::Extension => f.write_str("extensions lead out of the file"),
            Self::Entry(number) => write!(f, "entry {number} leads out of the file"),
        }
    }
}

impl std::error::Error for Malformed {}

/// What a processor must have for an entry to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hwcap<'a> {
    /// Nothing.
    None,
    /// Bits of `AT_HWCAP` and platforms, which glibc 2.37 gave up; or an extension whose name can't be found.
    Legacy(u64),
    /// It is in the subdirectory of `glibc-hwcaps` of this name.
    Subdirectory {
        /// The subdirectory.
        name: &'a [u8],
        /// The x86 ISA level that the library itself asks for.
        isa_level: u32,
    },
}

/// A library of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What programs ask for.
    pub name: &'a [u8],
    /// Where it is.
    pub path: &'a [u8],
    /// Type and ABI (`FLAG_*`, sysdeps/generic/ldconfig.h).
    pub flags: i32,
    /// What it needs.
    pub hwcap: Hwcap<'a>,
}

/// A cache file, in memory or where it is.
#[derive(Debug)]
pub struct Cache<'a, F: ?Sized = [u8]> {
    format: Format,
    file: &'a F,
    /// Where the entries are, how many there are, and the length of one.
    entries: usize,
    count: usize,
    entry: usize,
    /// What the offsets of strings count from.
    strings: usize,
    generator: Option<&'a [u8]>,
    /// The offsets of the names of subdirectories: where they are, and how many.
    hwcaps: (usize, usize),
}

impl<F: ?Sized> Clone for Cache<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: ?Sized> Copy for Cache<'_, F> {}

impl<'a> Cache<'a> {
    /// Finds the parts of a cache file that is in memory.
    pub fn parse(file: &'a [u8]) -> Result<Self, Malformed> {
        Self::of(file)
    }

    fn records(&self) -> impl Iterator<Item = Record> + use<'a> {
        let entries = self.file.get(self.entries..).unwrap_or_default();
        entries.chunks_exact(self.entry).take(self.count).filter_map(Record::parse)
    }

    /// The strings of entries.
    fn lines(&self) -> Lines<'a> {
        let start = self.entries + self.count * self.entry;
        let size = number(self.file, self.strings + 24).filter(|_| self.entry == ENTRY);
        let end = size.and_then(|size| end(self.file, start, size as usize, 1));
        let lines = end.and_then(|end| self.file.get(start..end));
        Lines::new(lines.unwrap_or_default(), start - self.strings)
    }
}

impl<'a, F: Bytes + ?Sized> Cache<'a, F> {
    /// Finds the parts of a cache file, as `_dl_load_cache_lookup` and `cache_extension_load` do.
    pub fn of(file: &'a F) -> Result<Self, Malformed> {
        if starts_with(file, 0, MAGIC) {
            return Self::new(file, 0);
        }
        if !starts_with(file, 0, OLD_MAGIC) {
            return Err(Malformed::Magic);
        }
        let count = number(file, 12).ok_or(Malformed::Truncated)? as usize;
        let end = end(file, OLD_HEADER, count, OLD_ENTRY).ok_or(Malformed::Truncated)?;
        let hidden = end.next_multiple_of(ALIGN);
        if starts_with(file, hidden, MAGIC) {
            return Self::new(file, hidden);
        }
        let (format, entries, entry) = (Format::Old, OLD_HEADER, OLD_ENTRY);
        let (generator, hwcaps) = (None, (0, 0));
        Ok(Self { format, file, entries, count, entry, strings: end, generator, hwcaps })
    }

    fn new(file: &'a F, start: usize) -> Result<Self, Malformed> {
        let header = file.get(start..start + HEADER).filter(|_| file.size() > start + HEADER);
        let header = header.ok_or(Malformed::Truncated)?;
        let flags = header.get(28).copied().unwrap_or_default();
        if flags != 0 && flags & 3 != ENDIAN {
            return Err(Malformed::Endian);
        }
        let count = word(header, 20).ok_or(Malformed::Truncated)? as usize;
        let entries = start + HEADER;
        end(file, entries, count, ENTRY).ok_or(Malformed::Truncated)?;
        let format = if start == 0 { Format::New } else { Format::Both };
        let (entry, strings, generator, hwcaps) = (ENTRY, start, None, (0, 0));
        let mut cache = Self { format, file, entries, count, entry, strings, generator, hwcaps };
        match word(header, 32).unwrap_or_default() as usize {
            0 => {}
            offset => cache.extend(offset).ok_or(Malformed::Extension)?,
        }
        Ok(cache)
    }

    /// Finds the sections of the extension directory. Its offsets, and those in it, count from the start of the file.
    fn extend(&mut self, offset: usize) -> Option<()> {
        if !offset.is_multiple_of(4) || number(self.file, offset)? != EXTENSION_MAGIC {
            return None;
        }
        let count = number(self.file, offset + 4)? as usize;
        let directory = offset + EXTENSION_HEADER;
        end(self.file, directory, count, SECTION)?;
        for section in (0..count).map(|index| directory + index * SECTION) {
            let section = self.file.get(section..section + SECTION)?;
            let [start, size] = [word(section, 8)?, word(section, 12)?].map(|word| word as usize);
            let end = end(self.file, start, size, 1)?;
            match word(section, 0)? {
                TAG_GENERATOR => self.generator = self.file.get(start..end),
                TAG_HWCAPS if size % 4 == 0 && start % 4 == 0 => self.hwcaps = (start, size / 4),
                TAG_HWCAPS => self.hwcaps = (0, 0),
                _ => {}
            }
        }
        Some(())
    }

    /// Which format the file has.
    pub fn format(&self) -> Format {
        self.format
    }

    /// What wrote it, since glibc 2.33, if that is no longer than a string may be.
    pub fn generator(&self) -> Option<&'a [u8]> {
        self.generator
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The entries, in the order of the file.
    pub fn entries(self) -> impl Iterator<Item = Result<Entry<'a>, Malformed>> {
        let entries = (0u32..).take(self.count);
        entries.map(move |index| self.at(index).ok_or(Malformed::Entry(index as usize)))
    }

    fn at(&self, index: u32) -> Option<Entry<'a>> {
        self.entry(&self.record(index)?)
    }

    fn record(&self, index: u32) -> Option<Record> {
        let index = Some(index as usize).filter(|index| *index < self.count)?;
        let start = self.entries + index * self.entry;
        Record::parse(self.file.get(start..start + self.entry)?)
    }

    fn entry(&self, record: &Record) -> Option<Entry<'a>> {
        let [name, path] = [record.name, record.path].map(|at| self.string(at));
        let hwcap = self.hwcap(record.hwcap);
        Some(Entry { name: name?, path: path?, flags: record.flags, hwcap })
    }

    fn string(&self, offset: u32) -> Option<&'a [u8]> {
        string(self.file, self.strings + offset as usize)
    }

    /// The entry that a loader finds for a name, if it takes none but those with these `flags`.
    ///
    /// It bisects as `search_cache` does (elf/dl-cache.c): in a file that is in no order it may find nothing, and `libx.so.02` is
    /// `libx.so.2`. Those for certain processors are passed over, for which one a loader takes depends on its own.
    pub fn find(&self, name: &[u8], flags: Option<i32>) -> Option<Entry<'a>> {
        let (mut left, mut right) = (0, u32::try_from(self.len()).ok()?);
        while left < right {
            // Of two in the middle it takes the first, too.
            let middle = left + (right - left - 1) / 2;
            match self.compare(name, middle)? {
                Ordering::Less => left = middle + 1,
                Ordering::Greater => right = middle,
                // Of its equals, which are as many as somebody likes, by bisection.
                Ordering::Equal => {
                    let is_before = |index| self.compare(name, index).is_some_and(Ordering::is_lt);
                    let first = partition_point(left, middle, is_before);
                    let flags = flags.or_else(|| Some(self.record(first)?.flags))?;
                    let is_before = |index| {
                        let is_equal = self.compare(name, index).is_some_and(Ordering::is_eq);
                        let comes_first =
                            |it: Record| it.flags > flags || it.flags == flags && it.hwcap != 0;
                        is_equal && self.record(index).is_some_and(comes_first)
                    };
                    let found = self.record(partition_point(first, right, is_before))?;
                    let entry = self.entry(&found).filter(|entry| entry.flags == flags)?;
                    return libcmp(name, entry.name).is_eq().then_some(entry);
                }
            }
        }
        None
    }

    fn compare(&self, name: &[u8], index: u32) -> Option<Ordering> {
        Some(libcmp(name, self.string(self.record(index)?.name)?))
    }

    fn hwcap(&self, field: u64) -> Hwcap<'a> {
        if field == 0 {
            return Hwcap::None;
        }
        let upper = field >> 32;
        if upper & !ISA_MASK != EXTENSION_BIT {
            return Hwcap::Legacy(field);
        }
        let (hwcaps, count) = self.hwcaps;
        let index = usize::try_from(field & u64::from(u32::MAX)).ok();
        let index = index.filter(|index| *index < count);
        let at = index.and_then(|index| number(self.file, hwcaps + index * 4));
        match at.and_then(|at| string(self.file, at as usize)) {
            Some(name) => Hwcap::Subdirectory { name, isa_level: (upper & ISA_MASK) as u32 },
            None => Hwcap::Legacy(field),
        }
    }
}

/// The first index of a range for which something is not so.
fn partition_point(mut start: u32, mut end: u32, is_so: impl Fn(u32) -> bool) -> u32 {
    while start < end {
        let middle = start + (end - start) / 2;
        match is_so(middle) {
            true => start = middle + 1,
            false => end = middle,
        }
    }
    start
}

#[cfg(test)]
mod tests;
