//! [`Pages`]: the bytes of a file that may be large, in memory that is cheap to touch for the first time.
//!
//! A fresh process pays for each page that it touches: a way into the kernel and back. Many are had on one way (mmap(2),
//! `MAP_POPULATE`): an update takes 0.1 ms less with the cache of 10,000 libraries. One huge page would save as much again, but
//! on a node whose memory is fragmented the kernel may stop us to make one (`defrag`, Documentation/admin-guide/mm/transhuge.rst).

use std::ops::{Deref, DerefMut};

use memmap2::{MmapMut, MmapOptions};

/// From how many bytes on they are mapped, as an allocator does with so many, too (mallopt(3), `M_MMAP_THRESHOLD`).
const MANY: usize = 128 << 10;

/// Most bytes that they may grow in place.
const SPARE: usize = 16 << 10;

/// Bytes, of which there may be more or less.
#[derive(Debug)]
pub struct Pages {
    memory: Memory,
    len: usize,
}

/// Never shorter than the bytes.
#[derive(Debug)]
enum Memory {
    Heap(Vec<u8>),
    Mapped(MmapMut),
}

impl Pages {
    /// Zeroes.
    pub fn zeroed(len: usize) -> Self {
        let room = len + SPARE.min(len / 4);
        let mapped = if len < MANY { None } else { map(room) };
        Self { memory: mapped.map_or_else(|| Memory::Heap(vec![0; room]), Memory::Mapped), len }
    }

    /// Makes them so many, with zeroes behind those that are there.
    pub fn resize(&mut self, len: usize) {
        let before = self.len;
        if len > self.memory().len() {
            let mut more = Self::zeroed(len);
            more[..before].copy_from_slice(self);
            *self = more;
            return;
        }
        self.len = len;
        if let Some(new) = self.get_mut(before..) {
            new.fill(0);
        }
    }

    fn memory(&self) -> &[u8] {
        match &self.memory {
            Memory::Heap(bytes) => bytes,
            Memory::Mapped(map) => map,
        }
    }
}

/// Zeroes in pages of their own, all of which are there; nothing if there is no memory for them.
fn map(len: usize) -> Option<MmapMut> {
    MmapOptions::new().len(len).populate().map_anon().ok()
}

impl Default for Pages {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl From<Vec<u8>> for Pages {
    fn from(bytes: Vec<u8>) -> Self {
        Self { len: bytes.len(), memory: Memory::Heap(bytes) }
    }
}

impl From<Pages> for Vec<u8> {
    fn from(pages: Pages) -> Self {
        match pages.memory {
            Memory::Heap(mut bytes) => {
                bytes.truncate(pages.len);
                bytes
            }
            Memory::Mapped(_) => pages.to_vec(),
        }
    }
}

impl PartialEq for Pages {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory()[..self.len]
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        let memory: &mut [u8] = match &mut self.memory {
            Memory::Heap(bytes) => bytes,
            Memory::Mapped(map) => map,
        };
        &mut memory[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_grow_and_shrink_with_zeroes() {
        for len in [0, 1, 4096, MANY - 1, MANY, 3 * MANY + 1] {
            let mut pages = Pages::zeroed(len);
            assert!(pages.iter().all(|byte| *byte == 0) && pages.len() == len);
            pages.fill(7);
            for (next, kept) in [(len / 2, len / 2), (len + 5, len / 2), (len + MANY, len / 2)] {
                pages.resize(next);
                assert_eq!(pages.len(), next);
                assert!(pages[..kept].iter().all(|byte| *byte == 7), "{len} {next}");
                assert!(pages[kept..].iter().all(|byte| *byte == 0), "{len} {next}");
            }
            let bytes: Vec<u8> = pages.into();
            assert_eq!(bytes.len(), len + MANY);
        }
    }
}
