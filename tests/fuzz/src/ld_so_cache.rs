//! Caches: what is read can be written, what is written is read, and names have an order.

use std::collections::BTreeSet;

use nri_ldcache::ld_so_cache::{
    Cache, Entry, Hwcap, Merge, compare, compare_ranked, is_wild, libcmp,
};

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
    merged(cache, data);
}

/// Merges a cache that may be in no order, and not be one, with a new entry: what is kept says what it said.
fn merged(cache: Cache<'_>, data: &[u8]) {
    let [name, path] = [&b"libnew.so.1"[..], b"/new/libnew.so.1"];
    let new = [(Entry { name, path, flags: 0x303, hwcap: Hwcap::None }, 1)];
    let mut left_out = 0..;
    let merge = Merge::of(cache, |entry, dir| {
        // One of four is left out, and the others are of directories in any order.
        let rank = left_out.next().filter(|number| dir.is_some() && number % 4 != 1);
        Ok(rank.map(|number| number * 7 % 5).filter(|_| !matches!(entry.hwcap, Hwcap::Legacy(_))))
    });
    let Ok(merge) = merge else { return };
    let Ok(plan) = merge.plan(&new, &[b"x86-64-v2"], b"fuzz") else { return };
    let Ok(file) = plan.apply(data.to_vec().into()) else { return };
    let made = Cache::parse(&file).expect("a cache that was merged");
    assert_eq!(made.len(), merge.len() + 1);
    assert_eq!(made.generator(), Some(&b"fuzz"[..]));
    // Equals may have changed their places.
    let mut old: Vec<_> = cache.entries().filter_map(Result::ok).collect();
    for entry in made.entries().filter_map(Result::ok).filter(|entry| *entry != new[0].0) {
        let place = old.iter().position(|old| *old == entry);
        old.swap_remove(place.expect("an entry that says what one said"));
    }
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
    round(&entries, b"fuzz");
}

/// Writes entries and reads them again; then writes those of some directories, as a merge with the first file and without.
fn round(entries: &[Entry<'_>], generator: &[u8]) {
    let dirs: BTreeSet<_> = entries.iter().filter_map(|entry| dir(entry)).collect();
    let rank = |entry: &Entry<'_>| {
        let rank = dir(entry).map_or(0, |dir| dirs.iter().take_while(|it| **it <= dir).count());
        rank as u32
    };
    let mut ranked: Vec<_> = entries.iter().map(|entry| (*entry, rank(entry))).collect();
    // No ldconfig sorts such names in a way that could be said.
    let has_order = !entries.iter().any(|entry| is_wild(entry.name));
    if has_order {
        ranked.sort_by(compare_ranked);
    }
    let subdirectories: &[&[u8]] = &[b"x86-64-v2", b"x86-64-v3"];
    let write = |merge: &Merge<'_>, new: &[(Entry<'_>, u32)], old: &[u8]| {
        let plan = merge.plan(new, subdirectories, generator).expect("a small file");
        plan.apply(old.to_vec().into()).expect("the same file")
    };
    let written = write(&Merge::default(), &ranked, &[]);
    let cache = Cache::parse(&written).expect("a file that was written");
    assert_eq!(cache.generator(), Some(generator));
    let read = cache.entries().map(|entry| entry.expect("an entry"));
    assert!(read.eq(ranked.iter().map(|(entry, _)| *entry)), "other entries");
    // No loader looks for a name with a slash, and of which directory it is counts for nobody.
    if !has_order || entries.iter().any(|entry| entry.name.contains(&b'/')) {
        return;
    }
    // Some are kept, some are new, and some are gone; those without a directory are never kept.
    for (gone, turned) in (1..4).flat_map(|gone| [(gone, 0), (gone, u32::MAX)]) {
        let is_kept = |rank: u32| rank > 0 && rank % 3 == (gone + 1) % 3;
        // Directories may be searched in another order now.
        let merge = Merge::of(cache, |entry, _| {
            Ok(Some(rank(entry)).filter(|it| is_kept(*it)).map(|rank| rank ^ turned))
        });
        let merge = merge.expect("entries that were written");
        let all = ranked.iter().filter(|(_, rank)| rank % 3 != gone % 3);
        let mut all: Vec<_> = all.map(|(entry, rank)| (*entry, rank ^ turned)).collect();
        all.sort_by(compare_ranked);
        let (kept, new): (Vec<_>, Vec<_>) =
            all.iter().partition(|(_, rank)| is_kept(rank ^ turned));
        assert_eq!(merge.len(), kept.len());
        let anew = write(&Merge::default(), &all, &[]);
        assert!(write(&merge, &new, &written) == anew, "another file of the same entries");
    }
}

fn dir<'a>(entry: &Entry<'a>) -> Option<&'a [u8]> {
    let slash = entry.path.iter().rposition(|byte| *byte == b'/')?;
    entry.path.get(..slash)
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
