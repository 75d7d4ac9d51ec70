//! [`Glibc`]: which C library the container has, for ldconfig differs by version and distribution.

use std::io::{self, Read};

use super::strings;
use crate::elf::ReadOnly;
use crate::root::Root;

/// Loaders of the architectures that glibc has one name for (sysdeps/*/shlib-versions).
const LOADERS: &[&str] = match std::env::consts::ARCH.as_bytes() {
    b"x86_64" => &["/lib64/ld-linux-x86-64.so.2"],
    b"aarch64" => &["/lib/ld-linux-aarch64.so.1"],
    b"powerpc64" => &["/lib64/ld64.so.2", "/lib64/ld64.so.1"],
    b"s390x" => &["/lib/ld64.so.1"],
    b"riscv64" => &["/lib/ld-linux-riscv64-lp64d.so.1"],
    b"loongarch64" => &["/lib64/ld-linux-loongarch-lp64d.so.1"],
    _ => &[],
};

/// Debian's has 230 kB.
const LIMIT: u64 = 8 << 20;
const MAX_SYSTEM_DIRS: usize = 16;
const MAX_PATH: usize = 256;
/// Debian's has 60 bytes. It is written into the cache.
const MAX_BANNER: usize = 256;

/// The container's C library, as far as its loader tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Glibc {
    /// What stands behind the program's name in its banner: package, and release.
    banner: Option<Vec<u8>>,
    /// Major and minor version.
    version: Option<(u32, u32)>,
    system_dirs: Vec<Vec<u8>>,
}

impl Glibc {
    /// Reads the loader of a root; without one that is glibc's, nothing is known.
    ///
    /// The loader, because it is what will read the cache, and because it has both as plain strings: the text of
    /// `ld.so --version`, and the directories that it searches by itself.
    pub fn of(root: &Root) -> Self {
        LOADERS.iter().find_map(|path| Self::of_loader(root, path)).unwrap_or_default()
    }

    /// Its strings are in a fifth of it, or with older linkers anywhere.
    fn of_loader(root: &Root, path: &str) -> Option<Self> {
        let open = || root.file(path.as_bytes()).ok();
        let constants = open().and_then(|file| ReadOnly::of(file, LIMIT).ok());
        let found = constants.and_then(|constants| Self::read(constants).ok());
        let is_whole = |found: &Self| found.banner.is_some() && !found.system_dirs.is_empty();
        found.filter(is_whole).or_else(|| Self::read(open()?.take(LIMIT)).ok())
    }

    /// Reads a loader, or the strings of one.
    ///
    /// The directories are the first strings in a row that are absolute ones with a slash behind, one of them a `lib`
    /// (`SYSTEM_DIRS`, elf/Makefile).
    pub(crate) fn read(loader: impl Read) -> io::Result<Self> {
        let mut found = Self::default();
        let (mut dirs, mut behind) = (Vec::new(), None);
        // Most of it is no text: what strings can be is told by rare bytes in them.
        strings::pieces(loader, |place, piece| {
            for dot in strings::places(b'.', piece) {
                if let Some(string) = dot.checked_sub(2).and_then(|at| strings::at(piece, at))
                    && let Some(banner) = banner(string)
                {
                    found.banner = Some(banner.to_owned());
                    found.version = version(banner);
                }
            }
            for slash in strings::places(b'/', piece) {
                if let Some((start, string)) = strings::until(piece, slash)
                    && let Some(dir) = system_dir(string)
                {
                    if behind != Some(place + start) || dirs.len() == MAX_SYSTEM_DIRS {
                        found.take_dirs(&mut dirs);
                    }
                    dirs.push(dir.to_owned());
                    behind = Some(place + slash + 2);
                }
            }
        })?;
        found.take_dirs(&mut dirs);
        Ok(found)
    }

    fn take_dirs(&mut self, dirs: &mut Vec<Vec<u8>>) {
        let has_lib = |dir: &Vec<u8>| dir.windows(4).any(|part| part == b"/lib");
        let dirs = std::mem::take(dirs);
        if self.system_dirs.is_empty() && dirs.iter().any(has_lib) {
            self.system_dirs = dirs;
        }
    }

    /// Takes what is not known of the loader from the generator of a cache, which is ldconfig's banner.
    pub fn or_generator(mut self, generator: Option<&[u8]>) -> Self {
        let banner = generator.and_then(|generator| generator.strip_prefix(b"ldconfig "));
        let banner = banner.filter(|banner| banner.len() <= MAX_BANNER);
        if let (None, Some(banner)) = (&self.banner, banner) {
            self.banner = Some(banner.to_owned());
            self.version = version(banner);
        }
        self
    }

    /// What ldconfig of this C library calls itself in a cache: `"ldconfig " PKGVERSION RELEASE " release version "
    /// VERSION` (elf/cache.c). Without a C library to name we name ourselves.
    pub fn generator(&self) -> Vec<u8> {
        match &self.banner {
            Some(banner) => [b"ldconfig ", banner.as_slice()].concat(),
            None => concat!("nri-ldcache ", env!("CARGO_PKG_VERSION")).into(),
        }
    }

    /// Is it one before 2.37? Those knew other C libraries, and legacy hwcaps subdirectories (NEWS for 2.37).
    pub fn is_legacy(&self) -> bool {
        self.version.is_some_and(|version| version < (2, 37))
    }

    /// Does its ldconfig pass over the temporary files of package managers? Since 2.39.
    pub fn skips_temporary_files(&self) -> bool {
        self.version.is_none_or(|version| version >= (2, 39))
    }

    /// The directories that ldconfig adds behind those of the configuration.
    ///
    /// Debian's ldconfig takes the loader's (local-ldconfig-multiarch.diff). Others take `SLIBDIR` and `LIBDIR`, which
    /// are the loader's too where there is no multiarch, and add the relatives of each (`add_system_dir` in
    /// sysdeps/*/dl-cache.h).
    pub fn system_dirs(&self, debian: bool) -> Vec<Vec<u8>> {
        let is_multiarch = |dir: &Vec<u8>| dir.windows(10).any(|part| part == b"-linux-gnu");
        match self.system_dirs.as_slice() {
            [] if debian => multiarch(),
            [] => [b"/lib64".as_slice(), b"/usr/lib64"].into_iter().flat_map(relatives).collect(),
            dirs if dirs.iter().any(is_multiarch) => dirs.to_vec(),
            dirs => dirs.iter().flat_map(|dir| relatives(dir)).collect(),
        }
    }
}

fn multiarch() -> Vec<Vec<u8>> {
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    let dirs = [&format!("/lib/{triplet}"), &format!("/usr/lib/{triplet}"), "/lib", "/usr/lib"];
    dirs.map(|dir| dir.as_bytes().to_owned()).into()
}

/// A directory and those of the other ABIs beside it.
fn relatives(dir: &[u8]) -> Vec<Vec<u8>> {
    let others: &[&[u8]] = match std::env::consts::ARCH {
        "x86_64" => &[b"64", b"x32"],
        "aarch64" => &[b"64"],
        _ => return vec![dir.to_owned()],
    };
    let mut base = dir;
    for other in others {
        if let Some(start) = dir.strip_suffix(*other).filter(|start| start.ends_with(b"/lib")) {
            base = start;
        }
    }
    let mut dirs = vec![base.to_owned()];
    if base.ends_with(b"/lib") {
        dirs.extend(others.iter().map(|other| [base, other].concat()));
    }
    dirs
}

/// What follows the name in `ld.so (Debian GLIBC 2.36-9) stable release version 2.36.`, the first line of a text.
fn banner(text: &[u8]) -> Option<&[u8]> {
    let line = text.strip_prefix(b"ld.so ")?.split(|byte| *byte == b'\n').next()?;
    version(line)?;
    line.strip_suffix(b".").filter(|banner| banner.len() <= MAX_BANNER)
}

fn version(banner: &[u8]) -> Option<(u32, u32)> {
    let banner = std::str::from_utf8(banner).ok()?;
    let mut numbers = banner.rsplit_once(" release version ")?.1.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn system_dir(string: &[u8]) -> Option<&[u8]> {
    let dir = string.strip_suffix(b"/")?;
    let is_dir = dir.starts_with(b"/") && dir.iter().all(u8::is_ascii_graphic);
    (is_dir && dir.len() < MAX_PATH).then_some(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loaders_tell_their_version_and_directories() {
        let loader = b"\x7fELF\0/x/\0\0junk\0/lib/x-linux-gnu/\0/lib/\0\0ld.so (D GLIBC 2.36-9) stable release version 2.36.\nCopyright\0";
        let glibc = Glibc::read(loader.as_slice()).unwrap();
        assert_eq!(glibc.generator(), b"ldconfig (D GLIBC 2.36-9) stable release version 2.36");
        assert!(glibc.is_legacy() && !glibc.skips_temporary_files());
        assert_eq!(glibc.system_dirs(false), [b"/lib/x-linux-gnu".to_vec(), b"/lib".to_vec()]);
        let none = Glibc::default();
        assert!(!none.is_legacy() && none.generator().starts_with(b"nri-ldcache "));
        let taken = none.or_generator(Some(b"ldconfig (GNU libc) stable release version 2.41"));
        assert_eq!(taken.version, Some((2, 41)));
        assert_eq!(taken.clone().or_generator(Some(b"ldconfig other")), taken);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn directories_have_relatives() {
        let text = |dir: &[u8]| relatives(dir).join(&b' ');
        assert_eq!(text(b"/usr/lib64"), b"/usr/lib /usr/lib64 /usr/libx32");
        assert_eq!(text(b"/lib"), b"/lib /lib64 /libx32");
        assert_eq!(
            text(b"/nix/store/x/lib"),
            b"/nix/store/x/lib /nix/store/x/lib64 /nix/store/x/libx32"
        );
        assert_eq!(text(b"/opt/y"), b"/opt/y");
    }
}
