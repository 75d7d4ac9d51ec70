use std::cmp::Ordering;

use super::*;

fn entry<'a>(name: &'a str, path: &'a str) -> Entry<'a> {
    Entry { name: name.as_bytes(), path: path.as_bytes(), flags: 0x303, hwcap: Hwcap::None }
}

fn sample() -> Vec<u8> {
    let v3 = Hwcap::Subdirectory { name: b"x86-64-v3", isa_level: 2 };
    let entries = [
        Entry { hwcap: v3, ..entry("libb.so.2", "/l/glibc-hwcaps/x86-64-v3/libb.so.2.1") },
        entry("libb.so.2", "/l/libb.so.2"),
        Entry { flags: 3, hwcap: Hwcap::Legacy(1 << 50), ..entry("liba.so.1", "/k/liba.so.1") },
    ];
    write(entries.into_iter(), &[b"x86-64-v2"], b"tests", &[]).unwrap()
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
    let again = write(entries.into_iter(), &[b"x86-64-v2"], b"tests", &[]).unwrap();
    assert_eq!(again, file);
}

#[test]
fn strings_of_another_cache_give_the_same_file() {
    let file = sample();
    let cache = Cache::parse(&file).unwrap();
    let old: Vec<_> = cache.entries().map(Result::unwrap).collect();
    let new = [
        entry("liba.so.1", "/a/liba.so.1"), // goes to the end of the other, which has its name
        entry("liba.so.1", "/z/k/liba.so.1"), // has the other at its end
        entry("libb.so.2", "/l/libb.so.2"), // is there
        entry("libc.so", "/l/libz.so.1"),
    ];
    for chosen in 0u32..1 << 7 {
        let all = old.iter().chain(&new).enumerate();
        let entries = all.filter(|(at, _)| chosen & 1 << at != 0).map(|(_, entry)| *entry);
        let mut entries: Vec<_> = entries.collect();
        entries.sort_by(compare);
        let write = |old| write(entries.iter().copied(), &[b"x86-64-v4"], b"tests", old).unwrap();
        assert_eq!(write(cache.strings()), write(&[]), "{entries:?}");
    }
}

#[test]
fn strings_that_end_others_share_their_bytes() {
    let file = write([entry("libb.so.2", "/l/libb.so.2")].into_iter(), &[], b"", &[]).unwrap();
    let cache = Cache::parse(&file).unwrap();
    assert_eq!(number(cache.strings, 24), Some(13));
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
    let plain = write([entry("libb.so.2", "/l/libb.so.2")].into_iter(), &[], b"x", &[]).unwrap();
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
    let file = write([entry("libx.so", &longest)].into_iter(), &[], b"", &[]).unwrap();
    assert!(Cache::parse(&file).unwrap().entries().all(|entry| entry.is_ok()));
}

#[test]
fn no_damage_is_a_panic() {
    let file = sample();
    for at in 0..file.len() {
        for byte in [0, 1, 0x7f, 0xff] {
            let mut file = file.clone();
            file[at] = byte;
            if let Ok(cache) = Cache::parse(&file) {
                cache.entries().for_each(drop);
            }
        }
        if let Ok(cache) = Cache::parse(&file[..at]) {
            cache.entries().for_each(drop);
        }
    }
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
    assert!(is_wild(b"liba.so.20240101123456") && !is_wild(b"liba.so.0000000000123"));
}
