//! The parts of the format of glibc 2.33 and newer, byte for byte as `save_cache` writes them (elf/cache.c).

use anyhow::{Context, Result};

use super::{
    ENDIAN, EXTENSION_BIT, EXTENSION_HEADER, EXTENSION_MAGIC, HEADER, Hwcap, ISA_MASK, MAGIC,
    SECTION, TAG_GENERATOR, TAG_HWCAPS,
};

/// What a file starts with.
pub(super) fn header(entries: usize, strings: usize, extensions: usize) -> Result<[u8; HEADER]> {
    let mut header = MAGIC.to_vec();
    header.extend(u32::try_from(entries).context("count entries")?.to_ne_bytes());
    header.extend(u32::try_from(strings).context("measure strings")?.to_ne_bytes());
    header.extend([ENDIAN, 0, 0, 0]);
    header.extend(u32::try_from(extensions).context("place extensions")?.to_ne_bytes());
    header.resize(HEADER, 0);
    header.as_slice().try_into().context("make header")
}

/// What an entry says of its subdirectory, of those that are used, by name.
pub(super) fn field(hwcap: &Hwcap<'_>, used: &[&[u8]]) -> Result<u64> {
    Ok(match hwcap {
        Hwcap::None => 0,
        Hwcap::Legacy(bits) => *bits,
        Hwcap::Subdirectory { name, isa_level } => {
            let index = used.binary_search(name).ok().context("find hwcaps subdirectory")?;
            (EXTENSION_BIT | u64::from(*isa_level) & ISA_MASK) << 32 | index as u64
        }
    })
}

/// What a file ends with, from a place on: the directory, the offsets of the subdirectories' names if there are any, and the
/// generator.
pub(super) fn extensions(place: usize, names: &[u32], generator: &[u8]) -> Result<Vec<u8>> {
    let sections = if names.is_empty() { 1 } else { 2 };
    let start = place + EXTENSION_HEADER + sections * SECTION;
    let end = start + names.len() * 4;
    let mut bytes = Vec::with_capacity(end + generator.len() - place);
    bytes.extend(EXTENSION_MAGIC.to_ne_bytes());
    bytes.extend(u32::try_from(sections)?.to_ne_bytes());
    let mut section = |tag: u32, offset: usize, size: usize| -> Result<()> {
        let (offset, size) = (u32::try_from(offset)?, u32::try_from(size)?);
        [tag, 0, offset, size].iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        Ok(())
    };
    section(TAG_GENERATOR, end, generator.len())?;
    if !names.is_empty() {
        section(TAG_HWCAPS, start, names.len() * 4)?;
    }
    names.iter().for_each(|name| bytes.extend(name.to_ne_bytes()));
    bytes.extend(generator);
    Ok(bytes)
}
