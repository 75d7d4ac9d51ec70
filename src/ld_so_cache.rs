//! [`Cache`]: `/etc/ld.so.cache`, the loader's index of libraries.
//!
//! Three formats are about (sysdeps/generic/dl-cache.h): `ld.so-1.7.0` of libc 5 and glibc 2.0, `glibc-ld.so.cache1.1`
//! since glibc 2.2, and the second hidden in the strings of the first, which was ldconfig's default before 2.32. All are
//! read as the loader reads them, with bounds where it trusts; the second alone is written. Numbers have the byte order of
//! the machine. What is read is chosen by an attacker; no byte of it makes this panic.

use std::cmp::Ordering;
use std::fmt;

pub use merge::{Merge, Plan};
pub use order::{compare, compare_ranked, is_wild, libcmp};

use crate::byte;
use record::{OLD_SIZE as OLD_ENTRY, Record, SIZE as ENTRY};
use strings::Lines;

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
/// Longest string that is read, with its final NUL: more than the path of a directory (`PATH_MAX`, limits.h) and a name.
const MAX_STRING: usize = 8192;

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

/// A cache file.
#[derive(Clone, Copy, Debug)]
pub struct Cache<'a> {
    format: Format,
    file: &'a [u8],
    /// The entries, and the length of one.
    entries: &'a [u8],
    entry: usize,
    /// What the offsets of strings count from.
    strings: &'a [u8],
    generator: Option<&'a [u8]>,
    hwcaps: &'a [u8],
}

impl<'a> Cache<'a> {
    /// Finds the parts of a cache file, as `_dl_load_cache_lookup` and `cache_extension_load` do.
    pub fn parse(file: &'a [u8]) -> Result<Self, Malformed> {
        if file.starts_with(MAGIC) {
            return Self::new(file, 0);
        }
        if !file.starts_with(OLD_MAGIC) {
            return Err(Malformed::Magic);
        }
        let count = number(file, 12).ok_or(Malformed::Truncated)? as usize;
        let size = count.checked_mul(OLD_ENTRY).ok_or(Malformed::Truncated)?;
        let entries = file.get(OLD_HEADER..).and_then(|rest| rest.get(..size));
        let entries = entries.ok_or(Malformed::Truncated)?;
        let end = OLD_HEADER + size;
        let hidden = end.next_multiple_of(ALIGN);
        if file.get(hidden..).is_some_and(|rest| rest.starts_with(MAGIC)) {
            return Self::new(file, hidden);
        }
        let strings = file.get(end..).unwrap_or_default();
        let (format, entry) = (Format::Old, OLD_ENTRY);
        Ok(Self { format, file, entries, entry, strings, generator: None, hwcaps: &[] })
    }

    fn new(file: &'a [u8], start: usize) -> Result<Self, Malformed> {
        let strings = file.get(start..).filter(|rest| rest.len() > HEADER);
        let strings = strings.ok_or(Malformed::Truncated)?;
        let flags = strings.get(28).copied().unwrap_or_default();
        if flags != 0 && flags & 3 != ENDIAN {
            return Err(Malformed::Endian);
        }
        let count = number(strings, 20).ok_or(Malformed::Truncated)? as usize;
        let size = count.checked_mul(ENTRY).ok_or(Malformed::Truncated)?;
        let entries = strings.get(HEADER..).and_then(|rest| rest.get(..size));
        let entries = entries.ok_or(Malformed::Truncated)?;
        let format = if start == 0 { Format::New } else { Format::Both };
        let mut cache =
            Self { format, file, entries, entry: ENTRY, strings, generator: None, hwcaps: &[] };
        match number(strings, 32).unwrap_or_default() as usize {
            0 => {}
            offset => cache.extend(offset).ok_or(Malformed::Extension)?,
        }
        Ok(cache)
    }

    /// Finds the sections of the extension directory. Its offsets, and those in it, count from the start of the file.
    fn extend(&mut self, offset: usize) -> Option<()> {
        let directory = self.file.get(offset..).filter(|_| offset.is_multiple_of(4))?;
        if number(directory, 0)? != EXTENSION_MAGIC {
            return None;
        }
        let size = (number(directory, 4)? as usize).checked_mul(SECTION)?;
        for section in directory.get(EXTENSION_HEADER..)?.get(..size)?.chunks_exact(SECTION) {
            let data = self.file.get(number(section, 8)? as usize..)?;
            let data = data.get(..number(section, 12)? as usize)?;
            match number(section, 0)? {
                TAG_GENERATOR => self.generator = Some(data),
                TAG_HWCAPS if data.len() % 4 == 0 && number(section, 8)? % 4 == 0 => {
                    self.hwcaps = data;
                }
                TAG_HWCAPS => self.hwcaps = &[],
                _ => {}
            }
        }
        Some(())
    }

    /// Which format the file has.
    pub fn format(&self) -> Format {
        self.format
    }

    /// What wrote it, since glibc 2.33.
    pub fn generator(&self) -> Option<&'a [u8]> {
        self.generator
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len() / self.entry
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries, in the order of the file.
    pub fn entries(self) -> impl Iterator<Item = Result<Entry<'a>, Malformed>> {
        let entries = self.records().enumerate();
        entries.map(move |(index, it)| self.entry(&it).ok_or(Malformed::Entry(index)))
    }

    fn records(&self) -> impl Iterator<Item = Record> + use<'a> {
        self.entries.chunks_exact(self.entry).filter_map(Record::parse)
    }

    fn record(&self, index: u32) -> Option<Record> {
        let start = (index as usize).checked_mul(self.entry)?;
        Record::parse(self.entries.get(start..)?.get(..self.entry)?)
    }

    fn entry(&self, record: &Record) -> Option<Entry<'a>> {
        let name = string(self.strings, record.name)?;
        let path = string(self.strings, record.path)?;
        Some(Entry { name, path, flags: record.flags, hwcap: self.hwcap(record.hwcap) })
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
        Some(libcmp(name, string(self.strings, self.record(index)?.name)?))
    }

    /// The strings of entries.
    fn lines(&self) -> Lines<'a> {
        let (start, size) = (HEADER + self.entries.len(), number(self.strings, 24));
        let lines = self.strings.get(start..).filter(|_| self.entry == ENTRY);
        let lines = lines.and_then(|lines| lines.get(..size? as usize));
        Lines::new(lines.unwrap_or_default(), start)
    }

    fn hwcap(&self, field: u64) -> Hwcap<'a> {
        if field == 0 {
            return Hwcap::None;
        }
        let upper = field >> 32;
        if upper & !ISA_MASK != EXTENSION_BIT {
            return Hwcap::Legacy(field);
        }
        let index = usize::try_from(field & u64::from(u32::MAX)).ok();
        let at = index.and_then(|index| number(self.hwcaps, index.checked_mul(4)?));
        match at.and_then(|at| string(self.file, at)) {
            Some(name) => Hwcap::Subdirectory { name, isa_level: (upper & ISA_MASK) as u32 },
            None => Hwcap::Legacy(field),
        }
    }
}

/// The string at an offset, which must end before the file does, and soon: every entry may name the same bytes, which are
/// then looked through for each.
fn string(strings: &[u8], at: u32) -> Option<&[u8]> {
    let rest = strings.get(at as usize..)?;
    let rest = rest.get(..MAX_STRING).unwrap_or(rest);
    rest.get(..byte::first(0, rest)?)
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

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests;
