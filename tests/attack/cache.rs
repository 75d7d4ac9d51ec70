//! Caches that an image may have and no ldconfig has written (elf/cache.c of glibc, `struct cache_file_new`).

use std::fs::{self, File};
use std::path::Path;

use anyhow::Result;

const HEADER: usize = 48;
const ENTRY: usize = 24;

/// A cache with these names and paths, whose header says that it has `count` entries.
fn cache(count: u32, libraries: &[(&str, &str)]) -> Vec<u8> {
    let (mut entries, mut strings) = (Vec::new(), Vec::new());
    let base = HEADER + ENTRY * libraries.len();
    for (name, path) in libraries {
        let key = base + strings.len();
        strings.extend(name.bytes().chain([0]));
        let value = base + strings.len();
        strings.extend(path.bytes().chain([0]));
        // FLAG_ELF_LIBC6 | FLAG_X8664_LIB64
        for field in [0x303, key as u32, value as u32, 0, 0, 0] {
            entries.extend(u32::to_le_bytes(field));
        }
    }
    let mut bytes = b"glibc-ld.so.cache1.1".to_vec();
    bytes.extend(count.to_le_bytes());
    bytes.extend((strings.len() as u32).to_le_bytes());
    bytes.extend([2, 0, 0, 0]); // little-endian
    bytes.resize(HEADER, 0);
    [bytes, entries, strings].concat()
}

pub(super) fn sparse(path: &Path) -> Result<()> {
    fs::write(path, cache(1, &[("libx.so.1", "/usr/lib/libx.so.1")]))?;
    Ok(File::options().write(true).open(path)?.set_len(1 << 40)?)
}

pub(super) fn cut(path: &Path) -> Result<()> {
    let whole = cache(2, &[("libx.so.1", "/usr/lib/libx.so.1"), ("liba.so.1", "/liba.so.1")]);
    Ok(fs::write(path, &whole[..HEADER + ENTRY + 7])?)
}

pub(super) fn countless(path: &Path) -> Result<()> {
    Ok(fs::write(path, cache(u32::MAX, &[("libx.so.1", "/usr/lib/libx.so.1")]))?)
}

pub(super) fn wild(path: &Path) -> Result<()> {
    let mut bytes = cache(1, &[("libx.so.1", "/usr/lib/libx.so.1")]);
    bytes[HEADER + 4..HEADER + 12].fill(0xff);
    Ok(fs::write(path, bytes)?)
}

/// What is not searched, what is no path, and the driver elsewhere.
pub(super) fn lying(path: &Path) -> Result<()> {
    let libraries = [
        ("libz.so.1", "/vol/usr/lib/libz.so.1"),
        ("liby.so.1", "../../../vol/liby.so.1"),
        ("libx\n.so.1", "/proc/1/root/usr/lib/libx.so.1"),
        ("libcuda.so.1", "/vol/usr/lib/libcuda.so.1"),
        ("", ""),
    ];
    Ok(fs::write(path, cache(5, &libraries))?)
}
