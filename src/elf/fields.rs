//! Fields of ELF files of both classes, in this machine's byte order.

use super::{AHEAD, Arch, EM_386, EM_X86_64, ET_DYN, HEAD, ReadAt, Refused, Result};

/// Least bytes of a library: the header of a 64-bit one, which ldconfig asks of all.
const HEADER: usize = 64;
/// Linux itself loads nothing with more program headers than a page holds (fs/binfmt_elf.c, `load_elf_phdrs`: 64 KiB).
const MAX_SEGMENTS: u16 = 1170;
/// Longest name that is of any use as a file name or in a path (`PATH_MAX`, limits.h).
const MAX_NAME: usize = 4096;
/// Dynamic entries that are read at once; most sections fit.
const CHUNK: u64 = 40;
/// Bytes of a string that are read at once.
const STRING: usize = 128;

/// 32-bit or 64-bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Elf32,
    Elf64,
}

impl Class {
    /// Bytes of an address.
    pub(super) fn word(self) -> u64 {
        match self {
            Self::Elf32 => 4,
            Self::Elf64 => 8,
        }
    }
}

/// A file and its first bytes.
#[derive(Debug)]
pub(super) struct Head<B> {
    bytes: B,
    head: Box<[u8; HEAD]>,
    filled: usize,
}

impl<B: ReadAt> Head<B> {
    pub(super) fn read(bytes: B) -> Result<Self> {
        let mut head = Self { bytes, head: Box::new([0; HEAD]), filled: 0 };
        head.filled = read_full(&head.bytes, head.head.as_mut_slice(), 0)?;
        head.check()?;
        Ok(head)
    }

    /// Tells that these bytes will be read, if that was not told with the start of the file.
    pub(super) fn will_read(&self, offset: u64, size: u64) {
        let is_behind = offset.checked_add(size).is_some_and(|end| end > AHEAD);
        if is_behind && self.filled == HEAD {
            self.bytes.will_read(offset, size);
        }
    }

    /// The order of questions is that of `process_file` in elf/readlib.c.
    fn check(&self) -> Result<()> {
        let head = &self.head[..self.filled];
        if head.is_empty() {
            return Err(Refused::Empty);
        }
        if head.len() < HEADER {
            return Err(Refused::Truncated);
        }
        // OMAGIC's relatives ZMAGIC and QMAGIC in the low half of the first word (a.out.h).
        if matches!(u16_at(head, 0), 0o413 | 0o314) {
            return Err(Refused::Aout);
        }
        if head.starts_with(b"\x7fELF") {
            return Ok(());
        }
        if head.starts_with(b"!<arch>\n") || head.starts_with(b"!<thin>\n") {
            return Err(Refused::Archive);
        }
        let text = &head[..head.len().min(512)];
        let has = |word: &[u8]| text.windows(word.len()).any(|window| window == word);
        Err(if has(b"GROUP") || has(b"GNU ld script") { Refused::Script } else { Refused::NotElf })
    }

    pub(super) fn machine(&self) -> u16 {
        u16_at(self.head.as_slice(), 18)
    }

    pub(super) fn flags(&self, class: Class) -> u32 {
        u32_at(self.head.as_slice(), if class == Class::Elf64 { 48 } else { 36 })
    }

    /// The class, if it and the machine are of `arch`.
    pub(super) fn class(&self, arch: Arch) -> Result<Class> {
        let kind = u16_at(self.head.as_slice(), 16);
        if kind != ET_DYN {
            return Err(Refused::Type(kind));
        }
        let class = match self.head[4] {
            1 => Class::Elf32,
            2 => Class::Elf64,
            other => return Err(Refused::Class(other)),
        };
        match (arch, self.machine(), class) {
            (Arch::X86_64, EM_X86_64, _) | (Arch::X86_64, EM_386, Class::Elf32) => Ok(class),
            (Arch::X86_64, other, _) => Err(Refused::Machine(other)),
            // Others' ldconfig does not look at the machine.
            _ => Ok(class),
        }
    }

    /// Reads as many bytes as there are.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let end = offset.checked_add(buffer.len() as u64);
        // No file ends behind the largest off_t, and pread(2) takes no larger one.
        let end = end.filter(|end| i64::try_from(*end).is_ok()).ok_or(Refused::Truncated)?;
        // A head that is not full is the whole file.
        if end <= self.filled as u64 || self.filled < HEAD {
            let head = self.head.get(..self.filled).unwrap_or_default();
            return head.read_at(buffer, offset).map_err(Refused::Unreadable);
        }
        read_full(&self.bytes, buffer, offset)
    }
}

fn read_full(bytes: &impl ReadAt, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let at = offset.checked_add(filled as u64).ok_or(Refused::Truncated)?;
        match bytes.read_at(rest, at) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Refused::Unreadable(error)),
        }
    }
    Ok(filled)
}

/// A program header.
pub(super) struct Segment {
    pub(super) kind: u32,
    pub(super) flags: u32,
    pub(super) offset: u64,
    pub(super) address: u64,
    pub(super) size: u64,
    pub(super) align: u64,
}

/// A file whose class is known.
pub(super) struct Fields<'a, B> {
    head: &'a Head<B>,
    pub(super) class: Class,
}

impl<'a, B: ReadAt> Fields<'a, B> {
    pub(super) fn new(head: &'a Head<B>, class: Class) -> Self {
        Self { head, class }
    }

    /// The program headers.
    pub(super) fn segments(&self) -> Result<impl Iterator<Item = Result<Segment>>> {
        let head = self.head.head.as_slice();
        let (start, count) = match self.class {
            Class::Elf32 => (u32_at(head, 28).into(), u16_at(head, 44)),
            Class::Elf64 => (u64_at(head, 32), u16_at(head, 56)),
        };
        if count > MAX_SEGMENTS {
            return Err(Refused::Excessive);
        }
        Ok((0..u64::from(count)).map(move |number| self.segment(start, number)))
    }

    fn segment(&self, start: u64, number: u64) -> Result<Segment> {
        let size = if self.class == Class::Elf64 { 56 } else { 32 };
        let offset = start.checked_add(number * size).ok_or(Refused::Truncated)?;
        let mut bytes = [0; 56];
        let bytes = &mut bytes[..size as usize];
        self.exact(bytes, offset)?;
        let long = |at| u64_at(bytes, at);
        let short = |at| u64::from(u32_at(bytes, at));
        let kind = u32_at(bytes, 0);
        Ok(match self.class {
            Class::Elf32 => Segment {
                kind,
                flags: u32_at(bytes, 24),
                offset: short(4),
                address: short(8),
                size: short(16),
                align: short(28),
            },
            Class::Elf64 => Segment {
                kind,
                flags: u32_at(bytes, 4),
                offset: long(8),
                address: long(16),
                size: long(32),
                align: long(48),
            },
        })
    }

    /// Tells that the dynamic section at `start` will be read.
    pub(super) fn will_read_dynamic(&self, start: u64) {
        self.head.will_read(start, CHUNK * 2 * self.class.word());
    }

    /// Tells that a string will be read.
    pub(super) fn will_read_string(&self, start: u64, at: u64) {
        self.head.will_read(start.saturating_add(at), STRING as u64);
    }

    /// Tag and value of an entry of the dynamic section at `start`; `chunk` keeps what was read for the next ones.
    pub(super) fn dynamic(
        &self,
        chunk: &mut Vec<u8>,
        start: u64,
        number: u64,
    ) -> Result<(u64, u64)> {
        let size = 2 * self.class.word();
        if number.is_multiple_of(CHUNK) {
            let offset = start.checked_add(number * size).ok_or(Refused::Truncated)?;
            chunk.resize((CHUNK * size) as usize, 0);
            let filled = self.head.read_at(chunk, offset)?;
            chunk.truncate(filled);
        }
        let at = (number % CHUNK * size) as usize;
        let entry = chunk.get(at..at + size as usize).ok_or(Refused::Truncated)?;
        Ok(match self.class {
            Class::Elf32 => (u32_at(entry, 0).into(), u32_at(entry, 4).into()),
            Class::Elf64 => (u64_at(entry, 0), u64_at(entry, 8)),
        })
    }

    /// A string that ends with a NUL, or with the file.
    pub(super) fn string(&self, start: u64, at: u64) -> Result<Vec<u8>> {
        let offset = start.checked_add(at).ok_or(Refused::Truncated)?;
        let mut name = Vec::new();
        let mut chunk = [0; STRING];
        while name.len() <= MAX_NAME {
            let from = offset.checked_add(name.len() as u64).ok_or(Refused::Truncated)?;
            let filled = self.head.read_at(&mut chunk, from)?;
            if filled == 0 && name.is_empty() {
                return Err(Refused::Truncated);
            }
            let read = chunk.get(..filled).unwrap_or_default();
            let end = read.iter().position(|byte| *byte == 0);
            name.extend_from_slice(read.get(..end.unwrap_or(filled)).unwrap_or_default());
            if end.is_some() || filled < chunk.len() {
                return Ok(name);
            }
        }
        Err(Refused::LongName)
    }

    /// Is a string one of these, which have their NUL? No more of it is read: a library can need as many as it has entries.
    pub(super) fn is_string<const N: usize>(&self, start: u64, at: u64, of: &[[u8; N]]) -> bool {
        let mut bytes = [0; N];
        let offset = start.checked_add(at);
        let read = offset.is_some_and(|offset| self.head.read_at(&mut bytes, offset).is_ok());
        read && of.contains(&bytes)
    }

    pub(super) fn exact(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        match self.head.read_at(buffer, offset)? == buffer.len() {
            true => Ok(()),
            false => Err(Refused::Truncated),
        }
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    number(bytes, at).map_or(0, u16::from_ne_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    number(bytes, at).map_or(0, u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    number(bytes, at).map_or(0, u64::from_ne_bytes)
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}
