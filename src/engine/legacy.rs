//! What glibc gave up with version 2.37: subdirectories by platform and `AT_HWCAP`, and types of directories.

use crate::elf::{ANY_LIBC, LIBC6};

/// Hwcap bits by the names of subdirectories, where they are few: `_dl_string_hwcap`, `_dl_string_platform` and
/// `TLS_SUBPATH` of glibc 2.36 (sysdeps/x86/dl-procinfo.c, elf/ldconfig.c).
const SUBDIRECTORIES: &[(&[u8], u32)] = match std::env::consts::ARCH.as_bytes() {
    b"x86_64" => &[
        (b"sse2", 0),
        (b"x86_64", 1),
        (b"avx512_1", 2),
        (b"i586", 48),
        (b"i686", 49),
        (b"haswell", 50),
        (b"xeon_phi", 51),
        (b"tls", 63),
    ],
    b"aarch64" => &[(b"atomics", 8), (b"tls", 63)],
    _ => &[(b"tls", 63)],
};

/// Is it the name of a subdirectory that ldconfig would search?
pub(super) fn is_subdirectory(name: &[u8]) -> bool {
    bit(name).is_some()
}

fn bit(name: &[u8]) -> Option<u32> {
    SUBDIRECTORIES.iter().find(|(known, _)| *known == name).map(|(_, bit)| *bit)
}

/// The bits of the last components of a path, up to the first that is no such name (`path_hwcap`).
pub(super) fn hwcap(path: &[u8]) -> u64 {
    // What is before the first slash is not looked at.
    let start = path.iter().position(|byte| *byte == b'/').map_or(path.len(), |slash| slash + 1);
    let parts = path.get(start..).unwrap_or_default().rsplit(|byte| *byte == b'/');
    parts.map_while(bit).fold(0, |hwcap: u64, bit| hwcap.wrapping_add(1 << bit))
}

/// The flags of a type that stands behind a directory's `=`; one that is not known says nothing.
pub(super) fn library_type(name: &[u8]) -> Option<i32> {
    match name {
        b"libc4" => Some(0),
        b"libc5" => Some(2),
        b"libc6" | b"glibc2" => Some(LIBC6),
        _ => None,
    }
}

/// The flags of the newer of two libraries with one name.
pub(super) fn merge(first: i32, newer: i32) -> i32 {
    let is_typed = |flags| matches!(flags, 2 | LIBC6);
    match (first, newer) {
        (ANY_LIBC, newer) if is_typed(newer) => newer,
        (first, ANY_LIBC) if is_typed(first) => ANY_LIBC,
        (first, _) => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn paths_have_the_bits_of_their_ends() {
        for (path, expected) in [
            ("/lib", 0),
            ("/lib/haswell", 1 << 50),
            ("/lib/haswell/avx512_1", 1 << 50 | 1 << 2),
            ("/tls/lib", 0),
            ("/lib/tls/x86_64", 1 << 63 | 1 << 1),
        ] {
            assert_eq!(hwcap(path.as_bytes()), expected, "{path}");
        }
    }

    #[test]
    fn types_merge_as_in_ldconfig() {
        assert_eq!([merge(1, 3), merge(3, 1), merge(3, 3), merge(0x303, 3)], [3, 1, 3, 0x303]);
    }
}
