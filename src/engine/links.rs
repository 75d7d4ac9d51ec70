//! [`Links`]: who may change links in a directory of the image.

use std::io;

use crate::root::Dir;

/// Changes of links in an open directory.
///
/// A trait, so that the engine itself can write nothing: in the hook it is a confined process that does, and only there.
pub trait Links {
    /// Makes `name` a symbolic link to `target`, both names in the directory; nothing of that name is there.
    fn make(&mut self, dir: &Dir, name: &[u8], target: &[u8]) -> io::Result<()>;

    /// Removes the symbolic link `name`.
    fn remove(&mut self, dir: &Dir, name: &[u8]) -> io::Result<()>;
}

/// Changes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLinks;

impl Links for NoLinks {
    fn make(&mut self, _: &Dir, _: &[u8], _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn remove(&mut self, _: &Dir, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

/// Can the name be an entry of a directory? A `DT_SONAME` is whatever a stranger wrote.
pub(super) fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0)
}

/// Names of loaders, whose links Debian's ldconfig leaves as they are, lest a foreign architecture's loader be taken for
/// ours (local-ldconfig-ignore-ld.so.diff, without the three that miss a comma there).
pub(super) fn is_loader(name: &[u8]) -> bool {
    const LOADERS: [&[u8]; 12] = [
        b"ld-kfreebsd-x86-64.so.1",
        b"ld-linux-aarch64.so.1",
        b"ld-linux-aarch64_be.so.1",
        b"ld-linux-armhf.so.3",
        b"ld-linux-ia64.so.2",
        b"ld-linux-mipsn8.so.1",
        b"ld-linux-x86-64.so.2",
        b"ld-linux.so.2",
        b"ld-linux.so.3",
        b"ld.so.1",
        b"ld64.so.1",
        b"ld64.so.2",
    ];
    LOADERS.contains(&name)
}
