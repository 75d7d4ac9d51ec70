//! The mount table of a process (proc_pid_mountinfo(5)).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Where procfs and sysfs are mounted below `root`, as paths that start at `root`.
pub(super) fn pseudo_filesystems_below(root: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let table = String::from_utf8_lossy(&table);
    let below = pseudo_filesystems(&table);
    Ok(below
        .iter()
        .filter_map(|path| path.strip_prefix(root).ok())
        .map(|path| Path::new("/").join(path))
        .collect())
}

/// The mount points of every procfs and sysfs of `table`.
pub(super) fn pseudo_filesystems(table: &str) -> Vec<PathBuf> {
    entries(table)
        .filter(|(_, kind)| matches!(*kind, "proc" | "sysfs"))
        .map(|(path, _)| path)
        .collect()
}

/// The mount points below and at `root`, outermost first.
pub(super) fn mount_points_below(root: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let table = String::from_utf8_lossy(&table);
    Ok(entries(&table).map(|(path, _)| path).filter(|path| path.starts_with(root)).collect())
}

/// Mount point and filesystem type of each line: fields 5, and the first behind the separator `-`.
fn entries(table: &str) -> impl Iterator<Item = (PathBuf, &str)> {
    table.lines().filter_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        Some((unescape(mount.split(' ').nth(4)?), filesystem.split(' ').next()?))
    })
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
        let found = pseudo_filesystems(TABLE);
        assert_eq!(found, ["/proc", "/run/root fs/proc", "/run/root fs/a\\b"].map(PathBuf::from));
    }

    #[test]
    fn a_backslash_without_three_digits_is_itself() {
        assert_eq!(unescape("/a\\04"), PathBuf::from("/a\\04"));
        assert_eq!(unescape("/a\\999"), PathBuf::from("/a\\999"));
    }
}
