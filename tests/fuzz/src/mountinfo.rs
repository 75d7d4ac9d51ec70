//! Mount tables: what the kernel writes is read as it was, and what is covered and looked at is below the root.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nri_ldcache::fuzzing::{Mounts, plain};

const ROOT: &str = "/run/root fs";

/// Reads an input as a table, and as a line `ro|rw TYPE POINT` for each mount, with a NUL behind it: a point may have newlines.
pub fn check(data: &[u8]) {
    for root in ["/", ROOT, "/a"].map(Path::new) {
        let table = Mounts::parse(data);
        below(&table, root, data.len());
        let mounts: Vec<_> = data.split(|byte| *byte == 0).filter_map(Mount::read).collect();
        let written: Vec<u8> = mounts.iter().flat_map(Mount::line).collect();
        let table = Mounts::parse(&written);
        below(&table, root, written.len());
        as_written(&table, &mounts, root);
    }
}

/// What holds of any table: what is derived is a point of it, below the root, and none is longer than its line.
fn below(table: &Mounts, root: &Path, len: usize) {
    let points = table.points_below(root);
    assert!(points.iter().all(|point| point.starts_with(root)));
    let bytes: usize = points.iter().map(|point| point.as_os_str().len()).sum();
    assert!(bytes <= len, "{bytes} bytes of points in {len}");
    let [pseudo, visible] = table.visible_below(root);
    for path in pseudo.iter().chain(&visible) {
        let inner = path.strip_prefix("/").expect("an absolute path");
        assert!(inner.is_relative() && !path.components().any(|part| part == Component::ParentDir));
        assert!(points.contains(&&*root.join(inner)), "{path:?} is no mount below {root:?}");
    }
    let writable = table.writable_below(root);
    assert!(writable.is_none_or(|path| points.contains(&path) && path != root));
}

/// What holds of a table that the kernel could write.
fn as_written(table: &Mounts, mounts: &[Mount], root: &Path) {
    let inside: Vec<_> = mounts.iter().filter(|mount| mount.point.starts_with(root)).collect();
    assert_eq!(
        table.points_below(root),
        inside.iter().map(|mount| &*mount.point).collect::<Vec<_>>()
    );
    // Turned around: the last mount is seen, and hides what is below it from all before.
    let (mut seen, mut covers): (Vec<&Mount>, Vec<&Path>) = (Vec::new(), Vec::new());
    for mount in mounts.iter().rev() {
        if !covers.iter().any(|cover| mount.point.starts_with(cover)) {
            seen.push(mount);
        }
        covers.push(&mount.point);
    }
    seen.reverse();
    seen.retain(|mount| mount.point.starts_with(root));
    let paths = |wanted: &dyn Fn(&Mount) -> bool| -> Vec<PathBuf> {
        let wanted = seen.iter().filter(|mount| wanted(mount));
        wanted.map(|mount| mount.inner(root)).collect()
    };
    let [pseudo, visible] = table.visible_below(root);
    assert_eq!(pseudo, paths(&Mount::pseudo));
    assert_eq!(visible, paths(&|mount| !mount.pseudo() && mount.point != root));
    let writable = seen.iter().find(|mount| !mount.read_only && mount.point != root);
    assert_eq!(table.writable_below(root), writable.map(|mount| &*mount.point));
}

struct Mount {
    read_only: bool,
    kind: Vec<u8>,
    point: PathBuf,
}

impl Mount {
    fn read(text: &[u8]) -> Option<Self> {
        let mut words = text.splitn(3, |byte| *byte == b' ');
        let (read_only, kind) = (words.next()? == b"ro", words.next()?);
        let kind = kind.iter().copied().filter(u8::is_ascii_alphanumeric).collect();
        let point = [b"/", &plain(words.next()?)[..]].concat();
        Some(Self { read_only, kind, point: PathBuf::from(OsStr::from_bytes(&point)) })
    }

    fn pseudo(&self) -> bool {
        [&b"proc"[..], b"sysfs"].contains(&&*self.kind)
    }

    fn inner(&self, root: &Path) -> PathBuf {
        Path::new("/").join(self.point.strip_prefix(root).expect("a path below the root"))
    }

    /// As `show_mountinfo` writes it (fs/proc_namespace.c).
    fn line(&self) -> Vec<u8> {
        let mut line = b"7 1 0:9 / ".to_vec();
        // One slash too many at the start is none for a path.
        for byte in self.point.as_os_str().as_bytes() {
            match byte {
                b' ' | b'\t' | b'\n' | b'\\' => line.extend(format!("\\{byte:03o}").bytes()),
                byte => line.push(*byte),
            }
        }
        line.extend(if self.read_only { &b" ro"[..] } else { b" rw" });
        line.extend([b",relatime shared:3 - ", &self.kind[..], b" none ro\n"].concat());
        line
    }
}
