//! Caches: what is read can be written, what is written is read, and names have an order.

use nri_ldcache::ld_so_cache::{Cache, Entry, Hwcap, compare, is_wild, libcmp, write};

/// Reads an input as a cache if it begins as one, else as lines of name, path, flags and the subdirectory of glibc-hwcaps.
pub fn check(data: &[u8]) {
    if data.starts_with(b"glibc-ld.so") || data.starts_with(b"ld.so-1.7.0") {
        file(data);
    } else {
        lines(data);
    }
}

fn file(data: &[u8]) {
    let Ok(cache) = Cache::parse(data) else { return };
    assert!(cache.len() <= data.len() / 12);
    assert_eq!(cache.entries().count(), cache.len());
    let mut read = Vec::new();
    for entry in cache.entries() {
        let Ok(entry) = entry else { continue };
        assert!(!entry.name.contains(&0) && !entry.path.contains(&0));
        // Bits that look like an extension that is not there may become one in another file.
        if !matches!(entry.hwcap, Hwcap::Legacy(bits) if bits >> 62 != 0) {
            read.push(entry);
        }
    }
    round(&read, cache.generator().unwrap_or_default());
}

fn lines(data: &[u8]) {
    let mut entries: Vec<Entry<'_>> = Vec::new();
    let lines = data.split(|byte| *byte == b'\n');
    for line in lines.filter(|line| !line.contains(&0) && line.len() < 4000) {
        let mut words = line.split(|byte| *byte == b' ');
        let mut word = || words.next().unwrap_or_default();
        let (name, path, flags, hwcap) = (word(), word(), word(), word());
        let number = |text: &[u8]| str::from_utf8(text).ok()?.parse::<u32>().ok();
        let flags = number(flags).unwrap_or(0x303).cast_signed();
        let hwcap = match (hwcap, number(hwcap)) {
            (b"", _) | (_, Some(0)) => Hwcap::None,
            (_, Some(bits)) => Hwcap::Legacy(bits.into()),
            (name, None) => Hwcap::Subdirectory { name, isa_level: name.len() as u32 % 8 },
        };
        entries.push(Entry { name, path, flags, hwcap });
    }
    for [one, two, three] in entries.as_chunks().0 {
        ordered([one, two, three]);
    }
    // No ldconfig sorts such names in a way that could be said.
    if !entries.iter().any(|entry| is_wild(entry.name)) {
        entries.sort_by(compare);
    }
    round(&entries, b"fuzz");
}

/// Writes entries and reads them again; then writes some of them, with the help of the first file and without.
fn round(entries: &[Entry<'_>], generator: &[u8]) {
    let subdirectories: &[&[u8]] = &[b"x86-64-v2", b"x86-64-v3"];
    let write = |entries: &[Entry<'_>], old: &[u8]| {
        write(entries.iter().copied(), subdirectories, generator, old).expect("a small file")
    };
    let written = write(entries, &[]);
    let cache = Cache::parse(&written).expect("a file that was written");
    assert_eq!(cache.generator(), Some(generator));
    let mut read: Vec<_> = cache.entries().map(|entry| entry.expect("an entry")).collect();
    assert_eq!(read, entries);
    assert!(write(&read, cache.strings()) == written, "another file of the same entries");
    // Some are read anew, and some are gone.
    read.iter_mut().zip(entries).step_by(2).for_each(|(read, entry)| *read = *entry);
    let mut number = 0;
    read.retain(|_| {
        number += 1;
        number % 3 != 0
    });
    assert!(write(&read, cache.strings()) == write(&read, &[]), "the help is none");
}

/// Is the order of three names one?
fn ordered(entries: [&Entry<'_>; 3]) {
    let [a, b, c] = entries.map(|entry| entry.name);
    assert!(libcmp(a, a).is_eq());
    if [a, b, c].iter().any(|name| is_wild(name)) {
        return;
    }
    assert_eq!(libcmp(a, b), libcmp(b, a).reverse());
    if libcmp(a, b).is_le() && libcmp(b, c).is_le() {
        assert!(libcmp(a, c).is_le(), "no order");
    }
    let [a, b, c] = entries;
    assert_eq!(compare(a, b), compare(b, a).reverse());
    if compare(a, b).is_le() && compare(b, c).is_le() {
        assert!(compare(a, c).is_le(), "no order");
    }
}
