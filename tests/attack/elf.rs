//! Shared objects with any SONAME, also such as no linker would write.

use std::env::consts::ARCH;

const HEADER: u64 = 64;
const SEGMENT: u64 = 56;
const DYNAMIC: u64 = HEADER + 2 * SEGMENT;
const STRINGS: u64 = DYNAMIC + 4 * 16;

/// The bytes of an ELF shared object that is nothing but its SONAME.
pub(crate) fn shared_object(soname: &[u8]) -> Vec<u8> {
    let strings = 2 + soname.len() as u64;
    let end = STRINGS + strings;
    let mut bytes = header();
    segment(&mut bytes, 1, 0, end);
    segment(&mut bytes, 2, DYNAMIC, STRINGS - DYNAMIC);
    // DT_STRTAB, DT_STRSZ, DT_SONAME, DT_NULL
    for (tag, value) in [(5, STRINGS), (10, strings), (14, 1), (0, 0)] {
        bytes.extend(u64::to_le_bytes(tag));
        bytes.extend(u64::to_le_bytes(value));
    }
    bytes.push(0);
    bytes.extend(soname);
    bytes.push(0);
    bytes
}

fn header() -> Vec<u8> {
    let machine: u16 = if ARCH == "aarch64" { 183 } else { 62 };
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    bytes.extend(3u16.to_le_bytes()); // ET_DYN
    bytes.extend(machine.to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(HEADER.to_le_bytes());
    bytes.extend([0; 12]); // no sections, no flags
    for size in [HEADER as u16, SEGMENT as u16, 2, 64, 0, 0] {
        bytes.extend(size.to_le_bytes());
    }
    bytes
}

/// PT_LOAD is 1, PT_DYNAMIC is 2; addresses are offsets.
fn segment(bytes: &mut Vec<u8>, kind: u32, offset: u64, size: u64) {
    bytes.extend(kind.to_le_bytes());
    bytes.extend(4u32.to_le_bytes());
    for value in [offset, offset, offset, size, size, 8] {
        bytes.extend(value.to_le_bytes());
    }
}
