use std::io::Read;

use super::dynamic::{DT_NEEDED, DT_NULL, DT_SONAME, DT_STRTAB};
use super::segments::{PT_DYNAMIC, PT_GNU_PROPERTY};
use super::*;

/// A 64-bit library: header, program headers, dynamic section, strings, all in one segment at address 0x1000.
pub(crate) fn library(soname: &[u8], isa: Option<u32>) -> Vec<u8> {
    let mut file = vec![0; 64];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    put(&mut file, 16, &3u16.to_ne_bytes());
    put(&mut file, 18, &EM_X86_64.to_ne_bytes());
    put(&mut file, 32, &64u64.to_ne_bytes());
    put(&mut file, 56, &3u16.to_ne_bytes());
    let (dynamic, strings, note) = (232u64, 280u64, 600u64);
    for (kind, offset, size, align) in
        [(1, 0, 4096, 4096), (2, dynamic, 48, 8), (PT_GNU_PROPERTY, note, 32, 8u64)]
    {
        let kind: u32 = if isa.is_none() && kind == PT_GNU_PROPERTY { 0 } else { kind };
        file.extend(kind.to_ne_bytes());
        file.extend(4u32.to_ne_bytes());
        for field in [offset, 0x1000 + offset, 0, size, size, align] {
            file.extend(u64::to_ne_bytes(field));
        }
    }
    for (tag, value) in [(DT_SONAME, 1), (DT_STRTAB, 0x1000 + strings), (DT_NULL, 0)] {
        file.extend(tag.to_ne_bytes());
        file.extend(u64::to_ne_bytes(value));
    }
    file.push(0);
    file.extend(soname);
    file.resize(note as usize, 0);
    for word in [4, 16, 5, u32::from_ne_bytes(*b"GNU\0"), GNU_ISA, 4, isa.unwrap_or(0), 0] {
        file.extend(word.to_ne_bytes());
    }
    file
}

const GNU_ISA: u32 = 0xc000_8002;

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn read(file: &[u8]) -> Result<Library> {
    Library::read(file, Arch::X86_64)
}

#[test]
fn libraries_say_their_names_and_levels() {
    for (isa, level) in [(None, 0), (Some(0), 0), (Some(1), 0), (Some(3), 1), (Some(0xf), 3)] {
        let found = read(&library(b"libx.so.1", isa)).unwrap();
        assert_eq!(found.soname.as_deref(), Some(&b"libx.so.1"[..]));
        assert_eq!((found.flags, found.isa_level), (0x303, level));
    }
}

#[test]
fn other_files_are_refused_with_their_reason() {
    let whole = library(b"libx.so.1", None);
    let changed = |at: usize, bytes: &[u8]| {
        let mut file = whole.clone();
        put(&mut file, at, bytes);
        file
    };
    let text = |text: &[u8]| [text, &[b' '; 64]].concat();
    for (file, reason) in [
        (Vec::new(), "empty"),
        (b"\x7fELF".to_vec(), "truncated"),
        (text(b"/* GNU ld script */"), "a linker script"),
        (text(b"INPUT(x) GROUP ( y )"), "a linker script"),
        (text(b"!<arch>\n"), "an archive"),
        (text(b"\x0b\x01"), "an a.out file"),
        (text(b"#!/bin/sh"), "not an ELF file"),
        (changed(4, &[3]), "of ELF class 3"),
        (changed(16, &2u16.to_ne_bytes()), "of ELF type 2, not a shared object"),
        (changed(18, &183u16.to_ne_bytes()), "for machine 183"),
        (changed(4, &[1]), "without a dynamic section"),
        (changed(32, &u64::MAX.to_ne_bytes()), "truncated"),
        (changed(56, &u16::MAX.to_ne_bytes()), "of more parts than a library has"),
        (changed(56, &0u16.to_ne_bytes()), "without a dynamic section"),
        (whole[..100].to_vec(), "truncated"),
    ] {
        assert_eq!(read(&file).unwrap_err().to_string(), reason);
    }
    assert!(matches!(
        read(&library(&[b'x'; 5000], None)),
        Err(Refused::LongName | Refused::Truncated) | Ok(_)
    ));
}

#[test]
fn offsets_that_no_file_has_are_behind_its_end() {
    let mut library = library(b"libx.so.1", None);
    library.resize(2 * HEAD, 0);
    let mut file = tempfile::tempfile().unwrap();
    for offset in [u64::MAX, u64::MAX - 100, i64::MAX as u64, 1 << 63] {
        put(&mut library, 32, &offset.to_ne_bytes());
        std::io::Seek::rewind(&mut file).unwrap();
        std::io::Write::write_all(&mut file, &library).unwrap();
        for found in [read(&library), Library::read(&file, Arch::X86_64)] {
            assert_eq!(found.unwrap_err().to_string(), "truncated", "{offset:#x}");
        }
    }
}

#[test]
fn no_damage_is_a_panic() {
    let whole = library(b"libx.so.1", Some(7));
    for at in 0..whole.len() {
        for byte in [0, 1, 0x7f, 0x80, 0xff] {
            let mut file = whole.clone();
            file[at] = byte;
            let _ = read(&file);
            let _ = Library::read(file.as_slice(), Arch::Aarch64);
        }
        let _ = read(&whole[..at]);
    }
}

/// A file, and how many bytes of it were read.
struct Counted(Vec<u8>, std::cell::Cell<usize>);

impl ReadAt for Counted {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let count = self.0.read_at(buffer, offset)?;
        self.1.set(self.1.get() + count);
        Ok(count)
    }
}

#[test]
fn many_needs_of_long_names_are_cheap() {
    const COUNT: usize = 16_000;
    let (strings, dynamic) = (0x1000u32, 0x4000u32);
    let mut file = vec![b'x'; dynamic as usize];
    file[..52].fill(0);
    file[..5].copy_from_slice(b"\x7fELF\x01");
    put(&mut file, 16, &ET_DYN.to_ne_bytes());
    put(&mut file, 18, &EM_386.to_ne_bytes());
    put(&mut file, 28, &52u32.to_ne_bytes());
    put(&mut file, 44, &2u16.to_ne_bytes());
    let size = (COUNT as u32 + 2) * 8;
    for (at, [kind, offset, size]) in [(52, [1, 0, u32::MAX]), (84, [PT_DYNAMIC, dynamic, size])] {
        [kind, offset, offset, 0, size, 0, 0, 4].iter().enumerate().for_each(|(field, word)| {
            put(&mut file, at + 4 * field, &word.to_ne_bytes());
        });
    }
    let needs = std::iter::repeat_n([DT_NEEDED as u32, 1], COUNT);
    let entries = [[DT_STRTAB as u32, strings]].into_iter().chain(needs).chain([[0, 0]]);
    file.extend(entries.flatten().flat_map(u32::to_ne_bytes));
    let needed = dynamic as usize + 8 * COUNT + 4;
    let mut whole = Counted(file, Default::default());
    assert!(!Library::read(&whole, Arch::X86_64).unwrap().names_libc6);
    assert!(whole.1.get() < 512 << 10, "{} bytes", whole.1.get());
    put(&mut whole.0, strings as usize + 5000, b"libm.so.6\0");
    put(&mut whole.0, needed, &5000u32.to_ne_bytes());
    assert!(Library::read(&whole, Arch::X86_64).unwrap().names_libc6);
}

/// A file, what was told to be read of it, and what was read without being told.
#[derive(Debug, Default)]
struct Slow {
    file: Vec<u8>,
    told: std::cell::RefCell<Vec<std::ops::Range<u64>>>,
    untold: std::cell::RefCell<Vec<u64>>,
}

impl ReadAt for Slow {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let end = offset + buffer.len() as u64;
        let is_told = |told: &std::ops::Range<u64>| told.start <= offset && end <= told.end;
        if !self.told.borrow().iter().any(is_told) {
            self.untold.borrow_mut().push(offset);
        }
        self.file.read_at(buffer, offset)
    }

    fn will_read(&self, offset: u64, size: u64) {
        self.told.borrow_mut().push(offset..offset + size);
    }
}

#[test]
fn what_a_step_reads_was_told_before() {
    let mut file = library(b"libx.so.1", None);
    let (dynamic, strings) = (0x9000u64, 0x20000u64);
    put(&mut file, 64 + 32, &0x4_0000u64.to_ne_bytes());
    put(&mut file, 64 + 56 + 8, &dynamic.to_ne_bytes());
    file.resize(0x4_0000, 0);
    for (at, word) in [DT_SONAME, 1, DT_STRTAB, 0x1000 + strings, DT_NULL, 0].iter().enumerate() {
        put(&mut file, dynamic as usize + 8 * at, &word.to_ne_bytes());
    }
    put(&mut file, strings as usize + 1, b"libfar.so.2");
    let slow = Slow { file, ..Slow::default() };
    let headed = Opened::new(&slow).head(Arch::X86_64).unwrap();
    let linked = headed.dynamic().unwrap();
    assert_eq!(slow.told.borrow().len(), 3, "{:?}", slow.told);
    assert_eq!(linked.library().unwrap().soname.as_deref(), Some(&b"libfar.so.2"[..]));
    assert!(slow.untold.borrow().is_empty(), "{:x?} of {:x?}", slow.untold, slow.told);
}

#[test]
fn constants_are_what_is_only_read() {
    let mut file = library(b"libx.so.1", None);
    file.resize(0x300, 0);
    for (number, flags, offset, size) in
        [(0usize, 4u32, 0x100u64, 4u64), (1, 5, 0x104, 4), (2, 4, 0x2fe, 100)]
    {
        let at = 64 + 56 * number;
        put(&mut file, at, &PT_LOAD.to_ne_bytes());
        put(&mut file, at + 4, &flags.to_ne_bytes());
        put(&mut file, at + 8, &offset.to_ne_bytes());
        put(&mut file, at + 32, &size.to_ne_bytes());
    }
    put(&mut file, 0x100, b"readexec");
    put(&mut file, 0x2fe, b"st");
    let found = |file: &[u8], limit| {
        let mut found = Vec::new();
        ReadOnly::of(file, limit).unwrap().read_to_end(&mut found).unwrap();
        found
    };
    assert_eq!(found(&file, 1000), b"read\0st\0");
    assert_eq!(found(&file, 2), b"re\0");
    // What is not there is asked for once.
    put(&mut file, 64 + 8, &0x1000u64.to_ne_bytes());
    assert_eq!(found(&file, 5), b"\0s\0");
    put(&mut file, 16, &2u16.to_ne_bytes());
    assert!(ReadOnly::of(file.as_slice(), 1000).is_err());
}
