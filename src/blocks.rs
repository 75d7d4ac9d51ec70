//! [`Blocks`]: a file of which only what is looked at is read.
//!
//! Who bisects a cache with 10,000 libraries looks at a few kilobytes of its 650.

use std::cell::{Cell, OnceCell};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bytes of a block, and how many more are read with it, for what begins in it and ends behind it: so many are had from any place.
const BLOCK: usize = 2048;
pub(crate) const MORE: usize = 256;

/// Most bytes that are had at once.
pub(crate) const REACH: usize = 8192;
/// Most blocks that are read with so many more. What ends far behind its block is rare, or somebody made it so.
const MAX_FAR: usize = 512;

/// A file. If it changes, some bytes are of before and some of after that.
#[derive(Debug)]
pub struct Blocks {
    file: File,
    len: usize,
    blocks: Vec<Block>,
    far: Cell<usize>,
    is_lost: Cell<bool>,
}

/// The bytes from a place on, once somebody looked at them, if they could be had: with few behind its end, and with as many as are
/// had at once.
#[derive(Debug, Default)]
struct Block {
    near: OnceCell<Option<Box<[u8]>>>,
    far: OnceCell<Option<Box<[u8]>>>,
}

impl Blocks {
    /// So many bytes of a file.
    pub(crate) fn of(file: File, len: usize) -> Self {
        let blocks = (0..len.div_ceil(BLOCK)).map(|_| Block::default()).collect();
        Self { file, len, blocks, far: Cell::default(), is_lost: Cell::default() }
    }

    /// How many bytes the file has.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Was anything that is there not had, because it could not be read, or far too much was looked at?
    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost.get()
    }

    /// How many were read.
    #[cfg(test)]
    pub(crate) fn read(&self) -> usize {
        let blocks = self.blocks.iter().flat_map(|block| [&block.near, &block.far]);
        blocks.filter_map(OnceCell::get).flatten().map(|bytes| bytes.len()).sum()
    }

    /// Some bytes; nothing if they are not there, too many, or can't be read.
    pub(crate) fn get(&self, range: Range<usize>) -> Option<&[u8]> {
        if range.start > range.end || range.end > self.len || range.len() > REACH {
            return None;
        }
        if range.is_empty() {
            return Some(&[]);
        }
        let block = self.blocks.get(range.start / BLOCK)?;
        let start = range.start / BLOCK * BLOCK;
        let is_near = range.end <= start + BLOCK + MORE;
        let (bytes, more) = if is_near { (&block.near, MORE) } else { (&block.far, REACH) };
        let bytes = bytes.get_or_init(|| {
            let read = self.block(start, more);
            self.is_lost.set(self.is_lost.get() || read.is_none());
            read
        });
        bytes.as_deref()?.get(range.start - start..range.end - start)
    }

    /// Reads a block, and as many bytes behind it.
    fn block(&self, start: usize, more: usize) -> Option<Box<[u8]>> {
        let is_far = usize::from(more == REACH);
        if self.far.get() + is_far > MAX_FAR {
            return None;
        }
        let mut read = vec![0; (BLOCK + more).min(self.len - start)].into_boxed_slice();
        self.file.read_exact_at(&mut read, start as u64).ok()?;
        self.far.set(self.far.get() + is_far);
        Some(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(len: usize) -> (Vec<u8>, Blocks) {
        let bytes: Vec<_> = (0..len).map(|at| (at % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        (bytes, Blocks::of(file, len))
    }

    #[test]
    fn what_is_looked_at_is_what_is_there() {
        for len in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7, 20 * BLOCK] {
            let (bytes, blocks) = file(len);
            for start in (0..=len + 3).step_by(97).chain([len]) {
                for size in [0, 1, MORE, MORE + 1, BLOCK, BLOCK + MORE, REACH, REACH + 1] {
                    let there = bytes.get(start..start + size).filter(|_| size <= REACH);
                    assert_eq!(blocks.get(start..start + size), there, "{len} {start} {size}");
                }
            }
        }
    }

    #[test]
    fn long_strings_do_not_fill_the_memory() {
        let (_, blocks) = file((MAX_FAR + 1) * BLOCK + REACH);
        let is_there = |block: &usize| {
            let start = block * BLOCK;
            blocks.get(start + 1..start + REACH).is_some()
        };
        assert_eq!((0..MAX_FAR).filter(is_there).count(), MAX_FAR);
        assert!(!blocks.is_lost() && !is_there(&MAX_FAR) && blocks.is_lost());
        assert!(blocks.get(0..MORE).is_some());
    }

    #[test]
    fn a_file_that_became_shorter_is_an_error() {
        let (_, blocks) = file(10);
        blocks.file.set_len(9).unwrap();
        assert!(blocks.get(0..1).is_none() && blocks.is_lost());
    }
}
