//! Roots with everything odd that a linker cache may meet, the same for the same seed.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::library::Library;

/// What of a root makes it one of its glibc.
const BASE: &[&str] = &[
    "usr/sbin/ldconfig",
    "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    "usr/lib/x86_64-linux-gnu/libc.so.6",
    "usr/lib/x86_64-linux-gnu/libm.so.6",
    "etc/ld.so.conf",
    "etc/ld.so.conf.d/libc.conf",
    "etc/ld.so.conf.d/x86_64-linux-gnu.conf",
    "etc/debian_version",
];

/// How files of the a.out format begin (`ZMAGIC`, `QMAGIC`, a.out.h).
const AOUT: [[u8; 2]; 2] = [*b"\x0b\x01", *b"\xcc\x00"];

/// Numbers that look random (xorshift64*).
#[derive(Debug)]
pub(crate) struct Random {
    state: u64,
    /// Shall names and directories be such as no image has?
    odd: bool,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, odd: true }
    }

    /// The same numbers for roots that an image may have.
    pub(crate) fn tame(self) -> Self {
        Self { odd: false, ..self }
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        (self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    pub(crate) fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// Makes a root of the base's glibc at `path`.
pub(crate) fn root(path: &Path, base: &Path, random: &mut Random) -> Result<()> {
    for dir in ["usr/sbin", "usr/lib/x86_64-linux-gnu", "usr/lib64", "etc/ld.so.conf.d", "tmp"] {
        fs::create_dir_all(path.join(dir))?;
    }
    for (link, target) in [("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
        symlink(target, path.join(link))?;
    }
    symlink("/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", path.join("lib64/ld-linux-x86-64.so.2"))?;
    for file in BASE {
        fs::copy(base.join(file), path.join(file)).with_context(|| format!("copy {file}"))?;
    }
    let mut dirs: Vec<PathBuf> = vec!["usr/lib/x86_64-linux-gnu".into(), "usr/lib".into()];
    for dir in ["opt/a/lib", "opt/b/lib", "usr/local/lib", "opt/odd [x]", "opt/haswell/tls"] {
        if random.once_in(2) && (random.odd || !dir.ends_with("tls")) {
            dirs.push(dir.into());
        }
    }
    for dir in &dirs {
        libraries(&path.join(dir), random, random_count(dir))?;
        subdirectories(&path.join(dir), random)?;
    }
    configuration(path, &dirs, random)
}

fn random_count(dir: &Path) -> usize {
    if dir.starts_with("opt") { 30 } else { 12 }
}

fn configuration(root: &Path, dirs: &[PathBuf], random: &mut Random) -> Result<()> {
    let conf = root.join("etc/ld.so.conf.d");
    for (number, dir) in dirs.iter().enumerate() {
        let name = random.one(&["00-a", "50", "zz", "Z", "aa"]);
        let dir = dir.display();
        let line = match random.below(8) {
            0 => format!("  /{dir}/  # comment\n"),
            1 => format!("\t/{dir}//\r\n"),
            2 => format!("/{dir}=libc6\n"),
            3 => format!("hwcap 0 nosegneg\n/{dir}"),
            4 => format!("/{dir}\n/missing\n{dir}\n"),
            _ => format!("#x\n\n/{dir}\n"),
        };
        fs::write(conf.join(format!("{name}{number}.conf")), line)?;
    }
    if random.once_in(3) {
        symlink("a/lib", root.join("opt/alias")).ok();
        fs::write(conf.join("10-alias.conf"), "/opt/alias\n")?;
    }
    if random.once_in(3) {
        let text =
            "/usr/local/lib\ninclude ld.so.conf.d/[0-z]*.conf /etc/none/*\nhwcap 1 x\nINCLUDE /x\n";
        fs::write(root.join("etc/ld.so.conf"), text)?;
    }
    if random.once_in(4) {
        fs::write(conf.join(".hidden.conf"), "/opt/b/lib\n")?;
        fs::create_dir(conf.join("dir.conf"))?;
        symlink("loop.conf", conf.join("loop.conf"))?;
    }
    Ok(())
}

/// Subdirectories for processors, of today and of old.
fn subdirectories(dir: &Path, random: &mut Random) -> Result<()> {
    for name in ["x86-64-v2", "x86-64-v3", "x86-64-v4", "zodd", ".hidden", "a:b"] {
        if random.once_in(4) {
            let count = random.below(6);
            libraries(&dir.join("glibc-hwcaps").join(name), random, count)?;
        }
    }
    if random.once_in(4) && dir.join("glibc-hwcaps").exists() {
        fs::write(dir.join("glibc-hwcaps/file"), "x")?;
        symlink("x86-64-v3", dir.join("glibc-hwcaps/link")).ok();
        symlink("nowhere", dir.join("glibc-hwcaps/dangling")).ok();
    }
    for name in ["tls", "haswell", "haswell/avx512_1", "sse2", "i686"] {
        if random.odd && random.once_in(5) {
            libraries(&dir.join(name), random, 4)?;
        }
    }
    Ok(())
}

/// Fills a directory with libraries and links.
pub(crate) fn libraries(dir: &Path, random: &mut Random, count: usize) -> Result<()> {
    fs::create_dir_all(dir)?;
    let mut names: Vec<Vec<u8>> = Vec::new();
    for _ in 0..count {
        let name = name(random);
        let path = dir.join(OsStr::from_bytes(&name));
        if path.symlink_metadata().is_ok() {
            continue;
        }
        match random.below(8) {
            0 | 1 if !names.is_empty() => {
                let target = target(random, &names);
                symlink(OsStr::from_bytes(&target), &path)?;
            }
            2 => {
                // libx.so.1 beside its libx.so, as packages have it.
                let said = [stem(random), b".so.1"].concat();
                fs::write(&path, library(random, Some(&said)))?;
                symlink(OsStr::from_bytes(&name), dir.join(OsStr::from_bytes(&said))).ok();
                symlink(
                    OsStr::from_bytes(&said),
                    dir.join(OsStr::from_bytes(&said[..said.len() - 2])),
                )
                .ok();
            }
            3 => {
                let file = broken(random);
                // ldconfig writes the ISA level of the file before, for it sets none for a.out (`process_file`, elf/readlib.c).
                let is_aout = AOUT.iter().any(|magic| file.starts_with(magic));
                let is_hwcaps = dir.parent().is_some_and(|dir| dir.ends_with("glibc-hwcaps"));
                fs::write(&path, if is_aout && is_hwcaps { Vec::new() } else { file })?;
            }
            _ => {
                let said = soname(random, &name);
                fs::write(&path, library(random, said.as_deref()))?;
            }
        }
        names.push(name);
    }
    Ok(())
}

fn stem(random: &mut Random) -> &'static [u8] {
    random
        .one(&["liba", "libb", "libb1", "lib-c_d", "libA+", "lib\u{e9}", "ld-x", "libcuda"])
        .as_bytes()
}

fn version(random: &mut Random) -> String {
    let number = |random: &mut Random| match random.below(12) {
        0 => "20240101".to_owned(),
        1 => format!("0{}", random.below(12)),
        2 => "x".to_owned(),
        _ => random.below(12).to_string(),
    };
    let parts: Vec<_> = (0..random.below(4)).map(|_| number(random)).collect();
    parts.iter().map(|part| format!(".{part}")).collect()
}

fn name(random: &mut Random) -> Vec<u8> {
    match random.below(25) {
        0 => b"ld-linux-x86-64.so.2".to_vec(),
        1 => b"ld-linux.so.2".to_vec(),
        2 => [stem(random), b".so.1.dpkg-new"].concat(),
        3 => [stem(random), b".so.1;5f3a"].concat(),
        4 => [stem(random), b".so.#prelink#.abcdef"].concat(),
        5 => [stem(random), b"-7.so"].concat(),
        6 => b"notlib.so.1".to_vec(),
        _ => [stem(random), b".so", version(random).as_bytes()].concat(),
    }
}

fn soname(random: &mut Random, name: &[u8]) -> Option<Vec<u8>> {
    Some(match random.below(20) {
        2..8 if !random.odd => [stem(random), b".so.1"].concat(),
        0 => return None,
        1 => name.to_vec(),
        2 => b"".to_vec(),
        3 => b"..".to_vec(),
        4 => vec![b'l'; 300],
        5 => b"other.name".to_vec(),
        6 => b"ld-linux.so.2".to_vec(),
        7 => [b"\xff\xfe", stem(random)].concat(),
        _ => [stem(random), b".so", version(random).as_bytes()].concat(),
    })
}

pub(crate) fn library(random: &mut Random, soname: Option<&[u8]>) -> Vec<u8> {
    let (machine, is_64) = match random.below(12) {
        0 | 1 => (3, false),
        2 => (62, false),
        3 => (183, true),
        _ => (62, true),
    };
    let needed: Option<&[u8]> =
        [None, Some(&b"libc.so.6"[..]), Some(b"libz.so.1")][random.below(3)];
    let interpreter: Option<&[u8]> =
        [None, None, None, Some(&b"/lib/ld-linux.so.2"[..]), Some(b"/x")][random.below(5)];
    let isa = [None, Some(1), Some(3), Some(7), Some(15), Some(0)][random.below(6)];
    Library { soname, machine, is_64, needed, interpreter, isa }.bytes()
}

fn broken(random: &mut Random) -> Vec<u8> {
    let whole = library(random, Some(b"liba.so.1"));
    match random.below(9) {
        0 => Vec::new(),
        1 => whole[..20].to_vec(),
        2 => whole[..64].to_vec(),
        3 => b"/* GNU ld script */ GROUP ( /lib/libc.so.6 ) and some more text behind it ...."
            .to_vec(),
        4 => [&b"!<arch>\n"[..], &[b' '; 80]].concat(),
        // What an a.out file is called depends on the order of the directory, and no cache keeps that.
        5 | 6 if !random.odd => vec![0; 82],
        kind @ (5 | 6) => [&AOUT[kind - 5][..], &[0; 80]].concat(),
        7 => vec![b'x'; 200],
        _ => {
            let mut file = whole;
            file[16] = 2;
            file
        }
    }
}

fn target(random: &mut Random, names: &[Vec<u8>]) -> Vec<u8> {
    let other = names[random.below(names.len())].clone();
    match random.below(10) {
        0 => b"nowhere.so.1".to_vec(),
        1 => [&b"./"[..], &other].concat(),
        2 => b"/usr/lib/x86_64-linux-gnu/libm.so.6".to_vec(),
        3 => b"..".to_vec(),
        4 => b"../../../../../../../../etc/ld.so.conf".to_vec(),
        _ => other,
    }
}
