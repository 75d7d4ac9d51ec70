//! What `tests/oracle.sh` needs beside the hook: roots that are generated, and the engines without a jail, compared with each
//! other. The program itself has no such command, for it would trust what is below the root.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nri_ldcache::engine::Links;
use nri_ldcache::root::Dir;
use rustix::fs::{AtFlags, symlinkat, unlinkat};

mod generate;
mod library;
mod property;

/// Changes links wherever it is told.
pub(crate) struct Unjailed;

impl Links for Unjailed {
    fn make(&mut self, dir: &Dir, name: &[u8], target: &[u8]) -> io::Result<()> {
        Ok(symlinkat(OsStr::from_bytes(target), dir, OsStr::from_bytes(name))?)
    }

    fn remove(&mut self, dir: &Dir, name: &[u8]) -> io::Result<()> {
        Ok(unlinkat(dir, OsStr::from_bytes(name), AtFlags::empty())?)
    }
}

fn main() -> Result<()> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["generate", root, base, seed] => {
            let mut random = generate::Random::new(seed.parse().context("read seed")?);
            generate::root(Path::new(root), Path::new(base), &mut random)
        }
        ["property", dir, seeds, bases @ ..] => {
            property::check(Path::new(dir), seeds.parse().context("read seeds")?, bases)
        }
        _ => bail!("usage: oracle generate ROOT BASE SEED | property DIR SEEDS BASE..."),
    }
}
