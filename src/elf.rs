//! [`Library`]: what the linker cache needs to know of a shared object.
//!
//! The file belongs to an attacker. It is never mapped, for a file that shrinks under a map kills the reader (mmap(2),
//! SIGBUS), and never read as a whole: its head, its dynamic section and one string are a handful of pread(2)s. What is
//! accepted and refused is what glibc's ldconfig accepts and refuses (elf/readlib.c, elf/readelflib.c and their copies per
//! architecture in sysdeps), because the caches must be the same.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

pub use read_only::ReadOnly;
pub use steps::{Headed, Linked, Opened};

use crate::root::will_read;

mod dynamic;
mod fields;
mod property;
mod read_only;
mod segments;
mod steps;

/// What is read first, in one go: the header, the program headers and nearly always the notes. A page, which is what
/// comes from a disk anyway.
const HEAD: usize = 4096;
/// What a disk is asked for before that: what the kernel reads ahead at the start of a file anyway (mm/readahead.c,
/// `get_init_ra_size`). In a small library that is all of it.
const AHEAD: u64 = 16 << 10;

const ET_DYN: u16 = 3;
const PF_R: u32 = 4;
const PT_LOAD: u32 = 1;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;

/// Where a file's bytes come from.
pub trait ReadAt {
    /// Reads at `offset` as pread(2) does; fewer bytes than asked for are the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Tells that these bytes will be read, for a disk to fetch them until then.
    fn will_read(&self, _offset: u64, _size: u64) {}
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn will_read(&self, offset: u64, size: u64) {
        will_read(self, offset, size);
    }
}

impl<B: ReadAt + ?Sized> ReadAt for &B {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at(buffer, offset)
    }

    fn will_read(&self, offset: u64, size: u64) {
        (**self).will_read(offset, size);
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..));
        let rest = rest.unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

/// Whose libraries a cache is for: ldconfig of one architecture takes those of its relatives as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// x86-64, with i386 and x32.
    X86_64,
    /// 64-bit ARM, with the 32-bit one.
    Aarch64,
    /// Another one, with the flag of its 64-bit libraries.
    Other(i32),
}

impl Arch {
    /// The architecture that this program is made for, which is also the container's.
    pub fn own() -> Self {
        match std::env::consts::ARCH {
            "x86_64" => Self::X86_64,
            "aarch64" => Self::Aarch64,
            "powerpc64" => Self::Other(0x503),
            "s390x" => Self::Other(0x403),
            "riscv64" => Self::Other(0x1003),
            "loongarch64" => Self::Other(0x1203),
            _ => Self::Other(LIBC6),
        }
    }
}

/// A library of glibc 2 (`FLAG_ELF_LIBC6`, sysdeps/generic/ldconfig.h).
pub const LIBC6: i32 = 3;
/// A library that does not say for which C library it is (`FLAG_ELF`); no ldconfig since glibc 2.37 writes it.
pub const ANY_LIBC: i32 = 1;

/// What the linker cache needs to know of a shared object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// Its `DT_SONAME`, if it has one.
    pub soname: Option<Vec<u8>>,
    /// Type and ABI as the cache has them (`FLAG_*`, sysdeps/generic/ldconfig.h).
    pub flags: i32,
    /// The highest bit of `GNU_PROPERTY_X86_ISA_1_NEEDED`: 0 is the baseline, 1 x86-64-v2, and so on.
    pub isa_level: u32,
    /// Does something but its machine say that it is for glibc 2? ldconfig before 2.37 asks for that where the machine
    /// leaves it open: an interpreter, or a need of libc.so.6 or libm.so.6.
    pub names_libc6: bool,
}

/// Why a file is no library for the cache.
#[derive(Debug)]
#[non_exhaustive]
pub enum Refused {
    /// It can't be read.
    Unreadable(io::Error),
    /// It has no bytes: what is left of an image that was committed while drivers were mounted.
    Empty,
    /// It ends before its header, or before something that its header speaks of.
    Truncated,
    /// A text for the linker, as `libc.so` of development packages is.
    Script,
    /// A static library.
    Archive,
    /// An executable of the a.out format. ldconfig takes such a file for a library without looking further.
    Aout,
    /// Anything else.
    NotElf,
    /// Neither 32-bit nor 64-bit, or not the class of its machine.
    Class(u8),
    /// Not a shared object: its `e_type`.
    Type(u16),
    /// For another machine: its `e_machine`.
    Machine(u16),
    /// More program headers or dynamic entries than a library can have.
    Excessive,
    /// No dynamic section, or one without strings.
    NotDynamic,
    /// A name longer than any path.
    LongName,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "unreadable: {error}"),
            Self::Empty => f.write_str("empty"),
            Self::Truncated => f.write_str("truncated"),
            Self::Script => f.write_str("a linker script"),
            Self::Archive => f.write_str("an archive"),
            Self::Aout => f.write_str("an a.out file"),
            Self::NotElf => f.write_str("not an ELF file"),
            Self::Class(class) => write!(f, "of ELF class {class}"),
            Self::Type(kind) => write!(f, "of ELF type {kind}, not a shared object"),
            Self::Machine(machine) => write!(f, "for machine {machine}"),
            Self::Excessive => f.write_str("of more parts than a library has"),
            Self::NotDynamic => f.write_str("without a dynamic section"),
            Self::LongName => f.write_str("of a name longer than a path"),
        }
    }
}

impl std::error::Error for Refused {}

type Result<T> = std::result::Result<T, Refused>;

impl Library {
    /// Reads a library as ldconfig of `arch` does.
    pub fn read(bytes: impl ReadAt, arch: Arch) -> Result<Self> {
        Opened::new(bytes).head(arch)?.dynamic()?.library()
    }
}

#[cfg(test)]
pub(crate) mod tests;
