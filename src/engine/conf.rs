//! The lines of `ld.so.conf` that are directories, in ldconfig's order.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::glob;
use crate::root::Root;

const CONF: &[u8] = b"/etc/ld.so.conf";

/// What a whole configuration may cost to read: an image has one of a few hundred bytes.
const FILE_LIMIT: u64 = 1 << 20;
const MAX_FILES: usize = 1000;
const MAX_MATCHES: usize = 10_000;
const MAX_LINES: usize = 100_000;
/// No path is longer (`PATH_MAX`, limits.h), and so is none that a longer pattern matches.
const MAX_PATTERN: usize = 4096;
/// ldconfig follows includes until it runs out of descriptors, and then goes on without.
const MAX_DEPTH: usize = 32;

/// Reads the configuration as `parse_conf` does (elf/ldconfig.c).
pub(super) fn lines(root: &Root) -> Result<Vec<Vec<u8>>> {
    let mut conf = Conf { root, lines: Vec::new(), files: 0, matches: 0 };
    conf.file(CONF, 0)?;
    Ok(conf.lines)
}

struct Conf<'a> {
    root: &'a Root,
    lines: Vec<Vec<u8>>,
    files: usize,
    matches: usize,
}

impl Conf<'_> {
    fn file(&mut self, path: &[u8], depth: usize) -> Result<()> {
        self.files += 1;
        ensure!(self.files <= MAX_FILES, "ld.so.conf includes more than {MAX_FILES} files");
        // One that can't be read is passed over.
        let text = self.root.read(Path::new(OsStr::from_bytes(path)), FILE_LIMIT);
        let Ok(Some(text)) = text else { return Ok(()) };
        for line in text.split(|byte| *byte == b'\n') {
            let line = line.split(|byte| matches!(byte, 0 | b'#')).next().unwrap_or_default();
            self.line(trim_start(line), path, depth)?;
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8], path: &[u8], depth: usize) -> Result<()> {
        let blank = |at: usize| matches!(line.get(at), Some(b' ' | b'\t'));
        if line.starts_with(b"include") && blank(7) {
            let patterns = line.get(8..).unwrap_or_default();
            for pattern in patterns.split(|byte| matches!(byte, b' ' | b'\t')) {
                self.include(pattern, path, depth)?;
            }
        } else if !(line.is_empty()
            || line.get(..5).is_some_and(|word| word.eq_ignore_ascii_case(b"hwcap")) && blank(5))
        {
            ensure!(self.lines.len() < MAX_LINES, "ld.so.conf has more than {MAX_LINES} lines");
            self.lines.push(line.to_owned());
        }
        Ok(())
    }

    fn include(&mut self, pattern: &[u8], from: &[u8], depth: usize) -> Result<()> {
        if pattern.is_empty() || depth >= MAX_DEPTH {
            return Ok(());
        }
        let base = from.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let pattern = match pattern.starts_with(b"/") {
            true => pattern.to_owned(),
            false => [from.get(..base).unwrap_or_default(), b"/", pattern].concat(),
        };
        // A wildcard with a slash behind it means directories. (A plain name means itself, as if there were none.)
        let last = pattern.split(|byte| *byte == b'/').rfind(|part| !part.is_empty());
        let directories = pattern.ends_with(b"/") && last.is_some_and(glob::is_pattern);
        if pattern.len() >= MAX_PATTERN || directories {
            return Ok(());
        }
        let mut paths = self.expand(&pattern)?;
        // glob(3) sorts what it found as whole paths.
        paths.sort();
        paths.iter().try_for_each(|path| self.file(path, depth + 1))
    }

    /// Expands a pattern as glob(3) does: component by component.
    fn expand(&mut self, pattern: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut paths = vec![Vec::new()];
        // The components since the last one with a wildcard.
        let mut plain = Vec::new();
        for part in pattern.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            if !glob::is_pattern(part) {
                plain.extend([b"/", part].concat());
                continue;
            }
            let mut next = Vec::new();
            for path in paths {
                self.names(&[path, plain.clone()].concat(), part, &mut next)?;
            }
            paths = next;
            plain.clear();
        }
        Ok(paths.into_iter().map(|path| [path, plain.clone()].concat()).collect())
    }

    fn names(&mut self, dir: &[u8], part: &[u8], found: &mut Vec<Vec<u8>>) -> Result<()> {
        let path = if dir.is_empty() { b"/" } else { dir };
        // Looking costs something, too, where nothing is found.
        self.matches += 1;
        for name in self.root.list(Path::new(OsStr::from_bytes(path)))? {
            self.matches += 1;
            ensure!(self.matches <= MAX_MATCHES, "includes look at over {MAX_MATCHES} names");
            if name != b"." && name != b".." && glob::matches(part, &name) {
                found.push([dir, b"/", &name].concat());
            }
        }
        Ok(())
    }
}

/// Without what isspace(3) of the C locale takes.
fn trim_start(line: &[u8]) -> &[u8] {
    let start = line.iter().position(|byte| !is_space(*byte));
    start.and_then(|start| line.get(start..)).unwrap_or_default()
}

pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn long_patterns_end_soon_and_slashes_mean_what_they_mean_in_glibc() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("etc/x")).unwrap();
        fs::write(dir.path().join("etc/x/a.conf"), "/a\n").unwrap();
        let root = Root::at(dir.path()).unwrap();
        for (conf, expected) in [
            (format!("include {}\n/b\n", "/a".repeat(500_000)), &["/b"][..]),
            ("include /etc/x/?.conf/ x/*.conf/\n/b\n".to_owned(), &["/b"]),
            ("include /etc/x/a.conf/ x/a.conf//\n".to_owned(), &["/a", "/a"]),
            ("include /etc//*/a.conf x/a*\n".to_owned(), &["/a", "/a"]),
        ] {
            fs::write(dir.path().join("etc/ld.so.conf"), &conf).unwrap();
            let expected: Vec<_> = expected.iter().map(|line| line.as_bytes().to_owned()).collect();
            assert_eq!(lines(&root).unwrap(), expected);
        }
    }
}
