//! [`Sized`]: a container of an image with so many libraries.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::overlay::Overlay;
use crate::{DRIVER, bare, cost, hook_on, image, shell, time};

const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

pub(crate) struct Sized {
    pub(crate) count: usize,
    pub(crate) container: Overlay,
    /// Behind what is mounted in it, which ends first.
    pub(crate) scratch: TempDir,
}

impl Sized {
    /// One with so many more than the tests' image has.
    pub(crate) fn new(extra: usize) -> Result<Self> {
        let (scratch, base) = (tempfile::tempdir()?, image::root()?);
        let (layer, count) = large_image(&scratch.path().join("image"), &base, extra)?;
        let container = Overlay::new(&scratch.path().join("container"), &[&layer, &base])?;
        Ok(Self { scratch, count, container })
    }

    pub(crate) fn hook(&self, engine: &str) -> Command {
        hook_on(&self.container.root(), self.scratch.path(), None, engine)
    }

    /// One read and one write of the cache, with little memory.
    pub(crate) fn copy(&self) -> Command {
        let etc = self.container.root().join("etc");
        let mut dd = Command::new("/bin/dd");
        dd.args(["bs=64K", "status=none"]);
        dd.arg(format!("if={}", etc.join("ld.so.cache").display()));
        dd.arg(format!("of={}", etc.join("copy").display()));
        dd
    }

    pub(crate) fn warm(&self) -> Result<()> {
        self.container.restore()
    }

    pub(crate) fn cold(&self) -> Result<()> {
        self.container.restore()?;
        cost::drop_page_cache()
    }
}

/// A layer with as many libraries, the links and the cache that an image has, and a driver that is not in it. Returns it and
/// the number of libraries of the image.
fn large_image(scratch: &Path, base: &Path, extra: usize) -> Result<(PathBuf, usize)> {
    let image = Overlay::new(scratch, &[base])?;
    let root = image.root();
    libraries(&root.join(LIBRARIES), extra)?;
    let driver = root.join(DRIVER.trim_start_matches('/'));
    fs::create_dir_all(&driver)?;
    libraries(&driver, 3)?;
    let count = files(&root.join(LIBRARIES))?;
    time(&mut bare(&root))?;
    Ok((image.into_layer(), count))
}

/// How many files there are; links to them are not libraries of their own.
fn files(dir: &Path) -> Result<usize> {
    let files = fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
    Ok(files.iter().filter(|file| file.file_type().is_ok_and(|kind| kind.is_file())).count())
}

/// Copies of one library, each with a SONAME of its own: the name is a place holder that is overwritten.
fn libraries(directory: &Path, count: usize) -> Result<()> {
    const HOLDER: &str = "libbench-0000.so.1";
    let scratch = tempfile::tempdir()?;
    let (source, model) = (scratch.path().join("x.c"), scratch.path().join("x.so"));
    fs::write(&source, "int x;")?;
    let mut cc = Command::new("cc");
    cc.args(["-shared", &format!("-Wl,-soname,{HOLDER}"), "-o"]).arg(&model).arg(&source);
    shell::output(&mut cc)?;
    let model = fs::read(&model)?;
    let at = model.windows(HOLDER.len()).position(|text| text == HOLDER.as_bytes());
    let at = at.context("the SONAME is not in the library")?;
    for number in 0..count {
        let name = format!("libbench-{number:04}.so.1");
        let mut library = model.clone();
        library[at..at + name.len()].copy_from_slice(name.as_bytes());
        fs::write(directory.join(format!("{name}.0")), library)?;
    }
    Ok(())
}
