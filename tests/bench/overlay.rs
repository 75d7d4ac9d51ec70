//! [`Overlay`]: a root with a layer of its own above those of an image, as container runtimes make it.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::shell;

pub(crate) struct Overlay {
    scratch: PathBuf,
    image: String,
    /// How many containers there were before.
    before: Cell<usize>,
}

impl Overlay {
    /// A container of an image, whose `layers` are in the order of overlayfs, the lowest last.
    pub(crate) fn new(scratch: &Path, layers: &[&Path]) -> Result<Self> {
        let layers: Vec<_> = layers.iter().map(|layer| layer.display().to_string()).collect();
        let (scratch, image) = (scratch.to_owned(), layers.join(":"));
        let container = Self { scratch, image, before: Cell::new(0) };
        container.mount()?;
        Ok(container)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.scratch.join("root")
    }

    /// Ends it, and returns the layer with what was changed.
    pub(crate) fn into_layer(self) -> PathBuf {
        self.part("upper")
    }

    /// Makes it what the image is: another container in its place.
    ///
    /// What the last one wrote stays until all is measured. Where it has no journal, ext4 passes over each inode that was deleted in
    /// the last minutes when it makes a file (`recently_deleted`, fs/ext4/ialloc.c), so that whoever makes more files than another
    /// would pay for how often all were measured before.
    pub(crate) fn restore(&self) -> Result<()> {
        shell::output(Command::new("umount").arg(self.root()))?;
        self.before.set(self.before.get() + 1);
        self.mount()
    }

    fn part(&self, name: &str) -> PathBuf {
        self.scratch.join(format!("{name}-{}", self.before.get()))
    }

    fn mount(&self) -> Result<()> {
        let [upper, work] = ["upper", "work"].map(|name| self.part(name));
        for dir in [&upper, &work, &self.root()] {
            fs::create_dir_all(dir)?;
        }
        let (upper, work) = (upper.display(), work.display());
        let options = format!("lowerdir={},upperdir={upper},workdir={work}", self.image);
        let mut mount = Command::new("mount");
        mount.args(["-t", "overlay", "-o", &options, "root"]).arg(self.root());
        shell::output(&mut mount).map(drop)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        // Or what is removed then is removed through it, and its own directory stays.
        let _ = Command::new("umount").arg(self.root()).status();
    }
}
