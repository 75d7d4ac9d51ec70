//! `/etc/ld.so.conf`: which directories a container's linker configuration has already, and what to add to it.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use anyhow::Result;

use crate::glob;
use crate::jail::Changes;
use crate::root::Root;
use crate::update::LibDir;

mod draft;
mod lines;
mod memory;

use draft::Draft;
use lines::{CONF, parts};
pub(crate) use lines::{Lines, Source, is_space};
use memory::Memory;

const CONF_DIR: &str = "/etc/ld.so.conf.d";

/// Makes ldconfig read that directory where there is no `ld.so.conf`.
const INCLUDE: &str = "include /etc/ld.so.conf.d/*.conf\n";

/// Our files, by fixed names so that a second run finds them. The first sorts before others, so that injected libraries
/// win, but after `00-cuda-compat.conf` and `00-compat-*.conf`, with which NVIDIA's images and hooks set a newer libcuda
/// before the host's. The last sorts behind all.
const FIRST: &str = "/etc/ld.so.conf.d/00-nvcr-ldcache.conf";
const LAST: &str = "/etc/ld.so.conf.d/zz-nvcr-ldcache.conf";

/// How our files begin. They are known by it, too, for a link or a pattern may give them another name.
const MARK: &str = "# nri-ldcache: ";

/// What is to be written for a container's linker to search more directories.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// There is no `ld.so.conf`.
    create: bool,
    first: Option<String>,
    last: String,
    /// Directories that the linker searches afterwards, in any version of glibc, each once.
    linked: Vec<String>,
    /// Those of them that every version does, in order, if `ld.so.conf` does not include `ld.so.conf.d` and so leaves ours out: ldconfig takes them as arguments,
    /// and looks at arguments first.
    left_out: Vec<String>,
    added: Vec<String>,
    /// The lines of directories that ldconfig goes through afterwards, as far as they can be foreseen.
    dir_lines: Vec<Vec<u8>>,
}

impl Plan {
    /// Reads the configuration below `root`, and plans to add `dirs`.
    pub fn make(root: &Root, dirs: &[LibDir]) -> Result<Self> {
        let create = !root.exists(Path::new(CONF));
        let debian = root.is_file(Path::new("/etc/debian_version"));
        let system = system_dirs(debian, std::env::consts::ARCH);
        let files = Memory::of(root);
        let conf = Conf::read(&files)?;
        let added: Vec<_> = conf.missing(dirs, system).into_iter().map(str::to_owned).collect();
        let first = (!added.is_empty()).then(|| text("added for this container", &added));
        // The host's ldconfig knows the directories of the host's distribution, and the container may be of another one.
        let last = text("system directories of this container", system);
        let system = system.iter().copied().map(str::to_owned);
        let searched: Vec<_> = added.iter().cloned().chain(conf.dirs).chain(system).collect();
        let linked: BTreeSet<_> = searched.iter().cloned().chain(conf.typed).collect();
        let linked = linked.into_iter().collect();
        let left_out = if conf.includes_ours || create { Vec::new() } else { searched };
        let mut plan = Self { create, first, last, linked, left_out, added, dir_lines: Vec::new() };
        plan.dir_lines =
            plan.dir_lines_of(&Draft { source: &files, files: plan.files().collect() })?;
        Ok(plan)
    }

    /// Makes the directories of the files, and refuses what is in their way.
    pub fn prepare(&self, changes: &mut Changes<'_>) -> Result<()> {
        changes.make_dir(Path::new("/etc"))?;
        changes.make_dir(Path::new(CONF_DIR))?;
        self.files().try_for_each(|(path, _)| changes.expect_file(Path::new(path)))
    }

    /// Writes the files.
    pub fn apply(&self, changes: &mut Changes<'_>) -> Result<()> {
        self.files().try_for_each(|(path, text)| match text {
            Some(text) => changes.write(Path::new(path), text.as_bytes()),
            None => changes.remove(Path::new(path)),
        })
    }

    /// The files, and what they will say; one that says nothing will not be there.
    fn files(&self) -> impl Iterator<Item = (&'static str, Option<&str>)> {
        let conf = self.create.then_some((CONF, Some(INCLUDE)));
        conf.into_iter().chain([(FIRST, self.first.as_deref()), (LAST, Some(&self.last))])
    }

    /// The lines of directories that ldconfig will go through once the files are written, in order, as far as that can be
    /// foreseen.
    pub fn dir_lines(&self) -> &[Vec<u8>] {
        &self.dir_lines
    }

    /// The same of a configuration as it is.
    pub(crate) fn dir_lines_of(&self, files: &impl Source) -> Result<Vec<Vec<u8>>> {
        let left_out = self.left_out.iter().map(|dir| dir.clone().into_bytes());
        Ok(left_out.chain(Lines::read(files)?.dirs).collect())
    }

    /// The directories that were not searched before, in order.
    pub fn added(&self) -> &[String] {
        &self.added
    }

    /// The directories in which links may have to be made.
    pub fn linked(&self) -> &[String] {
        &self.linked
    }

    /// The directories that ldconfig has to be told of.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }
}

/// The lines of directories of a root's configuration as it is, in order.
pub fn dir_lines(root: &Root) -> Result<Vec<Vec<u8>>> {
    Ok(Lines::read(root)?.dirs)
}

fn text(what: &str, dirs: &[impl AsRef<str>]) -> String {
    let dirs: Vec<_> = dirs.iter().map(AsRef::as_ref).collect();
    format!("{MARK}{what}\n{}\n", dirs.join("\n"))
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

/// The files of a configuration without our own.
struct Others<'a, S>(&'a S);

impl<S: Source> Source for Others<'_, S> {
    fn read(&self, path: &[u8]) -> Result<Option<Vec<u8>>> {
        let name = |path| parts(path).last();
        if [FIRST, LAST].iter().any(|ours| name(path) == name(ours.as_bytes())) {
            return Ok(None);
        }
        Ok(self.0.read(path)?.filter(|text| !text.starts_with(MARK.as_bytes())))
    }

    fn list(&self, dir: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.0.list(dir)
    }
}

/// What the configuration says without our own files.
///
/// Where ldconfig's reading is in doubt, a directory is not in here: one that is added twice is searched all the same.
#[derive(Debug, Default)]
pub(crate) struct Conf {
    /// In order, each once.
    pub(crate) dirs: Vec<String>,
    /// Those with a type, `DIR=TYPE`, which glibc took off before 2.37.
    typed: Vec<String>,
    pub(crate) includes_ours: bool,
    known: HashSet<String>,
}

impl Conf {
    pub(crate) fn read(source: &impl Source) -> Result<Self> {
        let lines = Lines::read(&Others(source))?;
        let includes_ours = lines.patterns.iter().any(|pattern| includes_ours(pattern));
        let mut conf = Self { includes_ours, ..Self::default() };
        lines.dirs.iter().for_each(|line| conf.dir(line));
        Ok(conf)
    }

    /// The directories that are searched neither by configuration nor by nature.
    pub(crate) fn missing<'a>(&self, dirs: &'a [LibDir], system: &[&str]) -> Vec<&'a str> {
        let known = |dir: &str| self.known.contains(dir) || system.contains(&dir);
        dirs.iter().map(LibDir::as_str).filter(|dir| !known(dir)).collect()
    }

    /// Takes a line that is a directory. `DIR=TYPE` is one for older versions of glibc and none for newer ones, and so not known: a
    /// directory that is added twice does no harm, and one that is not added at all does.
    fn dir(&mut self, line: &[u8]) {
        let end = line.iter().rposition(|byte| !is_space(*byte)).map_or(0, |last| last + 1);
        let parse = |line| str::from_utf8(line).ok()?.parse::<LibDir>().ok();
        if let Some(equals) = line.iter().position(|byte| *byte == b'=') {
            self.typed.extend(parse(&line[..equals]).map(|dir| dir.to_string()));
            return;
        }
        let dir = parse(&line[..end]);
        if let Some(dir) = dir.filter(|dir| self.known.insert(dir.to_string())) {
            self.dirs.push(dir.to_string());
        }
    }
}

/// Will our files be included by a pattern? They may not be there yet.
fn includes_ours(pattern: &[u8]) -> bool {
    let (patterns, names) = (parts(pattern), parts(FIRST.as_bytes()));
    patterns.clone().count() == names.clone().count()
        && patterns.zip(names).all(|(pattern, name)| glob::matches(pattern, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    impl Source for BTreeMap<&str, &str> {
        fn read(&self, path: &[u8]) -> Result<Option<Vec<u8>>> {
            Ok(self.get(str::from_utf8(path)?).map(|text| text.as_bytes().to_vec()))
        }

        fn list(&self, dir: &[u8]) -> Result<Vec<Vec<u8>>> {
            let dir = str::from_utf8(dir)?;
            let names = self.keys().filter_map(|path| {
                path.strip_prefix(dir)?.trim_start_matches('/').split('/').next()
            });
            let mut names: Vec<_> = names.map(|name| name.as_bytes().to_vec()).collect();
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
            "/a\n  /b/ # why\n\t/c//d\t\r\n#/e\nhwcap 0 nosegneg\n/f=libc6\n/g h\nrelative\n\x0b/i\0/j\n/k\u{a0}\n",
        )]);
        let mut found: Vec<_> = conf.dirs.iter().map(String::as_str).collect();
        found.sort();
        assert_eq!(found, ["/a", "/b", "/c/d", "/g h", "/i", "/k\u{a0}"]);
        assert_eq!(conf.typed, ["/f"]);
        assert!(!conf.includes_ours);
    }

    #[test]
    fn includes_are_globbed_relative_and_several() {
        let conf = conf(&[
            ("/etc/ld.so.conf", "include ld.so.conf.d/*.conf\t/opt/*/x.conf\ninclude /etc/one\n"),
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

    /// Each was seen with ldconfig of glibc 2.36, which says so with `-v`.
    #[test]
    fn what_ldconfig_does_not_include_is_not_known() {
        for include in [
            "INCLUDE /etc/ld.so.conf.d/*.conf",
            "include /etc/ld.so.conf.d/*.conf\r",
            "include /etc/ld.so.conf.d/?.conf/ /etc/ld.so.conf.d/00*.conf/",
        ] {
            let conf = conf(&[
                ("/etc/ld.so.conf", include.to_owned().leak()),
                ("/etc/ld.so.conf.d/a.conf", "/a\n"),
            ]);
            assert!(conf.dirs.is_empty() && !conf.includes_ours, "{include:?}: {conf:?}");
        }
    }

    #[test]
    fn our_files_are_known_by_any_name() {
        let ours = text("added for this container", &["/new".to_owned()]);
        let conf = conf(&[
            ("/etc/ld.so.conf", "include /etc/./ld.so.conf.d/*.conf /etc/link\n"),
            ("/etc/./ld.so.conf.d/00-nvcr-ldcache.conf", "/new\n"),
            ("/etc/link", ours.leak()),
        ]);
        assert!(conf.dirs.is_empty(), "{conf:?}");
    }

    #[test]
    fn long_configurations_end_soon() {
        let deep = format!("include {}\n", "/a".repeat(500_000));
        conf(&[("/etc/ld.so.conf", deep.leak())]);
        let lines = (0..).map(|number| format!("/{number:x}\n"));
        let many: String = lines.take(100_000).collect();
        assert_eq!(conf(&[("/etc/ld.so.conf", many.leak())]).dirs.len(), 100_000);
        let more: &str = "/dir\n".repeat(100_001).leak();
        let error = Conf::read(&BTreeMap::from([("/etc/ld.so.conf", more)])).unwrap_err();
        assert!(error.to_string().contains("more than 100000 lines"), "{error}");
        let large: &str = "#dir\n".repeat((1 << 20) / 5).leak();
        let names = ["/etc/a", "/etc/b", "/etc/c", "/etc/d", "/etc/e"];
        let main = ("/etc/ld.so.conf", "include /etc/a /etc/b /etc/c /etc/d /etc/e\n");
        let files = names.into_iter().map(|name| (name, large)).chain([main]);
        let error = Conf::read(&files.collect::<BTreeMap<_, _>>()).unwrap_err().to_string();
        assert!(error.contains("more than 4194304 bytes"), "{error}");
    }

    #[test]
    fn loops_end_and_floods_are_refused() {
        conf(&[("/etc/ld.so.conf", "include /etc/a\n"), ("/etc/a", "include /etc/ld.so.conf\n")]);
        let within: BTreeMap<_, _> = [
            ("/etc/ld.so.conf", "include /etc/a\n"),
            ("/etc/a", "include /etc/ld.so.conf /etc/a\n"),
        ]
        .into();
        let error = Conf::read(&within).unwrap_err().to_string();
        assert!(error.contains("more than 1000 files"), "{error}");
        struct Endless;
        impl Source for Endless {
            fn read(&self, _: &[u8]) -> Result<Option<Vec<u8>>> {
                Ok(Some("include /*/*/*/*/*.conf\n".into()))
            }
            fn list(&self, _: &[u8]) -> Result<Vec<Vec<u8>>> {
                Ok((0..100).map(|i| format!("{i}.conf").into_bytes()).collect())
            }
        }
        let error = format!("{:#}", Conf::read(&Endless).unwrap_err());
        assert!(error.contains("include /*/*/*/*/*.conf: "), "{error}");
        assert!(error.contains("look at more than 10000 names"), "{error}");
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
