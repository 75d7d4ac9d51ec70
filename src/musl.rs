//! musl's loader has no cache: it searches the directories of `/etc/ld-musl-ARCH.path`, separated by colons or newlines, and
//! these alone once there is such a file (musl, ldso/dynlink.c). It stops at a library of another class, so that each class
//! has its own loader and file, and directories of the other class must not be in it.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::jail::Changes;
use crate::root::Root;
use crate::update::LibDir;

/// What is searched where there is no file.
const DEFAULT: &[u8] = b"/lib:/usr/local/lib:/usr/lib";

/// A `.path` file has a few lines.
const LIMIT: u64 = 64 << 10;

/// Names of a directory that are looked at to tell its class.
const LOOKED_AT: usize = 64;

/// musl's names of an architecture, the 64-bit one and the 32-bit one that it can run too.
fn architectures(arch: &str) -> [(&str, Class); 2] {
    match arch {
        "aarch64" => [("aarch64", Class::Bits64), ("armhf", Class::Bits32)],
        "x86_64" => [("x86_64", Class::Bits64), ("i386", Class::Bits32)],
        other => [(other, Class::Bits64), ("", Class::Bits32)],
    }
}

/// The class of a library (elf(5), `EI_CLASS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Bits32,
    Bits64,
}

/// What to write for the loaders that a container has.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan(Vec<(PathBuf, Vec<u8>)>);

impl Plan {
    /// Plans to put `dirs` first. A container without a musl loader has an empty plan.
    pub fn make(root: &Root, dirs: &[LibDir]) -> Result<Self> {
        let mut plan = Self::default();
        for (arch, class) in architectures(std::env::consts::ARCH) {
            if !root.is_file(Path::new(&format!("/lib/ld-musl-{arch}.so.1"))) {
                continue;
            }
            let path = PathBuf::from(format!("/etc/ld-musl-{arch}.path"));
            let before = root.read(&path, LIMIT)?;
            let fits = |dir: &&LibDir| class_of(root, dir).unwrap_or(Class::Bits64) == class;
            let dirs: Vec<_> = dirs.iter().filter(fits).map(LibDir::as_str).collect();
            if let Some(text) = searched(&dirs, before.as_deref()) {
                plan.0.push((path, text));
            }
        }
        Ok(plan)
    }

    /// Refuses what is in the way of the files.
    pub fn prepare(&self, changes: &Changes<'_>) -> Result<()> {
        self.0.iter().try_for_each(|(path, _)| changes.expect_file(path))
    }

    /// Writes the files.
    pub fn apply(&self, changes: &mut Changes<'_>) -> Result<()> {
        self.0.iter().try_for_each(|(path, text)| changes.write(path, text))
    }
}

/// The content that puts `dirs` before what is searched already; nothing to do without any.
///
/// A NUL ends the file for musl, and nothing quotes a colon: the directory would become two others.
pub(crate) fn searched(dirs: &[&str], before: Option<&[u8]>) -> Option<Vec<u8>> {
    let dirs = dirs.iter().map(|dir| dir.as_bytes()).filter(|dir| !dir.contains(&b':'));
    let mut all: Vec<_> = dirs.collect();
    let ours = all.len();
    let before = before.unwrap_or(DEFAULT).split(|byte| *byte == 0).next().unwrap_or_default();
    for dir in before.split(|byte| b":\n".contains(byte)).filter(|dir| !dir.is_empty()) {
        if !all[..ours].contains(&dir) {
            all.push(dir);
        }
    }
    (ours > 0).then(|| all.iter().flat_map(|dir| [dir, &b"\n"[..]]).flatten().copied().collect())
}

/// The class of the first library in a directory.
fn class_of(root: &Root, dir: &LibDir) -> Option<Class> {
    let dir = Path::new(dir.as_str());
    let names = root.list(dir).ok()?;
    let libraries = names.iter().filter(|name| name.windows(3).any(|part| part == b".so"));
    libraries.take(LOOKED_AT).find_map(|name| {
        let start = root.read_start(&dir.join(std::ffi::OsStr::from_bytes(name)), 5)?;
        match start.strip_prefix(b"\x7fELF")? {
            [1] => Some(Class::Bits32),
            [2] => Some(Class::Bits64),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn directories_come_first_and_once_and_defaults_stay() {
        for (before, expected) in [
            (None, "/d\n/e\n/lib\n/usr/local/lib\n/usr/lib\n"),
            (Some(&b"/own:/lib"[..]), "/d\n/e\n/own\n/lib\n"),
            (Some(b"/d\n/e\n/own\n"), "/d\n/e\n/own\n"),
            (Some(b"/own\n/e\n\n"), "/d\n/e\n/own\n"),
            (Some(b""), "/d\n/e\n"),
            (Some(b"/ a :/b\r\n\0/c"), "/d\n/e\n/ a \n/b\r\n"),
        ] {
            let text = searched(&["/d", "/x:y", "/e"], before).unwrap();
            assert_eq!(text, expected.as_bytes(), "{before:?}");
            assert_eq!(searched(&["/d", "/e"], Some(&text)).unwrap(), text);
        }
        assert_eq!(searched(&["/d"], Some(b"/\xff")).unwrap(), b"/d\n/\xff\n");
        assert_eq!(searched(&[], None), None);
        assert_eq!(searched(&["/x:y"], None), None);
    }

    #[test]
    fn each_loader_gets_the_directories_of_its_class() {
        let dir = tempfile::tempdir().unwrap();
        let [native, other] = architectures(std::env::consts::ARCH).map(|(arch, _)| arch);
        for (path, content) in [
            (format!("lib/ld-musl-{native}.so.1"), &b""[..]),
            (format!("lib/ld-musl-{other}.so.1"), b""),
            ("d64/libcuda.so.1".into(), b"\x7fELF\x02"),
            ("d32/libcuda.so.1".into(), b"\x7fELF\x01"),
            ("d32/readme".into(), b"\x7fELF\x02"),
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let dirs = ["/d32", "/d64", "/missing"].map(|dir| dir.parse().unwrap());
        let plan = Plan::make(&Root::at(dir.path()).unwrap(), &dirs).unwrap();
        let [(first, one), (second, two)] = &plan.0[..] else { panic!("{plan:?}") };
        assert_eq!(
            (first.to_str(), str::from_utf8(one).unwrap()),
            (
                Some(&*format!("/etc/ld-musl-{native}.path")),
                "/d64\n/missing\n/lib\n/usr/local/lib\n/usr/lib\n"
            )
        );
        assert_eq!(
            (second.to_str(), str::from_utf8(two).unwrap()),
            (
                Some(&*format!("/etc/ld-musl-{other}.path")),
                "/d32\n/lib\n/usr/local/lib\n/usr/lib\n"
            )
        );
        let bare = tempfile::tempdir().unwrap();
        assert_eq!(Plan::make(&Root::at(bare.path()).unwrap(), &dirs).unwrap(), Plan::default());
    }
}
