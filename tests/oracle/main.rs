//! Makes the cache of a root directory with an engine and without a jail, to be compared with ldconfig's: the other half
//! of `tests/oracle/run.sh`. The program itself has no such command, for it would trust what is below the root.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nri_ldcache::engine::{self, Links};
use nri_ldcache::root::{Dir, Root};
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
    let [engine, path, dirs @ ..] = args.as_slice() else {
        bail!("usage: oracle full|incremental ROOT [DIR...]")
    };
    if engine == "generate" {
        let [base, seed] = dirs else { bail!("usage: oracle generate ROOT BASE SEED") };
        let mut random = generate::Random::new(seed.parse().context("read seed")?);
        return generate::root(Path::new(path), Path::new(base), &mut random);
    }
    if engine == "property" {
        let [seeds, bases @ ..] = dirs else { bail!("usage: oracle property DIR SEEDS BASE...") };
        return property::check(Path::new(path), seeds.parse().context("read seeds")?, bases);
    }
    let dirs: Vec<_> = dirs.iter().map(String::as_str).collect();
    let start = Instant::now();
    let root = Root::at(Path::new(path))?;
    let made = match engine.as_str() {
        "full" => engine::full(&root, &[], &mut Unjailed)?,
        "incremental" => engine::incremental(&root, &[], &dirs, &mut Unjailed)?,
        other => bail!("no engine {other}"),
    };
    let cache = Path::new(path).join(engine::CACHE.trim_start_matches('/'));
    fs::write(&cache, &made.cache).with_context(|| format!("write {}", cache.display()))?;
    let took = start.elapsed().as_micros();
    println!("{took} us, {} entries, {} opened, {} links", made.entries, made.opened, made.links);
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find(|line| line.starts_with("VmHWM"));
    println!("{}, {} searched, {:?}", peak.unwrap_or_default(), made.searched, made.fallback);
    Ok(())
}
