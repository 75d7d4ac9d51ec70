//! Libraries: whatever a file is, it is read with few and short reads, and however they are cut, it says the same.

use std::cell::Cell;
use std::io::{self, Read};

use nri_ldcache::elf::{Arch, Library, ReadAt, ReadOnly, Refused};

/// Bytes that one file may cost: its head, program headers, the dynamic section, and as many names as that has needs.
const MOST_BYTES: u64 = 80 << 20;
/// The longest name that is taken: a path, and the rest of a read.
const LONGEST: usize = 4096 + 128;

/// Constants that are asked for: less than some files have.
const CONSTANTS: u64 = 1000;

/// Reads a file as the ldconfigs of all architectures do.
pub fn check(data: &[u8]) {
    for arch in [Arch::X86_64, Arch::Aarch64, Arch::Other(0x1003)] {
        let whole = Metered::new(data, usize::MAX);
        let library = Library::read(&whole, arch);
        assert!(whole.bytes.get() <= MOST_BYTES, "{} bytes read", whole.bytes.get());
        let cut = Library::read(Metered::new(data, 7), arch);
        assert_eq!(told(&library), told(&cut), "short reads make a difference");
        assert_eq!(told(&library), told(&Library::read(data, arch)));
        let Ok(library) = library else { continue };
        assert!(library.soname.is_none_or(|name| name.len() <= LONGEST && !name.contains(&0)));
        assert!(library.isa_level < 32 && library.flags & 0xff == 3, "{:#x}", library.flags);
        assert!(data.len() >= 64 && data.starts_with(b"\x7fELF"));
    }
    let whole = Metered::new(data, usize::MAX);
    let found = constants(&whole);
    // The head, the program headers, and what was asked for.
    assert!(whole.bytes.get() <= 4096 + 1170 * 56 + CONSTANTS, "{} bytes read", whole.bytes.get());
    // Of each segment a byte was asked for, and has a NUL behind it.
    assert!(found.as_ref().map_or(0, Vec::len) as u64 <= 2 * CONSTANTS);
    assert_eq!(found, constants(Metered::new(data, 7)));
}

fn constants(file: impl ReadAt) -> Option<Vec<u8>> {
    let mut found = Vec::new();
    ReadOnly::of(file, CONSTANTS).ok()?.read_to_end(&mut found).ok()?;
    Some(found)
}

fn told(library: &Result<Library, Refused>) -> String {
    match library {
        Ok(library) => format!("{library:?}"),
        Err(refused) => refused.to_string(),
    }
}

/// A file that counts what is asked of it, and gives little at once.
struct Metered<'a> {
    file: &'a [u8],
    most: usize,
    bytes: Cell<u64>,
}

impl<'a> Metered<'a> {
    fn new(file: &'a [u8], most: usize) -> Self {
        Self { file, most, bytes: Cell::new(0) }
    }
}

impl ReadAt for Metered<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        // pread(2) takes an off_t.
        if i64::try_from(offset).is_err() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let len = buffer.len().min(self.most);
        let count = self.file.read_at(&mut buffer[..len], offset)?;
        self.bytes.set(self.bytes.get() + count as u64);
        Ok(count)
    }
}
