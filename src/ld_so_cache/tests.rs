use std::cmp::Ordering;
use std::io;

use super::*;
use crate::blocks::Blocks;

fn entry<'a>(name: &'a str, path: &'a str) -> Entry<'a> {
    Entry { name: name.as_bytes(), path: path.as_bytes(), flags: 0x303, hwcap: Hwcap::None }
}

fn write(entries: &[Entry<'_>], subdirectories: &[&[u8]], generator: &[u8]) -> Vec<u8> {
    let ranked: Vec<_> = entries.iter().map(|entry| (*entry, 0)).collect();
    let plan = Merge::default().plan(&ranked, subdirectories, generator).unwrap();
    plan.apply(Vec::new().into()).unwrap().into()
}

fn sample() -> Vec<u8> {
    let v3 = Hwcap::Subdirectory { name: b"x86-64-v3", isa_level: 2 };
    let entries = [
        Entry { hwcap: v3, ..entry("libb.so.2", "/l/glibc-hwcaps/x86-64-v3/libb.so.2.1") },
        entry("libb.so.2", "/l/libb.so.2"),
        Entry { flags: 3, hwcap: Hwcap::Legacy(1 << 50), ..entry("liba.so.1", "/k/liba.so.1") },
    ];
    write(&entries, &[b"x86-64-v2"], b"tests")
}

#[test]
fn what_is_written_is_read() {
    let file = sample();
    let cache = Cache::parse(&file).unwrap();
    assert_eq!((cache.format(), cache.len()), (Format::New, 3));
    assert_eq!(cache.generator(), Some(&b"tests"[..]));
    let entries: Vec<_> = cache.entries().map(Result::unwrap).collect();
    assert_eq!(entries[0].hwcap, Hwcap::Subdirectory { name: b"x86-64-v3", isa_level: 2 });
    assert_eq!(entries[1], entry("libb.so.2", "/l/libb.so.2"));
    assert_eq!((entries[2].flags, entries[2].hwcap), (3, Hwcap::Legacy(1 << 50)));
    let again = write(&entries, &[b"x86-64-v2"], b"tests");
    assert_eq!(again, file);
}

#[test]
fn a_merge_is_what_all_would_be_written_as() {
    let file = sample();
    let cache = Cache::parse(&file).unwrap();
    let old: Vec<_> = cache.entries().map(|entry| (entry.unwrap(), 0)).collect();
    let new = [
        entry("liba.so.1", "/a/liba.so.1"), // goes to the end of the other, which has its name
        entry("liba.so.1", "/z/k/liba.so.1"), // has the other at its end
        entry("libb.so.2", "/l/libb.so.2"), // is there
        entry("libc.so", "/l/libz.so.1"),
    ];
    let new = new.map(|entry| (entry, 1));
    for chosen in 0u32..1 << 7 {
        let mut index = 0;
        let mut is_chosen = || {
            index += 1;
            chosen & 1 << (index - 1) != 0
        };
        let merge = Merge::of(cache, |_, _| Ok(is_chosen().then_some(0))).unwrap();
        let new = new.iter().filter(|_| is_chosen()).copied();
        let mut new: Vec<_> = new.collect();
        new.sort_by(|left, right| compare(&left.0, &right.0));
        let kept = old.iter().enumerate().filter(|(index, _)| chosen & 1 << index != 0);
        let mut all: Vec<_> = kept.map(|(_, entry)| *entry).chain(new.iter().copied()).collect();
        all.sort_by(compare_ranked);
        let plan = |merge: &Merge<'_>, new: &[_]| merge.plan(new, &[b"x86-64-v4"], b"tests");
        let merged = plan(&merge, &new).unwrap().apply(file.clone().into()).unwrap();
        let anew = plan(&Merge::default(), &all).unwrap().apply(Vec::new().into()).unwrap();
        assert_eq!(merged, anew, "{all:?}");
        assert_eq!(Cache::parse(&merged).unwrap().len(), all.len());
    }
}

#[test]
fn a_kept_directory_is_kept_as_a_whole() {
    let names = ["libd.so.4", "libc.so.3", "libb.so.2", "liba.so.1"];
    let paths = names.map(|name| format!("/l/{name}"));
    let entries: Vec<_> = names.iter().zip(&paths).map(|(name, path)| entry(name, path)).collect();
    let file = write(&entries, &[], b"");
    let mut asked = Vec::new();
    let merge = Merge::of(Cache::parse(&file).unwrap(), |entry, dir| {
        asked.push((entry.name, dir));
        Ok((entry.name != b"libd.so.4").then_some(7))
    });
    assert_eq!(merge.unwrap().len(), 3);
    // The last entry may have an empty name.
    let names = [&b"libd.so.4"[..], b"libc.so.3", b"liba.so.1"];
    assert_eq!(asked, names.map(|name| (name, Some(&b"/l"[..]))));
}

#[test]
fn equals_follow_the_order_of_their_directories() {
    let paths = ["/k/libb.so.2", "/l/libb.so.2", "/m/libb.so.2", "/k/liba.so.1", "/l/liba.so.1"];
    let name = |path: &'static str| &path[3..];
    let entries: Vec<_> = paths.iter().map(|path| entry(name(path), path)).collect();
    let file = write(&entries, &[b"x86-64-v3"], b"");
    for ranks in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let rank = |entry: &Entry<'_>| ranks[usize::from(entry.path[1] - b'k')];
        let merge = Merge::of(Cache::parse(&file).unwrap(), |entry, _| Ok(Some(rank(entry))));
        let merge = merge.unwrap();
        assert_eq!(merge.len(), entries.len());
        let merged =
            merge.plan(&[], &[b"x86-64-v3"], b"").unwrap().apply(file.clone().into()).unwrap();
        let mut sorted = entries.clone();
        sorted.sort_by(|left, right| compare(left, right).then(rank(left).cmp(&rank(right))));
        assert_eq!(*merged, *write(&sorted, &[b"x86-64-v3"], b""), "{ranks:?}");
    }
}

#[test]
fn numbers_that_overflow_are_found_in_names_and_not_in_directories() {
    for (name, path, is_wild) in [
        ("liba.so.1", "/build-20240101123456/liba.so.1", false),
        ("liba.so.20240101123456", "/l/liba.so.20240101123456", true),
    ] {
        let file = write(&[entry(name, path)], &[], b"");
        let merge = Merge::of(Cache::parse(&file).unwrap(), |_, _| Ok(Some(0)));
        assert_eq!(merge.is_err(), is_wild, "{path}");
    }
}

#[test]
fn names_are_found_as_the_loader_finds_them() {
    let of = |name, path, flags| Entry { flags, ..entry(name, path) };
    let entries = [
        of("libb.so.10", "/l/libb.so.10", 0x303),
        of("libb.so.2", "/l/libb.so.2", 0x303),
        of("libb.so.2", "/m/libb.so.2", 0x303),
        of("libb.so.2", "/l32/libb.so.2", 3),
        of("liba.so.1", "/l/liba.so.1", 0x303),
    ];
    let file = write(&entries, &[], b"");
    let cache = Cache::parse(&file).unwrap();
    for (name, flags, path) in [
        ("libb.so.10", None, Some("/l/libb.so.10")),
        ("libb.so.2", Some(0x303), Some("/l/libb.so.2")),
        ("libb.so.2", Some(3), Some("/l32/libb.so.2")),
        ("libb.so.02", None, Some("/l/libb.so.2")), // so does the loader
        ("libb.so.2", Some(0x403), None),
        ("libb.so.2", Some(0), None),
        ("liba.so.1", Some(3), None),
        ("liba.so", None, None),
        ("libc.so", None, None),
    ] {
        let found = cache.find(name.as_bytes(), flags).map(|entry| entry.path);
        assert_eq!(found, path.map(str::as_bytes), "{name}");
    }
    // A name that stands where it does not belong is not found.
    let file = write(&[entries[4], entries[0], entries[1]], &[], b"");
    assert_eq!(Cache::parse(&file).unwrap().find(b"liba.so.1", None), None);
    assert_eq!(Cache::parse(&write(&[], &[], b"")).unwrap().find(b"x", None), None);
}

#[test]
fn strings_that_end_others_share_their_bytes() {
    let file = write(&[entry("libb.so.2", "/l/libb.so.2")], &[], b"");
    let cache = Cache::parse(&file).unwrap();
    assert_eq!((number(&file[..], 24), cache.lines().bytes().len()), (Some(13), 13));
    assert!(cache.entries().all(|entry| entry.is_ok_and(|entry| entry.name == b"libb.so.2")));
}

#[test]
fn old_formats_are_read() {
    let mut old = OLD_MAGIC.to_vec();
    old.extend(1u32.to_ne_bytes());
    for word in [3u32, 0, 5] {
        old.extend(word.to_ne_bytes());
    }
    let strings = [&old[..], b"liba\0/liba\0"].concat();
    let cache = Cache::parse(&strings).unwrap();
    assert_eq!(cache.format(), Format::Old);
    let found = cache.entries().next().unwrap().unwrap();
    assert_eq!((found.name, found.path, found.flags), (&b"liba"[..], &b"/liba"[..], 3));
    old.resize(old.len().next_multiple_of(8), 0);
    let plain = write(&[entry("libb.so.2", "/l/libb.so.2")], &[], b"x");
    let mut both = [old, plain].concat();
    // Extensions count from the start of the file.
    let moved = both.len();
    both[32 + 32..32 + 36].copy_from_slice(&0u32.to_ne_bytes());
    let cache = Cache::parse(&both).unwrap();
    assert_eq!((cache.format(), cache.len(), both.len()), (Format::Both, 1, moved));
    assert_eq!(cache.entries().next().unwrap().unwrap(), entry("libb.so.2", "/l/libb.so.2"));
}

#[test]
fn damage_is_named() {
    let file = sample();
    let changed = |at: usize, word: u32| {
        let mut file = file.clone();
        file[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        Cache::parse(&file)
            .err()
            .or_else(|| Cache::parse(&file).unwrap().entries().find_map(Result::err))
    };
    for (at, word, reason) in [
        (0, 0, Some(Malformed::Magic)),
        (20, 1 << 30, Some(Malformed::Truncated)),
        (28, 1, Some(Malformed::Endian)),
        (32, 2, Some(Malformed::Extension)),
        (32, u32::MAX - 3, Some(Malformed::Extension)),
        (52, u32::MAX, Some(Malformed::Entry(0))),
        (28, 0, None),
    ] {
        assert_eq!(changed(at, word), reason, "{at} {word}");
    }
    assert_eq!(Cache::parse(&file[..40]).unwrap_err(), Malformed::Truncated);
}

#[test]
fn entries_that_share_a_long_string_are_refused_soon() {
    let count = 20_000u32;
    let mut file = MAGIC.to_vec();
    file.extend(count.to_ne_bytes());
    file.resize(HEADER, 0);
    let strings = HEADER as u32 + count * ENTRY as u32;
    for _ in 0..count {
        let words = [3, strings, strings, 0, 0, 0];
        words.iter().for_each(|word| file.extend(word.to_ne_bytes()));
    }
    file.resize(16 << 20, b'x');
    file.push(0);
    let cache = Cache::parse(&file).unwrap();
    assert_eq!(cache.entries().filter(Result::is_err).count(), count as usize);
    let longest = ["/", &"x".repeat(MAX_STRING - 2)].concat();
    let file = write(&[entry("libx.so", &longest)], &[], b"");
    assert!(Cache::parse(&file).unwrap().entries().all(|entry| entry.is_ok()));
}

/// A file, of which only what is looked at is read.
fn blocks(bytes: &[u8]) -> Blocks {
    let mut file = tempfile::tempfile().unwrap();
    io::Write::write_all(&mut file, bytes).unwrap();
    Blocks::of(file, bytes.len())
}

#[test]
fn no_damage_is_a_panic_and_a_file_says_what_it_says_in_memory() {
    let file = sample();
    let check = |file: &[u8]| {
        let blocks = blocks(file);
        match (Cache::parse(file), Cache::of(&blocks)) {
            (Ok(one), Ok(other)) => {
                assert_eq!((one.format(), one.generator()), (other.format(), other.generator()));
                assert!(one.entries().eq(other.entries()));
            }
            (one, other) => assert_eq!(one.unwrap_err(), other.unwrap_err()),
        }
    };
    for at in 0..file.len() {
        for byte in [0, 1, 0x7f, 0xff] {
            let mut file = file.clone();
            file[at] = byte;
            check(&file);
        }
        check(&file[..at]);
    }
}

#[test]
fn who_wrote_a_file_is_told_in_few_bytes_or_not() {
    for (size, told) in [(MAX_STRING, true), (MAX_STRING + 1, false)] {
        let generator = vec![b'x'; size];
        let file = write(&[entry("libb.so.2", "/l/libb.so.2")], &[], &generator);
        let (blocks, told) = (blocks(&file), told.then_some(&generator[..]));
        assert_eq!(Cache::parse(&file).unwrap().generator(), told);
        assert_eq!(Cache::of(&blocks).unwrap().generator(), told);
    }
}

#[test]
fn little_of_a_large_file_is_looked_at_to_find_a_name() {
    let names: Vec<_> = (0..5000).map(|at| format!("libx.so.{at}")).rev().collect();
    let paths: Vec<_> = names.iter().map(|name| format!("/l/{name}")).collect();
    let entries: Vec<_> = names.iter().zip(&paths).map(|(name, path)| entry(name, path)).collect();
    let file = write(&entries, &[], b"");
    let blocks = blocks(&file);
    let cache = Cache::of(&blocks).unwrap();
    for entry in [entries[0], entries[1], entries[2500], entries[4999]] {
        assert_eq!(cache.find(entry.name, Some(0x303)), Some(entry));
    }
    assert_eq!(cache.find(b"liby.so.1", None), None);
    assert!(blocks.read() * 2 < file.len(), "{} of {}", blocks.read(), file.len());
}

#[test]
fn names_are_ordered_by_their_numbers() {
    for (less, more) in [
        ("liba.so.1", "liba.so.2"),
        ("liba.so.9", "liba.so.10"),
        ("liba.so", "liba.so.1"),
        ("liba-x.so", "liba1.so"),
        ("liba.so.1", "libb.so.1"),
        ("liba.so.1.2", "liba.so.1.2.1"),
    ] {
        assert_eq!(libcmp(less.as_bytes(), more.as_bytes()), Ordering::Less, "{less} {more}");
        assert_eq!(libcmp(more.as_bytes(), less.as_bytes()), Ordering::Greater, "{less} {more}");
    }
    assert_eq!(libcmp(b"liba.so.01", b"liba.so.1"), Ordering::Equal);
    // Each is less than the other: their difference overflows.
    let wild: [&[u8]; 2] = [b"liba.so.2147483649", b"liba.so.1"];
    assert_eq!(libcmp(wild[0], wild[1]), Ordering::Less);
    assert_eq!(libcmp(wild[1], wild[0]), Ordering::Less);
}

#[test]
fn numbers_of_more_than_nine_digits_are_wild_wherever_they_are() {
    for (before, zeros, digits, after) in (0..25usize)
        .flat_map(|before| (0..12).map(move |zeros| (before, zeros)))
        .flat_map(|(before, zeros)| (0..25).map(move |digits| (before, zeros, digits, digits % 12)))
    {
        let other = ["a1-", "b23456789c", "000000000000d", "7."][before % 4];
        let parts = [&"x".repeat(before), other, &"0".repeat(zeros), &"7".repeat(digits), "-8"];
        let name = parts.concat() + &"y9".repeat(after);
        assert_eq!(is_wild(name.as_bytes()), digits > 9, "{name}");
    }
    assert!(is_wild(b"liba.so.20240101123456") && !is_wild(b"liba.so.0000000000123"));
}
