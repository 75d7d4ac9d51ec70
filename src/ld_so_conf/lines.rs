//! [`Lines`]: what `ld.so.conf` and the files that it includes say, in the order in which ldconfig reads it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::glob;
use crate::root::Root;

/// Where it begins.
pub(crate) const CONF: &str = "/etc/ld.so.conf";

/// What a configuration may cost to read, each file and all of them: an image has one of a few hundred bytes.
const FILE_LIMIT: u64 = 1 << 20;
const TOTAL_LIMIT: usize = 4 << 20;
const MAX_FILES: usize = 1000;
const MAX_MATCHES: usize = 10_000;
const MAX_LINES: usize = 100_000;
/// ldconfig follows includes until it runs out of descriptors, and then goes on without.
const MAX_DEPTH: usize = 32;
/// No path is longer (`PATH_MAX`, limits.h), and so is none that a longer pattern matches.
const MAX_PATTERN: usize = 4096;

/// Where configuration files are read from.
pub(crate) trait Source {
    /// A file; what ldconfig can't open, and passes over, is none.
    fn read(&self, path: &[u8]) -> Result<Option<Vec<u8>>>;
    /// The names in a directory.
    fn list(&self, dir: &[u8]) -> Result<Vec<Vec<u8>>>;
}

impl Source for Root {
    fn read(&self, path: &[u8]) -> Result<Option<Vec<u8>>> {
        Self::read(self, Path::new(OsStr::from_bytes(path)), FILE_LIMIT)
    }

    fn list(&self, dir: &[u8]) -> Result<Vec<Vec<u8>>> {
        Self::list(self, Path::new(OsStr::from_bytes(dir)))
    }
}

/// The lines of a configuration.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// Those that are directories, with whatever is behind them.
    pub(crate) dirs: Vec<Vec<u8>>,
    /// What was to be included, as absolute patterns.
    pub(crate) patterns: Vec<Vec<u8>>,
    files: usize,
    bytes: usize,
    matches: usize,
}

impl Lines {
    /// Reads them as `parse_conf` does (elf/ldconfig.c).
    pub(crate) fn read(source: &impl Source) -> Result<Self> {
        let mut lines = Self::default();
        lines.file(source, CONF.as_bytes(), 0)?;
        Ok(lines)
    }

    fn file(&mut self, source: &impl Source, path: &[u8], depth: usize) -> Result<()> {
        // ldconfig reads a file as often as it is included: loops within loops would take it for ever.
        self.files += 1;
        ensure!(self.files <= MAX_FILES, "{CONF} includes more than {MAX_FILES} files");
        let Some(text) = source.read(path)? else { return Ok(()) };
        self.bytes += text.len();
        ensure!(self.bytes <= TOTAL_LIMIT, "{CONF} includes more than {TOTAL_LIMIT} bytes");
        for line in text.split(|byte| *byte == b'\n') {
            let line = line.split(|byte| b"#\0".contains(byte)).next().unwrap_or_default();
            self.line(source, trim_start(line), path, depth)?;
        }
        Ok(())
    }

    /// Takes one line without its comment: `include` is written in small letters, and takes several patterns.
    fn line(&mut self, source: &impl Source, line: &[u8], path: &[u8], depth: usize) -> Result<()> {
        let mut words = line.split(|byte| matches!(byte, b' ' | b'\t'));
        let word = words.next().unwrap_or_default();
        let alone = word.len() == line.len();
        if word == b"include" && !alone {
            for pattern in words.filter(|pattern| !pattern.is_empty()) {
                self.include(source, pattern, path, depth)?;
            }
        } else if !(line.is_empty() || word.eq_ignore_ascii_case(b"hwcap") && !alone) {
            ensure!(self.dirs.len() < MAX_LINES, "{CONF} has more than {MAX_LINES} lines");
            self.dirs.push(line.to_owned());
        }
        Ok(())
    }

    fn include(
        &mut self,
        source: &impl Source,
        pattern: &[u8],
        from: &[u8],
        depth: usize,
    ) -> Result<()> {
        let base = from.rsplitn(2, |byte| *byte == b'/').nth(1).unwrap_or_default();
        let pattern = match pattern.starts_with(b"/") {
            true => pattern.to_owned(),
            false => [base, b"/", pattern].concat(),
        };
        // A wildcard with a slash behind it means directories. (A plain name means itself, as if there were none.)
        let last = parts(&pattern).last();
        let directories = pattern.ends_with(b"/") && last.is_some_and(glob::is_pattern);
        if pattern.len() >= MAX_PATTERN || directories || depth >= MAX_DEPTH {
            return Ok(());
        }
        let paths = self.expand(source, &pattern);
        let mut paths =
            paths.with_context(|| format!("include {}", String::from_utf8_lossy(&pattern)))?;
        self.patterns.push(pattern);
        // glob(3) sorts what it found as whole paths.
        paths.sort();
        paths.iter().try_for_each(|path| self.file(source, path, depth + 1))
    }

    /// Expands a pattern as glob(3) does: component by component.
    fn expand(&mut self, source: &impl Source, pattern: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut paths = vec![Vec::new()];
        // The components since the last one with a wildcard.
        let mut plain = Vec::new();
        for part in parts(pattern) {
            if !glob::is_pattern(part) {
                plain.extend([b"/", part].concat());
                continue;
            }
            let mut next = Vec::new();
            for path in paths {
                self.names(source, &[path, plain.clone()].concat(), part, &mut next)?;
            }
            paths = next;
            plain.clear();
        }
        Ok(paths.into_iter().map(|path| [path, plain.clone()].concat()).collect())
    }

    fn names(
        &mut self,
        source: &impl Source,
        dir: &[u8],
        part: &[u8],
        found: &mut Vec<Vec<u8>>,
    ) -> Result<()> {
        let names = source.list(if dir.is_empty() { b"/" } else { dir })?;
        // Looking costs something, too, where nothing is found.
        self.matches += 1 + names.len();
        ensure!(
            self.matches <= MAX_MATCHES,
            "includes of {CONF} look at more than {MAX_MATCHES} names"
        );
        let names = names.iter().filter(|name| *name != b"." && *name != b"..");
        let names = names.filter(|name| glob::matches(part, name));
        found.extend(names.map(|name| [dir, b"/", name].concat()));
        Ok(())
    }
}

/// The components of a path or a pattern.
pub(super) fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
}

/// Without what isspace(3) of the C locale takes.
fn trim_start(line: &[u8]) -> &[u8] {
    let start = line.iter().position(|byte| !is_space(*byte));
    start.and_then(|start| line.get(start..)).unwrap_or_default()
}

/// isspace(3) of the C locale.
pub(crate) fn is_space(byte: u8) -> bool {
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
            assert_eq!(Lines::read(&root).unwrap().dirs, expected);
        }
    }
}
