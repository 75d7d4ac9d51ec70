//! [`Pace`]: whether files are in memory, or on a disk that had better know beforehand what will be read.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::elf::ReadAt;

/// Longer than to read a page from memory, and shorter than from any disk.
const MEMORY: Duration = Duration::from_micros(30);

/// Files that are read together: so that a disk has many of them to fetch, or few in which it shows that there is one.
const OF_DISK: usize = 32;
const OF_MEMORY: usize = 4;

/// What is known of where files are. Once one was slow, a disk is told of the next ones: posix_fadvise(2) takes as long as a read from
/// memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace(Rc<Cell<bool>>);

impl Pace {
    /// How many files are read together.
    pub(super) fn at_once(&self) -> usize {
        if self.0.get() { OF_DISK } else { OF_MEMORY }
    }

    /// A file that is read at this pace.
    pub(super) fn of(&self, file: File) -> Paced {
        Paced { file, pace: self.clone() }
    }
}

/// A file, with what is known of all.
#[derive(Debug)]
pub(super) struct Paced {
    file: File,
    pace: Pace,
}

impl ReadAt for Paced {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let start = Instant::now();
        let read = self.file.read_at(buffer, offset);
        if start.elapsed() > MEMORY {
            self.pace.0.set(true);
        }
        read
    }

    fn will_read(&self, offset: u64, size: u64) {
        if self.pace.0.get() {
            self.file.will_read(offset, size);
        }
    }
}
