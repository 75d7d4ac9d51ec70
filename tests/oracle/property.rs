//! The incremental engine makes what the full one makes, whatever is added.

use std::ffi::OsStr;
use std::fs::{self, DirEntry, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use nri_ldcache::elf::{Arch, Library};
use nri_ldcache::engine::{self, Dirs, Links, Made};
use nri_ldcache::ld_so_conf;
use nri_ldcache::root::{Dir, Root};

use crate::Unjailed;
use crate::generate::{self, Random};

/// Remembers changes and makes none, so that two engines see the same root.
#[derive(Debug, Default, PartialEq, Eq)]
struct Remembered(Vec<(u64, Vec<u8>, Option<Vec<u8>>)>);

impl Links for Remembered {
    fn make(&mut self, dir: &Dir, name: &[u8], target: &[u8]) -> io::Result<()> {
        // No filesystem takes more (NAME_MAX, limits.h).
        if name.len() > 255 {
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        self.0.push((dir.id().1, name.to_owned(), Some(target.to_owned())));
        Ok(())
    }

    fn remove(&mut self, dir: &Dir, name: &[u8]) -> io::Result<()> {
        self.0.push((dir.id().1, name.to_owned(), None));
        Ok(())
    }
}

/// Checks as many seeds, with roots below `dir`.
pub(crate) fn check(dir: &Path, seeds: u64, bases: &[&str]) -> Result<()> {
    let (mut incremental, mut opened, mut full) = (0, 0, 0);
    for seed in 0..seeds {
        let root = dir.join(format!("root-{seed}"));
        let base = bases.get(seed as usize % bases.len()).context("no base")?;
        let [ours, theirs] =
            one(&root, Path::new(base), seed).with_context(|| format!("seed {seed}, {base}"))?;
        incremental += u64::from(ours.fallback.is_none());
        opened += ours.opened;
        full += theirs.opened;
        if let Some(reason) = ours.fallback.filter(|_| seed < 100) {
            println!("seed {seed} fell back: {reason}");
        }
        fs::remove_dir_all(&root)?;
    }
    println!("{seeds} seeds equal, {incremental} incremental, {opened} files opened for {full}");
    Ok(())
}

fn one(path: &Path, base: &Path, seed: u64) -> Result<[Made; 2]> {
    // Names that are none make the incremental engine fall back.
    let random = Random::new(seed);
    let mut random = if seed.is_multiple_of(8) { random } else { random.tame() };
    generate::root(path, base, &mut random)?;
    let root = Root::at(path)?;
    let cache = path.join("etc/ld.so.cache");
    // More than once, for a link that one run makes may be what another one counts.
    for _ in 0..8 {
        let lines = ld_so_conf::dir_lines(&root)?;
        let made = engine::full(&root, Dirs { lines: &lines, added: &[] }, &mut Unjailed, later())?;
        fs::write(&cache, &*made.cache)?;
        if made.links == 0 {
            break;
        }
    }
    let written = SystemTime::now() + Duration::from_millis(20);
    File::options().write(true).open(&cache)?.set_modified(written)?;
    let added = add(path, &mut random, written)?;
    let added: Vec<_> = added.iter().map(String::as_str).collect();
    let (mut ours, mut theirs) = (Remembered::default(), Remembered::default());
    let lines = ld_so_conf::dir_lines(&root)?;
    let dirs = Dirs { lines: &lines, added: &added };
    let incremental = engine::incremental(&root, dirs, &mut ours, later())?;
    let full = engine::full(&root, dirs, &mut theirs, later())?;
    if incremental.cache != full.cache {
        fs::write(path.join("full"), &*full.cache)?;
        fs::write(path.join("incremental"), &*incremental.cache)?;
    }
    ensure!(incremental.cache == full.cache, "caches differ");
    ours.0.sort();
    theirs.0.sort();
    ensure!(ours == theirs, "links differ: {ours:?} {theirs:?}");
    Ok([incremental, full])
}

/// Adds directories and files, as a runtime and its hooks do; returns the directories that the hook is told of.
fn add(root: &Path, random: &mut Random, written: SystemTime) -> Result<Vec<String>> {
    let mut told = Vec::new();
    for dir in ["usr/local/nvidia/lib64", "opt/new/lib", "opt/last"] {
        if random.once_in(2) {
            let count = random.below(12);
            libraries(&root.join(dir), random, count)?;
            let conf = random.one(&["00-nvcr", "0", "zz-nvcr", "Aa"]);
            fs::write(
                root.join(format!("etc/ld.so.conf.d/{conf}-ldcache{count}.conf")),
                format!("/{dir}\n"),
            )?;
            told.push(format!("/{dir}"));
        }
    }
    for dir in ["usr/lib/x86_64-linux-gnu", "usr/lib", "opt/a/lib", "usr/local/lib"] {
        if !random.once_in(3) || !root.join(dir).exists() {
            continue;
        }
        let count = random.below(10);
        libraries(&root.join(dir), random, count)?;
        leave(&root.join(dir), random)?;
        if random.once_in(3) {
            symlink("liba.so.1", root.join(dir).join("liba.so")).ok();
        }
        // Either the change shows in the directory, or the hook is told.
        match random.once_in(2) {
            true => File::open(root.join(dir))?.set_modified(written + Duration::from_secs(1))?,
            false => {
                told.extend([format!("/{dir}"), format!("/{}", dir.trim_start_matches("usr/"))])
            }
        }
    }
    Ok(told)
}

/// Leaves a directory as a container of another driver does that ran before: of its files the empty ones on which they were
/// mounted, and not all links. Links for the linker of compilers lead to another version.
fn leave(dir: &Path, random: &mut Random) -> Result<()> {
    let mut entries = fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(DirEntry::file_name);
    let targets: Vec<_> = entries.iter().filter_map(|it| fs::read_link(it.path()).ok()).collect();
    let is_target = |name: &OsStr| targets.iter().any(|target| target.file_name() == Some(name));
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.as_encoded_bytes();
        let is_link = entry.file_type()?.is_symlink();
        if !is_link && is_mount_point(&path)? && random.once_in(2) {
            fs::write(&path, "")?;
        } else if is_link && !is_target(&entry.file_name()) && is_short(&path)? && random.once_in(2)
        {
            fs::remove_file(&path)?;
            let stem = name.strip_suffix(b".so").filter(|stem| stem.starts_with(b"lib"));
            if let Some(stem) = stem {
                let [said, file] = [&b".so.9"[..], b".so.9.0"].map(|end| [stem, end].concat());
                let file = OsStr::from_bytes(&file);
                fs::write(dir.join(file), generate::library(random, Some(&said)))?;
                symlink(file, &path)?;
            }
        }
    }
    Ok(())
}

/// Is it a link to a file whose name only goes on, as packages have them?
fn is_short(link: &Path) -> Result<bool> {
    let (name, target) = (link.file_name().context("a link has a name")?, fs::read_link(link)?);
    Ok(target.as_os_str().as_bytes().starts_with(name.as_bytes()))
}

/// Is it a library of the driver, by its file's name, and its own?
fn is_mount_point(path: &Path) -> Result<bool> {
    let is_driver = |name: &[u8]| {
        let version = name.strip_prefix(b"libcuda.so");
        // Temporary files of package managers are none.
        version.is_some_and(|version| !version.iter().any(|byte| b";#-".contains(byte)))
    };
    let library = Library::read(File::open(path)?, Arch::own()).ok();
    let name = path.file_name().context("a file has a name")?;
    Ok(library.and_then(|library| library.soname).is_some_and(|said| is_driver(&said))
        && is_driver(name.as_bytes()))
}

/// Adds libraries and replaces none: what an entry speaks of is not read again.
fn libraries(dir: &Path, random: &mut Random, count: usize) -> Result<()> {
    let new = dir.with_extension("new");
    generate::libraries(&new, random, count)?;
    fs::create_dir_all(dir)?;
    for entry in fs::read_dir(&new)? {
        let entry = entry?;
        let (from, to) = (new.join(entry.file_name()), dir.join(entry.file_name()));
        if to.symlink_metadata().is_err() {
            fs::rename(from, to)?;
        }
    }
    Ok(fs::remove_dir_all(new)?)
}

/// A time that is not reached.
fn later() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}
