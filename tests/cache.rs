//! What is made once and kept between runs: node directories and images, outside `target/`.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::shell;

/// The path of `name` in the cache, made by `make` when it is not there yet.
///
/// `make` works on a name of its own that is renamed at the end, so a path that exists is complete; a file lock keeps
/// two test processes from making the same thing.
pub(crate) fn entry(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = directory()?;
    let path = cache.join(name);
    if path.exists() {
        return Ok(path);
    }
    fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
    let lock = File::create(cache.join(format!(".{name}.lock")))?;
    lock.lock().with_context(|| format!("lock {name} in {}", cache.display()))?;
    if !path.exists() {
        let unfinished = cache.join(format!(".{name}.unfinished"));
        remove(&unfinished)?;
        shell::tell(&format!("making {}, once", path.display()));
        make(&unfinished).with_context(|| format!("make {}", path.display()))?;
        fs::rename(&unfinished, &path)?;
    }
    Ok(path)
}

/// `$NRI_LDCACHE_CACHE`, or `nri-ldcache` in the user's cache directory.
fn directory() -> Result<PathBuf> {
    let from = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("NRI_LDCACHE_CACHE")
        .or_else(|| Some(from("XDG_CACHE_HOME")?.join("nri-ldcache")))
        .or_else(|| Some(from("HOME")?.join(".cache/nri-ldcache")))
        .context("none of NRI_LDCACHE_CACHE, XDG_CACHE_HOME and HOME is set")
}

/// What a killed run left; we hold the lock, so nobody is at work in it.
fn remove(unfinished: &Path) -> Result<()> {
    let removed = match unfinished.symlink_metadata() {
        Ok(found) if found.is_dir() => fs::remove_dir_all(unfinished),
        Ok(_) => fs::remove_file(unfinished),
        Err(_) => return Ok(()),
    };
    removed.with_context(|| format!("remove {}", unfinished.display()))
}
