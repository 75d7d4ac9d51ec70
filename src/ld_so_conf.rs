//! `/etc/ld.so.conf`: which directories a container's linker configuration has already, and what to add to it.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Result, ensure};
use glob::{MatchOptions, Pattern};

use crate::jail::Changes;
use crate::root::Root;
use crate::update::LibDir;

const CONF: &str = "/etc/ld.so.conf";
const CONF_DIR: &str = "/etc/ld.so.conf.d";

/// Our files, by fixed names so that a second run finds them. The first sorts before others, so that injected libraries
/// win, but after `00-cuda-compat.conf` and `00-compat-*.conf`, with which NVIDIA's images and hooks set a newer libcuda
/// before the host's. The last sorts behind all.
const FIRST: &str = "/etc/ld.so.conf.d/00-nvcr-ldcache.conf";
const LAST: &str = "/etc/ld.so.conf.d/zz-nvcr-ldcache.conf";

/// What a whole configuration may cost to read: an image has one of a few hundred bytes.
const FILE_LIMIT: u64 = 1 << 20;
const MAX_FILES: usize = 1000;
const MAX_MATCHES: usize = 10_000;
/// ldconfig follows includes until it runs out of descriptors.
const MAX_DEPTH: usize = 32;

/// What is to be written for a container's linker to search more directories.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// There is no `ld.so.conf`.
    create: bool,
    first: Option<String>,
    last: String,
    /// Directories that the linker searches afterwards, in no particular order.
    searched: Vec<String>,
    /// Those that an `ld.so.conf` which does not include `ld.so.conf.d` leaves out: ldconfig takes them as arguments.
    left_out: Vec<String>,
    added: Vec<String>,
}

impl Plan {
    /// Reads the configuration below `root`, and plans to add `dirs`.
    pub fn make(root: &Root, dirs: &[LibDir]) -> Result<Self> {
        let create = root.read(Path::new(CONF), FILE_LIMIT)?.is_none();
        let debian = root.is_file(Path::new("/etc/debian_version"));
        let system = system_dirs(debian, std::env::consts::ARCH);
        let conf = Conf::read(root)?;
        let added: Vec<_> = conf.missing(dirs, system).into_iter().map(str::to_owned).collect();
        let first = (!added.is_empty()).then(|| text("added for this container", &added));
        // The host's ldconfig knows the directories of the host's distribution, and the container may be of another one.
        let last = text("system directories of this container", system);
        let left_out = if conf.includes_ours || create { Vec::new() } else { added.clone() };
        let system = system.iter().copied().map(str::to_owned);
        let searched = conf.dirs.into_iter().chain(system).chain(added.iter().cloned()).collect();
        Ok(Self { create, first, last, searched, left_out, added })
    }

    /// Writes the files.
    pub fn apply(&self, changes: &mut Changes<'_>) -> Result<()> {
        changes.make_dir(Path::new("/etc"))?;
        changes.make_dir(Path::new(CONF_DIR))?;
        if self.create {
            changes.write(Path::new(CONF), "include /etc/ld.so.conf.d/*.conf\n")?;
        }
        match &self.first {
            Some(text) => changes.write(Path::new(FIRST), text)?,
            None => changes.remove(Path::new(FIRST))?,
        }
        changes.write(Path::new(LAST), &self.last)
    }

    /// The directories that were not searched before, in order.
    pub fn added(&self) -> &[String] {
        &self.added
    }

    /// The directories that are searched afterwards.
    pub fn searched(&self) -> &[String] {
        &self.searched
    }

    /// The directories that ldconfig has to be told of.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }
}

fn text(what: &str, dirs: &[impl AsRef<str>]) -> String {
    let dirs: Vec<_> = dirs.iter().map(AsRef::as_ref).collect();
    format!("# nri-ldcache: {what}\n{}\n", dirs.join("\n"))
}

/// The directories that the loader of a distribution searches by itself (ld.so(8); Debian's are its multiarch paths).
fn system_dirs(debian: bool, arch: &str) -> &'static [&'static str] {
    match (debian, arch) {
        (true, "x86_64") => {
            &["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib", "/usr/lib"]
        }
        (true, "aarch64") => {
            &["/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/lib", "/usr/lib"]
        }
        (false, "x86_64") => {
            &["/lib", "/usr/lib", "/lib64", "/usr/lib64", "/libx32", "/usr/libx32"]
        }
        _ => &["/lib", "/usr/lib", "/lib64", "/usr/lib64"],
    }
}

/// Where configuration files are read from.
trait Source {
    fn read(&self, path: &str) -> Result<Option<String>>;
    fn list(&self, dir: &str) -> Result<Vec<String>>;
}

impl Source for Root {
    fn read(&self, path: &str) -> Result<Option<String>> {
        let bytes = Self::read(self, Path::new(path), FILE_LIMIT)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn list(&self, dir: &str) -> Result<Vec<String>> {
        let names = Self::list(self, Path::new(dir))?;
        Ok(names.into_iter().filter_map(|name| String::from_utf8(name).ok()).collect())
    }
}

/// What the configuration says without our own files.
#[derive(Debug, Default)]
struct Conf {
    dirs: HashSet<String>,
    includes_ours: bool,
    seen: HashSet<String>,
    matches: usize,
}

impl Conf {
    fn read(source: &impl Source) -> Result<Self> {
        let mut conf = Self::default();
        conf.file(source, CONF, 0)?;
        Ok(conf)
    }

    /// The directories that are searched neither by configuration nor by nature.
    fn missing<'a>(&self, dirs: &'a [LibDir], system: &[&str]) -> Vec<&'a str> {
        let dirs = dirs.iter().map(LibDir::as_str);
        dirs.filter(|dir| !self.dirs.contains(*dir) && !system.contains(dir)).collect()
    }

    /// Reads one file as glibc's `parse_conf` does (elf/ldconfig.c): a `#` ends a line, blanks before and behind do not
    /// count, `include` takes several patterns.
    fn file(&mut self, source: &impl Source, path: &str, depth: usize) -> Result<()> {
        if path == FIRST || path == LAST {
            self.includes_ours |= path == FIRST;
            return Ok(());
        }
        if depth > MAX_DEPTH || !self.seen.insert(path.to_owned()) {
            return Ok(());
        }
        ensure!(self.seen.len() <= MAX_FILES, "{CONF} includes more than {MAX_FILES} files");
        let Some(text) = source.read(path)? else { return Ok(()) };
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            match line.split_once([' ', '\t']) {
                Some((word, patterns)) if word.eq_ignore_ascii_case("include") => {
                    for pattern in patterns.split([' ', '\t']).filter(|pattern| !pattern.is_empty())
                    {
                        self.include(source, path, pattern, depth)?;
                    }
                }
                Some((word, _)) if word.eq_ignore_ascii_case("hwcap") => {}
                _ => self.dir(line),
            }
        }
        Ok(())
    }

    fn dir(&mut self, line: &str) {
        // `DIR=TYPE` was a way to tell the C library, until glibc 2.32 dropped it.
        let dir = line.split('=').next().unwrap_or_default().trim_end();
        if let Ok(dir) = dir.parse::<LibDir>() {
            self.dirs.insert(dir.as_str().to_owned());
        }
    }

    fn include(
        &mut self,
        source: &impl Source,
        from: &str,
        pattern: &str,
        depth: usize,
    ) -> Result<()> {
        let base = from.rsplit_once('/').map_or("", |(dir, _)| dir);
        let pattern =
            if pattern.starts_with('/') { pattern.to_owned() } else { format!("{base}/{pattern}") };
        self.expect_ours(&pattern);
        for path in self.expand(source, &pattern)? {
            self.file(source, &path, depth + 1)?;
        }
        Ok(())
    }

    /// Our files may not be there yet; what counts is that they will be included.
    fn expect_ours(&mut self, pattern: &str) {
        self.includes_ours |=
            Pattern::new(pattern).is_ok_and(|pattern| pattern.matches_with(FIRST, GLOB));
    }

    /// Expands a pattern as glob(3) does: component by component, sorted, a leading dot only by a dot.
    fn expand(&mut self, source: &impl Source, pattern: &str) -> Result<Vec<String>> {
        let mut paths = vec![String::new()];
        for part in pattern.split('/').filter(|part| !part.is_empty()) {
            let mut next = Vec::new();
            let matcher = part.contains(['*', '?', '[']).then(|| Pattern::new(part));
            for path in paths {
                match &matcher {
                    None => next.push(format!("{path}/{part}")),
                    Some(Err(_)) => {}
                    Some(Ok(matcher)) => {
                        let names = source.list(if path.is_empty() { "/" } else { &path })?;
                        self.matches += names.len();
                        ensure!(
                            self.matches <= MAX_MATCHES,
                            "include {pattern} looks at more than {MAX_MATCHES} names"
                        );
                        let names = names.into_iter().filter(|name| name != "." && name != "..");
                        let names = names.filter(|name| matcher.matches_with(name, GLOB));
                        next.extend(names.map(|name| format!("{path}/{name}")));
                    }
                }
            }
            paths = next;
        }
        Ok(paths)
    }
}

const GLOB: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    impl Source for BTreeMap<&str, &str> {
        fn read(&self, path: &str) -> Result<Option<String>> {
            Ok(self.get(path).map(|text| text.to_string()))
        }

        fn list(&self, dir: &str) -> Result<Vec<String>> {
            let names = self.keys().filter_map(|path| {
                path.strip_prefix(dir)?.trim_start_matches('/').split('/').next()
            });
            let mut names: Vec<_> = names.map(str::to_owned).collect();
            names.dedup();
            Ok(names)
        }
    }

    fn conf(files: &[(&'static str, &'static str)]) -> Conf {
        Conf::read(&files.iter().copied().collect::<BTreeMap<_, _>>()).unwrap()
    }

    fn dirs(names: &[&str]) -> Vec<LibDir> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn lines_are_read_as_ldconfig_reads_them() {
        let conf = conf(&[(
            "/etc/ld.so.conf",
            "/a\n  /b/ # why\n\t/c//d\t\r\n#/e\nhwcap 0 nosegneg\n/f=libc6\n/g h\nrelative\n",
        )]);
        let mut found: Vec<_> = conf.dirs.iter().map(String::as_str).collect();
        found.sort();
        assert_eq!(found, ["/a", "/b", "/c/d", "/f", "/g h"]);
        assert!(!conf.includes_ours);
    }

    #[test]
    fn includes_are_globbed_relative_and_several() {
        let conf = conf(&[
            ("/etc/ld.so.conf", "include ld.so.conf.d/*.conf\t/opt/*/x.conf\nINCLUDE /etc/one\n"),
            ("/etc/ld.so.conf.d/a.conf", "/a\n"),
            ("/etc/ld.so.conf.d/.hidden.conf", "/hidden\n"),
            ("/etc/ld.so.conf.d/b.txt", "/txt\n"),
            ("/etc/one", "/one\n"),
            ("/opt/p/x.conf", "/p\n"),
        ]);
        let mut found: Vec<_> = conf.dirs.iter().map(String::as_str).collect();
        found.sort();
        assert_eq!(found, ["/a", "/one", "/p"]);
        assert!(conf.includes_ours);
    }

    #[test]
    fn loops_end_and_floods_are_refused() {
        conf(&[
            ("/etc/ld.so.conf", "include /etc/a\n"),
            ("/etc/a", "include /etc/ld.so.conf /etc/a\n"),
        ]);
        struct Endless;
        impl Source for Endless {
            fn read(&self, _: &str) -> Result<Option<String>> {
                Ok(Some("include /*/*/*/*/*.conf\n".into()))
            }
            fn list(&self, _: &str) -> Result<Vec<String>> {
                Ok((0..100).map(|i| format!("{i}.conf")).collect())
            }
        }
        let error = Conf::read(&Endless).unwrap_err().to_string();
        assert!(error.contains("looks at more than 10000 names"), "{error}");
    }

    #[test]
    fn only_unknown_directories_are_missing_and_our_own_files_do_not_count() {
        let conf = conf(&[
            ("/etc/ld.so.conf", "include /etc/ld.so.conf.d/*.conf\n"),
            ("/etc/ld.so.conf.d/00-nvcr-ldcache.conf", "/new\n"),
            ("/etc/ld.so.conf.d/00-nvcr-123.conf", "/of/another/hook\n"),
            ("/etc/ld.so.conf.d/x.conf", "/known\n"),
        ]);
        let wanted = dirs(&["/new", "/known", "/usr/lib", "/of/another/hook", "/newer"]);
        assert_eq!(conf.missing(&wanted, system_dirs(true, "x86_64")), ["/new", "/newer"]);
    }

    #[test]
    fn system_directories_follow_the_container() {
        assert_eq!(system_dirs(true, "aarch64")[0], "/lib/aarch64-linux-gnu");
        assert_eq!(system_dirs(false, "aarch64"), ["/lib", "/usr/lib", "/lib64", "/usr/lib64"]);
        assert!(system_dirs(false, "x86_64").contains(&"/usr/lib64"));
        assert_eq!(system_dirs(true, "riscv64"), system_dirs(false, "s390x"));
    }
}
