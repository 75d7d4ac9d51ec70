//! Linker configurations: what we take for known, ldconfig knows, and with what we add, it knows all that was wanted.

use std::collections::BTreeSet;

use nri_ldcache::fuzzing::{Files, LdSoConf, plain};
use nri_ldcache::update::LibDir;

const CONF: &[u8] = b"/etc/ld.so.conf";
const FIRST: &[u8] = b"/etc/ld.so.conf.d/00-nvcr-ldcache.conf";
const SYSTEM: [&str; 2] = ["/lib", "/usr/lib"];

/// Reads an input as files: the first is `/etc/ld.so.conf`, and a line `== PATH` begins another.
pub fn check(data: &[u8]) {
    // With more wildcards, a fuzzer sees to it that all limits are reached, and gets slow.
    if data.iter().filter(|byte| b"*?[".contains(byte)).count() > 8 {
        return;
    }
    let (mut files, mut path) = (Files::new(), CONF.to_vec());
    let mut wanted: Vec<LibDir> = Vec::new();
    for line in data.split_inclusive(|byte| *byte == b'\n') {
        match line.strip_prefix(b"== ") {
            Some(name) => path = plain(name.trim_ascii_end()),
            None => files.entry(path.clone()).or_default().extend(line),
        }
        let dir = str::from_utf8(line).ok().and_then(|line| line.trim().parse().ok());
        wanted.extend(dir.filter(|dir| !wanted.contains(dir) && wanted.len() < 20));
    }
    wanted.extend(["/usr/local/nvidia/lib64", "/lib"].map(|dir| dir.parse().expect("a directory")));
    files.entry(CONF.to_vec()).or_insert(b"include /etc/ld.so.conf.d/*.conf\n".into());
    // What is refused for its size is.
    if let Ok(conf) = LdSoConf::read(&files) {
        refresh(files, &conf, &wanted);
    }
}

/// Does to the files what a refresh does.
fn refresh(mut files: Files, conf: &LdSoConf, wanted: &[LibDir]) {
    let known = Ldconfig::read(&files).dirs;
    for dir in conf.dirs() {
        assert_eq!(dir.parse::<LibDir>().map(|dir| dir.to_string()).ok().as_deref(), Some(dir));
        assert!(known.contains(dir.as_bytes()), "ldconfig does not know {dir:?}");
    }
    let missing = conf.missing(wanted, &SYSTEM);
    let all = wanted.iter().map(LibDir::as_str);
    let expected = all.filter(|dir| !conf.dirs().contains(dir) && !SYSTEM.contains(dir));
    assert!(missing.iter().copied().eq(expected));

    files.remove(FIRST);
    if !missing.is_empty() {
        let text = format!("# nri-ldcache: added for this container\n{}\n", missing.join("\n"));
        files.insert(FIRST.to_vec(), text.into());
    }
    let ldconfig = Ldconfig::read(&files);
    for dir in wanted.iter().map(LibDir::as_str).filter(|dir| !SYSTEM.contains(dir)) {
        let argument = !conf.includes_ours() && missing.contains(&dir);
        assert!(argument || ldconfig.dirs.contains(dir.as_bytes()), "{dir:?} is not searched");
    }
    if let Ok(again) = LdSoConf::read(&files) {
        assert_eq!(again.missing(wanted, &SYSTEM), missing, "a second run does something else");
    }
}

/// glibc's reading of a configuration, byte by byte; of patterns, it takes more than glibc does.
#[derive(Default)]
struct Ldconfig {
    dirs: BTreeSet<Vec<u8>>,
    seen: BTreeSet<Vec<u8>>,
}

impl Ldconfig {
    fn read(files: &Files) -> Self {
        let mut ldconfig = Self::default();
        ldconfig.file(files, CONF);
        ldconfig
    }

    fn file(&mut self, files: &Files, path: &[u8]) {
        let Some(text) = files.get(path) else { return };
        if !self.seen.insert(path.to_owned()) {
            return;
        }
        for line in text.split(|byte| *byte == b'\n') {
            let end = line.iter().position(|byte| b"#\0".contains(byte));
            let line = &line[..end.unwrap_or(line.len())];
            let Some(start) = line.iter().position(|byte| !is_space(*byte)) else { continue };
            match &line[start..] {
                [b'i', b'n', b'c', b'l', b'u', b'd', b'e', b' ' | b'\t', rest @ ..] => {
                    for pattern in rest.split(|byte| b" \t".contains(byte)) {
                        self.include(files, path, pattern);
                    }
                }
                dir => self.dir(dir),
            }
        }
    }

    fn dir(&mut self, line: &[u8]) {
        let end = line.iter().rposition(|byte| !is_space(*byte)).map_or(0, |last| last + 1);
        let parts = line[..end].split(|byte| *byte == b'/');
        let parts = parts.filter(|part| !part.is_empty() && *part != b".");
        if line.starts_with(b"/") {
            self.dirs.insert([b"/", &parts.collect::<Vec<_>>().join(&b'/')[..]].concat());
        }
    }

    fn include(&mut self, files: &Files, from: &[u8], pattern: &[u8]) {
        let last = pattern.split(|byte| *byte == b'/').rfind(|part| !part.is_empty());
        let wild = last.is_some_and(|last| last.iter().any(|byte| b"*?[\\".contains(byte)));
        if pattern.is_empty() || pattern.ends_with(b"/") && wild {
            return;
        }
        let base = from.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let base = if pattern.starts_with(b"/") { b"" } else { &from[..base] };
        let pattern = plain(&[base, b"/", pattern].concat());
        let pattern: Vec<_> = pattern.split(|byte| *byte == b'/').collect();
        for path in files.keys() {
            let names: Vec<_> = path.split(|byte| *byte == b'/').collect();
            let fits = |(part, name): (&&[u8], &&[u8])| {
                let wild = part.first().is_some_and(|first| b"*?".contains(first));
                !(name.starts_with(b".") && wild) && fits(part, name)
            };
            if names.len() == pattern.len() && pattern.iter().zip(&names).all(fits) {
                self.file(files, path);
            }
        }
    }
}

/// isspace(3) of the C locale.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// fnmatch(3), but that a bracket or a backslash may stand for anything.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    // Where in the pattern one may be, as a set, byte by byte.
    let mut at = vec![false; pattern.len() + 1];
    at[0] = true;
    let skip = |at: &mut Vec<bool>| {
        for (index, byte) in pattern.iter().enumerate() {
            at[index + 1] |= at[index] && *byte == b'*';
        }
    };
    if pattern.iter().any(|byte| b"[\\".contains(byte)) {
        return true;
    }
    skip(&mut at);
    for byte in name {
        let mut next = vec![false; at.len()];
        for (index, part) in pattern.iter().enumerate().filter(|(index, _)| at[*index]) {
            next[index] |= *part == b'*';
            next[index + 1] |= *part == b'?' || part == byte;
        }
        at = next;
        skip(&mut at);
    }
    at[pattern.len()]
}
