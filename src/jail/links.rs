//! Changes of links in the jail.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};

use super::Confined;
use crate::engine::Links;
use crate::root::Dir;

/// A confined process may: its mounts are read-only but for the container's own root filesystem.
impl Links for &Confined {
    fn make(&mut self, dir: &Dir, name: &[u8], target: &[u8]) -> io::Result<()> {
        Ok(symlinkat(OsStr::from_bytes(target), dir, OsStr::from_bytes(name))?)
    }

    fn remove(&mut self, dir: &Dir, name: &[u8]) -> io::Result<()> {
        Ok(unlinkat(dir, OsStr::from_bytes(name), UnlinkatFlags::NoRemoveDir)?)
    }
}
