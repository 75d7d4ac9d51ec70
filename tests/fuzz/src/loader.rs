//! Loaders and their path files: what glibc's says is harmless in a cache, and musl's finds what it found, behind what was added.

use nri_ldcache::fuzzing;
use nri_ldcache::update::LibDir;

/// What a musl loader searches without a file.
const DEFAULT: &[u8] = b"/lib:/usr/local/lib:/usr/lib";

/// Reads an input as a loader of glibc, and as a path file of musl's.
pub fn check(data: &[u8]) {
    glibc(data);
    musl(data);
}

fn glibc(data: &[u8]) {
    let glibc = fuzzing::glibc(data);
    let generator = glibc.generator();
    assert!(generator.len() < 300 && !generator.contains(&0) && !generator.contains(&b'\n'));
    match generator.strip_prefix(b"ldconfig ") {
        Some(banner) => assert!(data.windows(banner.len()).any(|part| part == banner)),
        None => assert!(generator.starts_with(b"nri-ldcache ") && !glibc.is_legacy()),
    }
    assert!(!glibc.is_legacy() || !glibc.skips_temporary_files());
    for dirs in [true, false].map(|debian| glibc.system_dirs(debian)) {
        assert!(!dirs.is_empty() && dirs.len() <= 48);
        for dir in dirs {
            let text = dir.escape_ascii();
            assert!(dir.starts_with(b"/") && dir.len() < 300, "{text}");
            assert!(dir.iter().all(u8::is_ascii_graphic), "{text}");
        }
    }
    // What a cache says of its maker is what the loader said.
    let taken = fuzzing::glibc(b"").or_generator(Some(&generator));
    assert_eq!(taken.generator(), generator);
    assert_eq!(taken.is_legacy(), glibc.is_legacy());
    assert_eq!(taken.skips_temporary_files(), glibc.skips_temporary_files());
    let any = fuzzing::glibc(b"").or_generator(Some(data));
    assert!(any.generator().len() < 300);
    // The last banner counts, whatever is before it.
    let text = b"\0ld.so (X) stable release version 2.31.\nCopyright\0";
    let last = fuzzing::glibc(&[data, text].concat());
    assert_eq!(last.generator(), b"ldconfig (X) stable release version 2.31");
    assert!(last.is_legacy());
}

fn musl(before: &[u8]) {
    let words = before.split(|byte| b"\n:\0".contains(byte));
    let dirs = words.filter_map(|word| str::from_utf8(word).ok()?.parse::<LibDir>().ok());
    let odd = "/a:b".parse::<LibDir>().expect("a directory");
    let new = "/usr/local/nvidia/lib64".parse().expect("a directory");
    let dirs: Vec<_> = dirs.step_by(2).take(4).chain([odd, new]).collect();
    let dirs: Vec<_> = dirs.iter().map(LibDir::as_str).collect();
    for before in [None, Some(before)] {
        let after = fuzzing::searched(&dirs, before).expect("a directory to add");
        let mut expected: Vec<_> = dirs.iter().map(|dir| dir.as_bytes()).collect();
        expected.retain(|dir| !dir.contains(&b':'));
        let known = expected.clone();
        let others = read(before.unwrap_or(DEFAULT)).into_iter();
        expected.extend(others.filter(|dir| !known.contains(dir)));
        assert_eq!(read(&after), expected);
        assert_eq!(fuzzing::searched(&dirs, Some(&after)), Some(after));
        assert_eq!(fuzzing::searched(&["/a:b"], before), None);
    }
}

/// What musl searches, as `path_open` cuts it, byte by byte: what getdelim(3) read until a NUL, at any of the colons and newlines.
fn read(file: &[u8]) -> Vec<&[u8]> {
    let (mut dirs, mut rest) = (Vec::new(), file);
    loop {
        while let [b':' | b'\n', tail @ ..] = rest {
            rest = tail;
        }
        let end = rest.iter().position(|byte| b":\n\0".contains(byte)).unwrap_or(rest.len());
        if end == 0 {
            return dirs;
        }
        dirs.push(&rest[..end]);
        rest = &rest[end..];
    }
}
