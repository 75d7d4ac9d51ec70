//! The mount table of a process (proc_pid_mountinfo(5)). Paths are bytes: an image may have names that are not UTF-8.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

/// The mounts of this process's namespace, in the order in which they were made visible.
#[derive(Debug, Default)]
pub(crate) struct MountInfo(Vec<Mount>);

/// One line of the table.
#[derive(Debug)]
struct Mount {
    id: u32,
    parent: u32,
    /// Major and minor number of the filesystem's device.
    device: Vec<u8>,
    /// The directory of the filesystem that is mounted.
    root: PathBuf,
    point: PathBuf,
    read_only: bool,
    /// Is it a procfs or a sysfs, which have links and files that lead out of any root?
    pseudo: bool,
}

/// The directory of this process in procfs, to read its table when its root has none.
#[derive(Debug)]
pub(crate) struct ThisProcess(OwnedFd);

impl ThisProcess {
    pub(super) fn open() -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self(open("/proc/self", flags, Mode::empty())?))
    }

    /// What is mounted where this process can get to: the rest of a node, which has thousands, is not written.
    pub(super) fn mounts(self) -> io::Result<MountInfo> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let file = File::from(openat(&self.0, "mountinfo", flags, Mode::empty())?);
        // A file of procfs tells no size, and asked for little it gives little.
        let mut table = Vec::with_capacity(16 << 10);
        (&file).read_to_end(&mut table)?;
        Ok(MountInfo::parse(&table))
    }
}

impl MountInfo {
    /// Reads the table of this process.
    pub(super) fn read() -> io::Result<Self> {
        ThisProcess::open()?.mounts()
    }

    pub(crate) fn parse(table: &[u8]) -> Self {
        Self(table.split(|byte| *byte == b'\n').filter_map(Mount::parse).collect())
    }

    /// Where procfs and sysfs are mounted.
    pub(super) fn pseudo_filesystems(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().filter(|mount| mount.pseudo).map(|mount| mount.point.as_path())
    }

    /// Where they are mounted and can be reached below `root`, as paths that start at `root`.
    pub(crate) fn pseudo_filesystems_below(&self, root: &Path) -> Vec<PathBuf> {
        self.below(root, |mount| mount.pseudo)
    }

    /// Where anything else is.
    pub(crate) fn visible_below(&self, root: &Path) -> Vec<PathBuf> {
        self.below(root, |mount| !mount.pseudo && mount.point != root)
    }

    fn below(&self, root: &Path, wanted: impl Fn(&Mount) -> bool) -> Vec<PathBuf> {
        let below = self.visible(|mount| mount.point.starts_with(root) && wanted(mount));
        let below = below.filter_map(|mount| mount.point.strip_prefix(root).ok());
        below.map(|path| Path::new("/").join(path)).collect()
    }

    /// Everything mounted below and at `root`.
    pub(crate) fn points_below(&self, root: &Path) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|mount| mount.point.as_path()).filter(move |path| path.starts_with(root))
    }

    /// What can be reached below `root`, but not at it, and be written through.
    pub(crate) fn writable_below(&self, root: &Path) -> Option<&Path> {
        let below = |mount: &Mount| mount.point.starts_with(root) && mount.point != root;
        let mut writable = self.visible(|mount| !mount.read_only && below(mount));
        writable.next().map(|mount| mount.point.as_path())
    }

    /// The mounts of those wanted that no later one hides, by lying upon them or upon a directory above them. A node has
    /// thousands, a container dozens: most need not be compared with all.
    fn visible(&self, wanted: impl Fn(&Mount) -> bool) -> impl Iterator<Item = &Mount> {
        let hides = |later: &Mount, mount: &Mount| mount.point.starts_with(&later.point);
        let later = |at: usize| self.0[at + 1..].iter();
        let all = self.0.iter().enumerate();
        all.filter(move |(at, mount)| wanted(mount) && !later(*at).any(|later| hides(later, mount)))
            .map(|(_, mount)| mount)
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

/// Is something mounted at `path`?
pub(crate) fn is_mount_point(path: &Path) -> io::Result<bool> {
    Ok(MountInfo::read()?.0.iter().any(|mount| mount.point == path))
}

impl Mount {
    /// Id, parent, device, root, mount point, options, optional fields, `-`, filesystem type.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let mut number = || str::from_utf8(fields.next()?).ok()?.parse().ok();
        let (id, parent) = (number()?, number()?);
        let (device, root, point) =
            (fields.next()?.to_owned(), unescape(fields.next()?), unescape(fields.next()?));
        let read_only = fields.next()?.split(|byte| *byte == b',').any(|option| option == b"ro");
        let pseudo = fields.skip_while(|field| *field != b"-").nth(1)?;
        let pseudo = matches!(pseudo, b"proc" | b"sysfs");
        // The kernel writes no other points, and where it does not write the table, none leads out of a root.
        let plain =
            point.is_absolute() && !point.components().any(|part| part == Component::ParentDir);
        plain.then_some(Self { id, parent, device, root, point, read_only, pseudo })
    }
}

/// Blank, tab, newline and backslash are written as three octal digits.
fn unescape(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let octal = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let code =
            octal.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    const TABLE: &[u8] = b"\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:21 / /proc rw,nosuid - proc proc rw
40 22 0:50 / /run/root\\040fs rw - overlay overlay rw
41 40 0:51 / /run/root\\040fs/proc rw - proc proc rw
42 40 0:52 / /run/root\\040fs/a\\134b ro shared:3 master:1 - sysfs sysfs ro
43 40 0:51 / /run/root\\040fs/\xff rw - proc proc rw
44 40 0:51 / /run/root\\040fs/hidden/proc rw - proc proc rw
45 40 0:60 / /run/root\\040fs/hidden ro - tmpfs tmpfs rw
broken line
";

    #[test]
    fn pseudo_filesystems_are_found_by_type_wherever_they_can_be_reached() {
        let table = MountInfo::parse(TABLE);
        assert_eq!(table.pseudo_filesystems().count(), 5);
        let below = table.pseudo_filesystems_below(Path::new("/run/root fs"));
        let below: Vec<_> = below.iter().map(|path| path.as_os_str().as_bytes()).collect();
        assert_eq!(below, [&b"/proc"[..], b"/a\\b", b"/\xff"]);
        assert_eq!(table.points_below(Path::new("/run")).count(), 6);
    }

    #[test]
    fn what_can_be_written_below_a_root_is_found() {
        let table = MountInfo::parse(TABLE);
        let writable = table.writable_below(Path::new("/run/root fs"));
        assert_eq!(writable, Some(Path::new("/run/root fs/proc")));
        assert_eq!(table.writable_below(Path::new("/run/root fs/hidden")), None);
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
            let found = MountInfo::parse(table.as_bytes()).covers_writable(Path::new("/b/rootfs"));
            assert_eq!(found, expected, "{table}");
        }
    }

    #[test]
    fn a_backslash_without_three_digits_is_itself() {
        assert_eq!(unescape(b"/a\\04"), PathBuf::from("/a\\04"));
        assert_eq!(unescape(b"/a\\999"), PathBuf::from("/a\\999"));
    }
}
