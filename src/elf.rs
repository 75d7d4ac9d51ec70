//! [`Library`]: what the linker cache needs to know of a shared object.
//!
//! The file belongs to an attacker. It is never mapped, for a file that shrinks under a map kills the reader (mmap(2),
//! SIGBUS), and never read as a whole: its head, its dynamic section and one string are a handful of pread(2)s. What is
//! accepted and refused is what glibc's ldconfig accepts and refuses (elf/readlib.c, elf/readelflib.c and their copies per
//! architecture in sysdeps), because the caches must be the same.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use fields::{Class, Fields, Head};

mod fields;
mod property;

/// What is read first, in one go: the header, the program headers and nearly always the notes. A page, which is what
/// comes from a disk anyway.
const HEAD: usize = 4096;
/// Least bytes of a library: the header of a 64-bit one, which ldconfig asks of all.
const HEADER: usize = 64;
/// Linux itself loads nothing with more program headers than a page holds (fs/binfmt_elf.c, `load_elf_phdrs`: 64 KiB).
const MAX_SEGMENTS: u16 = 1170;
/// Entries of a dynamic section; a library has about 30, and one for each library that it needs.
const MAX_DYNAMIC: u64 = 16_384;
/// Longest name that is of any use as a file name or in a path (`PATH_MAX`, limits.h).
const MAX_NAME: usize = 4096;

const ET_DYN: u16 = 3;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const PT_GNU_PROPERTY: u32 = 0x6474_e553;
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_SONAME: u64 = 14;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;

/// Where a file's bytes come from.
pub trait ReadAt {
    /// Reads at `offset` as pread(2) does; fewer bytes than asked for are the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
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

/// Libraries that are glibc 2's.
const GLIBC: [[u8; 10]; 2] = [*b"libc.so.6\0", *b"libm.so.6\0"];

impl Library {
    /// Reads a library as ldconfig of `arch` does.
    pub fn read<B: ReadAt + ?Sized>(bytes: &B, arch: Arch) -> Result<Self> {
        let head = Head::read(bytes)?;
        let class = head.class(arch)?;
        let flags = flags(arch, class, &head);
        let fields = Fields::new(&head, class);
        let segments = Segments::read(&fields)?;
        let asks = flags == LIBC6; // the machine leaves it open
        let dynamic = Dynamic::read(&fields, &segments, asks)?;
        let strings = segments.file_offset(dynamic.strings.ok_or(Refused::NotDynamic)?);
        let soname = dynamic.soname.map(|at| fields.string(strings, at)).transpose()?;
        let names_libc6 = asks
            && (segments.interpreter_of_glibc(&fields)
                || dynamic.needed.iter().any(|at| fields.is_string(strings, *at, &GLIBC)));
        let isa_level = match arch {
            Arch::X86_64 => segments.isa_level(&fields),
            _ => 0,
        };
        Ok(Self { soname, flags, isa_level, names_libc6 })
    }
}

/// What the machine says about the ABI: `process_elf_file` in sysdeps/x86/readelflib.c and
/// sysdeps/unix/sysv/linux/arm/readelflib.c.
fn flags(arch: Arch, class: Class, head: &Head<impl ReadAt + ?Sized>) -> i32 {
    const ARM_EABI: u32 = 0xff00_0000;
    const ARM_EABI5: u32 = 0x0500_0000;
    match (arch, class) {
        (Arch::X86_64, Class::Elf64) => 0x303,
        (Arch::X86_64, Class::Elf32) if head.machine() == EM_X86_64 => 0x803,
        (Arch::Aarch64, Class::Elf64) => 0xa03,
        (Arch::Aarch64, Class::Elf32) if head.flags(class) & ARM_EABI == ARM_EABI5 => {
            match head.flags(class) {
                flags if flags & 0x400 != 0 => 0x903,
                flags if flags & 0x200 != 0 => 0xb03,
                _ => LIBC6,
            }
        }
        (Arch::Other(flag), Class::Elf64) => flag,
        _ => LIBC6,
    }
}

/// The program headers that matter.
struct Segments {
    /// Address, file offset and size in the file.
    loads: Vec<[u64; 3]>,
    dynamic: u64,
    interpreter: Option<u64>,
    /// File offset and size.
    properties: Vec<[u64; 2]>,
}

impl Segments {
    fn read<B: ReadAt + ?Sized>(fields: &Fields<'_, B>) -> Result<Self> {
        let (start, count) = fields.segments();
        if count > MAX_SEGMENTS {
            return Err(Refused::Excessive);
        }
        let mut found =
            Self { loads: Vec::new(), dynamic: 0, interpreter: None, properties: Vec::new() };
        let mut dynamic = None;
        for number in 0..u64::from(count) {
            let segment = fields.segment(start, number)?;
            match segment.kind {
                PT_LOAD => found.loads.push([segment.address, segment.offset, segment.size]),
                PT_DYNAMIC => dynamic = Some(segment).filter(|segment| segment.size > 0),
                PT_INTERP => found.interpreter = Some(segment.offset),
                // Notes of another alignment are not looked at.
                PT_GNU_PROPERTY if segment.align == fields.class.word() => {
                    found.properties.push([segment.offset, segment.size]);
                }
                _ => {}
            }
        }
        found.dynamic = dynamic.ok_or(Refused::NotDynamic)?.offset;
        Ok(found)
    }

    /// Where an address of the loaded library is in the file; one in no segment is taken for an offset.
    fn file_offset(&self, address: u64) -> u64 {
        let holds = |[start, _, size]: &&[u64; 3]| {
            address.checked_sub(*start).is_some_and(|distance| distance < *size)
        };
        match self.loads.iter().find(holds) {
            Some([start, offset, _]) => address.wrapping_sub(*start).wrapping_add(*offset),
            None => address,
        }
    }

    /// Is there an interpreter that glibc 2 has (`SYSDEP_KNOWN_INTERPRETER_NAMES`)?
    fn interpreter_of_glibc<B: ReadAt + ?Sized>(&self, fields: &Fields<'_, B>) -> bool {
        const KNOWN: [&[u8]; 9] = [
            b"/lib/ld-linux.so.2",
            b"/lib/ld-linux.so.3",
            b"/lib/ld-linux-x86-64.so.2",
            b"/lib64/ld-linux-x86-64.so.2",
            b"/libx32/ld-linux-x32.so.2",
            b"/lib/ld-linux-armhf.so.3",
            b"/lib/ld-linux-aarch64.so.1",
            b"/lib/ld-linux-aarch64_be.so.1",
            b"/lib/ld.so.1",
        ];
        let name = self.interpreter.and_then(|offset| fields.string(offset, 0).ok());
        name.is_some_and(|name| KNOWN.contains(&name.as_slice()))
    }

    fn isa_level<B: ReadAt + ?Sized>(&self, fields: &Fields<'_, B>) -> u32 {
        let mut levels =
            self.properties.iter().filter_map(|[at, size]| property::isa_level(fields, *at, *size));
        levels.next_back().unwrap_or(0)
    }
}

/// The entries of a dynamic section that matter, each the first of its kind.
#[derive(Default)]
struct Dynamic {
    strings: Option<u64>,
    soname: Option<u64>,
    needed: Vec<u64>,
}

impl Dynamic {
    /// Reads up to the end, or as far as it takes to know all; `needed` says whether needs are part of that.
    fn read<B: ReadAt + ?Sized>(
        fields: &Fields<'_, B>,
        segments: &Segments,
        needed: bool,
    ) -> Result<Self> {
        let mut found = Self::default();
        let mut chunk = Vec::new();
        for number in 0..MAX_DYNAMIC {
            let (tag, value) = fields.dynamic(&mut chunk, segments.dynamic, number)?;
            match tag {
                DT_NULL => return Ok(found),
                DT_STRTAB if found.strings.is_none() => found.strings = Some(value),
                DT_SONAME if found.soname.is_none() => found.soname = Some(value),
                DT_NEEDED if needed => found.needed.push(value),
                _ => {}
            }
            if found.strings.is_some() && found.soname.is_some() && !needed {
                return Ok(found);
            }
        }
        Err(Refused::Excessive)
    }
}

#[cfg(test)]
pub(crate) mod tests;
