//! The mount table of a process (proc_pid_mountinfo(5)).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The mounts of this process's namespace, outermost first.
#[derive(Debug)]
pub(super) struct MountInfo(Vec<Mount>);

/// One line of the table.
#[derive(Debug)]
struct Mount {
    id: u32,
    parent: u32,
    /// Major and minor number of the filesystem's device.
    device: String,
    /// The directory of the filesystem that is mounted.
    root: PathBuf,
    point: PathBuf,
    read_only: bool,
    filesystem: String,
}

impl MountInfo {
    /// Reads the table of this process.
    pub(super) fn read() -> io::Result<Self> {
        Ok(Self::parse(&String::from_utf8_lossy(&fs::read("/proc/self/mountinfo")?)))
    }

    fn parse(table: &str) -> Self {
        Self(table.lines().filter_map(Mount::parse).collect())
    }

    /// Where procfs and sysfs are mounted.
    pub(super) fn pseudo_filesystems(&self) -> impl Iterator<Item = &Path> {
        let found = self.0.iter().filter(|mount| matches!(&*mount.filesystem, "proc" | "sysfs"));
        found.map(|mount| mount.point.as_path())
    }

    /// Where they are mounted below `root`, as paths that start at `root`, each once.
    pub(super) fn pseudo_filesystems_below(&self, root: &Path) -> BTreeSet<PathBuf> {
        let below = self.pseudo_filesystems().filter_map(|path| path.strip_prefix(root).ok());
        below.map(|path| Path::new("/").join(path)).collect()
    }

    /// Everything mounted below and at `root`.
    pub(super) fn points_below(&self, root: &Path) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|mount| mount.point.as_path()).filter(move |path| path.starts_with(root))
    }

    /// Is the top mount at `point` read-only, and the same directory of the same filesystem, upon which it lies, not?
    ///
    /// That is what a runtime makes of `root.readonly`. crun before 1.28 does it before it runs the hooks.
    pub(super) fn covers_writable(&self, point: &Path) -> bool {
        let Some(top) = self.0.iter().rfind(|mount| mount.point == point) else { return false };
        let Some(below) = self.0.iter().find(|mount| mount.id == top.parent) else { return false };
        let Ok(way) = point.strip_prefix(&below.point) else { return false };
        let same = top.device == below.device
            && top.root.components().eq(below.root.join(way).components());
        top.read_only && !below.read_only && same
    }
}

impl Mount {
    /// Id, parent, device, root, mount point, options, optional fields, `-`, filesystem type.
    fn parse(line: &str) -> Option<Self> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut fields = mount.split(' ');
        let mut next = || fields.next();
        let (id, parent) = (next()?.parse().ok()?, next()?.parse().ok()?);
        let (device, root, point) = (next()?.to_owned(), unescape(next()?), unescape(next()?));
        let read_only = next()?.split(',').any(|option| option == "ro");
        let filesystem = filesystem.split(' ').next()?.to_owned();
        Some(Self { id, parent, device, root, point, read_only, filesystem })
    }
}

/// Blank, tab, newline and backslash are written as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let code =
            octal.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:21 / /proc rw,nosuid - proc proc rw
40 22 0:50 / /run/root\\040fs rw - overlay overlay rw
41 40 0:51 / /run/root\\040fs/proc rw - proc proc rw
42 40 0:52 / /run/root\\040fs/a\\134b ro shared:3 master:1 - sysfs sysfs ro
broken line
";

    #[test]
    fn pseudo_filesystems_are_found_by_type_wherever_they_are() {
        let table = MountInfo::parse(TABLE);
        let found: Vec<_> = table.pseudo_filesystems().collect();
        assert_eq!(found, ["/proc", "/run/root fs/proc", "/run/root fs/a\\b"].map(Path::new));
        let below = table.pseudo_filesystems_below(Path::new("/run/root fs"));
        assert_eq!(below, ["/proc", "/a\\b"].map(PathBuf::from).into());
        assert_eq!(table.points_below(Path::new("/run")).count(), 3);
    }

    #[test]
    fn a_root_that_the_runtime_made_read_only_is_told_from_one_that_is() {
        for (table, expected) in [
            // crun upon an overlay, and upon a plain directory of the host
            ("5 1 0:9 / /b/rootfs rw - overlay o rw\n6 5 0:9 / /b/rootfs ro - overlay o rw", true),
            ("1 0 8:1 / / rw - ext4 x rw\n6 1 8:1 /b/rootfs /b/rootfs ro - ext4 x rw", true),
            // a read-only snapshot, another directory of the host, and one that is writable
            ("1 0 8:1 / / rw - ext4 x rw\n6 1 0:9 / /b/rootfs ro - overlay o ro", false),
            ("1 0 8:1 / / rw - ext4 x rw\n6 1 8:1 /srv /b/rootfs ro - ext4 x rw", false),
            ("5 1 0:9 / /b/rootfs ro - overlay o rw\n6 5 0:9 / /b/rootfs ro - overlay o rw", false),
            ("5 1 0:9 / /b/rootfs rw - overlay o rw\n6 5 0:9 / /b/rootfs rw - overlay o rw", false),
            ("", false),
        ] {
            assert_eq!(
                MountInfo::parse(table).covers_writable(Path::new("/b/rootfs")),
                expected,
                "{table}"
            );
        }
    }

    #[test]
    fn a_backslash_without_three_digits_is_itself() {
        assert_eq!(unescape("/a\\04"), PathBuf::from("/a\\04"));
        assert_eq!(unescape("/a\\999"), PathBuf::from("/a\\999"));
    }
}
