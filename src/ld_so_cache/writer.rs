//! Writes the format of glibc 2.33 and newer, byte for byte as `save_cache` does (elf/cache.c).

use anyhow::{Context, Result};

use super::strings;
use super::{
    ENDIAN, ENTRY, EXTENSION_BIT, EXTENSION_HEADER, EXTENSION_MAGIC, Entry, HEADER, Hwcap,
    ISA_MASK, MAGIC, SECTION, TAG_GENERATOR, TAG_HWCAPS,
};

/// Bytes that new strings and extensions have, so that a file with few of them is not moved while it is made.
const SPARE: usize = 16 << 10;

/// Makes a cache file of entries in their order.
///
/// `subdirectories` are the names of all those of glibc-hwcaps that were looked into: ldconfig leaves them in its strings,
/// whether a library was found there or not. `old` are the strings of another cache, in which those of entries may lie; none
/// give the same file, later.
pub fn write<'a>(
    entries: impl ExactSizeIterator<Item = Entry<'a>> + Clone,
    subdirectories: &[&'a [u8]],
    generator: &[u8],
    old: &'a [u8],
) -> Result<Vec<u8>> {
    let used = used(entries.clone());
    let start = HEADER + entries.len() * ENTRY;
    let mut file = Vec::with_capacity(start + old.len() + SPARE);
    file.resize(start, 0);
    let strings = entries.clone().flat_map(|entry| [entry.name, entry.path]);
    let strings = strings.chain(subdirectories.iter().copied()).chain(used.iter().copied());
    let places = strings::append(&mut file, old, strings).context("make string table")?;
    let (end, size) = (file.len().next_multiple_of(4), file.len() - start);
    file.resize(end, 0);
    let mut head = Vec::with_capacity(start);
    header(&mut head, entries.len(), size, end)?;
    let pairs = places.as_chunks().0;
    for (entry, [name, path]) in entries.zip(pairs) {
        head.extend(entry.flags.to_ne_bytes());
        head.extend(name.to_ne_bytes());
        head.extend(path.to_ne_bytes());
        head.extend([0; 4]);
        head.extend(field(&entry.hwcap, &used)?.to_ne_bytes());
    }
    file.get_mut(..start).context("find entries")?.copy_from_slice(&head);
    let (_, names) = places.split_at_checked(places.len() - used.len()).context("find names")?;
    extensions(&mut file, names, generator)?;
    Ok(file)
}

/// The subdirectories that entries are in, by name.
fn used<'a>(entries: impl Iterator<Item = Entry<'a>>) -> Vec<&'a [u8]> {
    let mut used: Vec<&[u8]> = Vec::new();
    for entry in entries {
        if let Hwcap::Subdirectory { name, .. } = entry.hwcap
            && let Err(place) = used.binary_search(&name)
        {
            used.insert(place, name);
        }
    }
    used
}

fn header(file: &mut Vec<u8>, entries: usize, strings: usize, extensions: usize) -> Result<()> {
    file.extend(MAGIC);
    file.extend(u32::try_from(entries).context("count entries")?.to_ne_bytes());
    file.extend(u32::try_from(strings).context("measure strings")?.to_ne_bytes());
    file.extend([ENDIAN, 0, 0, 0]);
    file.extend(u32::try_from(extensions).context("place extensions")?.to_ne_bytes());
    file.resize(HEADER, 0);
    Ok(())
}

fn field(hwcap: &Hwcap<'_>, used: &[&[u8]]) -> Result<u64> {
    Ok(match hwcap {
        Hwcap::None => 0,
        Hwcap::Legacy(bits) => *bits,
        Hwcap::Subdirectory { name, isa_level } => {
            let index = used.binary_search(name).ok().context("find hwcaps subdirectory")?;
            (EXTENSION_BIT | u64::from(*isa_level) & ISA_MASK) << 32 | index as u64
        }
    })
}

/// The directory, the offsets of the subdirectories' names if there are any, and the generator.
fn extensions(file: &mut Vec<u8>, names: &[u32], generator: &[u8]) -> Result<()> {
    let sections = if names.is_empty() { 1 } else { 2 };
    let start = file.len() + EXTENSION_HEADER + sections * SECTION;
    let end = start + names.len() * 4;
    file.extend(EXTENSION_MAGIC.to_ne_bytes());
    file.extend(u32::try_from(sections)?.to_ne_bytes());
    let mut section = |tag: u32, offset: usize, size: usize| -> Result<()> {
        let (offset, size) = (u32::try_from(offset)?, u32::try_from(size)?);
        [tag, 0, offset, size].iter().for_each(|word| file.extend(word.to_ne_bytes()));
        Ok(())
    };
    section(TAG_GENERATOR, end, generator.len())?;
    if !names.is_empty() {
        section(TAG_HWCAPS, start, names.len() * 4)?;
    }
    names.iter().for_each(|name| file.extend(name.to_ne_bytes()));
    file.extend(generator);
    Ok(())
}
