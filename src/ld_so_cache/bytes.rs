//! [`Bytes`]: a file as a loader reads it, and what is at its places.

use std::ops::Range;

use crate::blocks::{Blocks, MORE, REACH};
use crate::byte;

/// Longest string that is read, with its final NUL: more than the path of a directory (`PATH_MAX`, limits.h) and a name.
pub(super) const MAX_STRING: usize = REACH;
/// Bytes in which most strings end.
const STRING: usize = 128;

/// What has bytes at places: a file in memory, or one of which only what is looked at is read.
pub trait Bytes {
    /// How many there are.
    fn size(&self) -> usize;

    /// Those of a range, if they are there, and no more than a string may have.
    fn get(&self, range: Range<usize>) -> Option<&[u8]>;
}

impl Bytes for [u8] {
    fn size(&self) -> usize {
        self.len()
    }

    fn get(&self, range: Range<usize>) -> Option<&[u8]> {
        if range.len() > REACH { None } else { self.get(range) }
    }
}

impl Bytes for Blocks {
    fn size(&self) -> usize {
        self.len()
    }

    fn get(&self, range: Range<usize>) -> Option<&[u8]> {
        self.get(range)
    }
}

/// The string at a place, which must end before the file does, and soon: every entry may name the same bytes, which are then
/// looked through for each.
pub(super) fn string<F: Bytes + ?Sized>(file: &F, at: usize) -> Option<&[u8]> {
    let rest = file.size().checked_sub(at)?;
    let ends = |most: usize| {
        let bytes = file.get(at..at + most.min(rest))?;
        bytes.get(..byte::first(0, bytes)?)
    };
    ends(STRING).or_else(|| ends(MORE)).or_else(|| ends(MAX_STRING))
}

/// Where so many elements end that begin at a place of a file, if they do.
pub(super) fn end<F: Bytes + ?Sized>(
    file: &F,
    start: usize,
    count: usize,
    size: usize,
) -> Option<usize> {
    start.checked_add(count.checked_mul(size)?).filter(|end| *end <= file.size())
}

pub(super) fn starts_with<F: Bytes + ?Sized>(file: &F, at: usize, magic: &[u8]) -> bool {
    file.get(at..at + magic.len()) == Some(magic)
}

pub(super) fn number<F: Bytes + ?Sized>(file: &F, at: usize) -> Option<u32> {
    word(file.get(at..at + 4)?, 0)
}

pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}
