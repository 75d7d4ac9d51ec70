//! [`Overlay`]: a root with a layer of its own above those of an image, as container runtimes make it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::shell;

pub(crate) struct Overlay {
    scratch: PathBuf,
    image: String,
}

impl Overlay {
    /// A container of an image, whose `layers` are in the order of overlayfs, the lowest last.
    pub(crate) fn new(scratch: &Path, layers: &[&Path]) -> Result<Self> {
        let layers: Vec<_> = layers.iter().map(|layer| layer.display().to_string()).collect();
        let container = Self { scratch: scratch.to_owned(), image: layers.join(":") };
        container.mount()?;
        Ok(container)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.scratch.join("root")
    }

    /// Ends it, and returns the layer with what was changed.
    pub(crate) fn into_layer(self) -> Result<PathBuf> {
        shell::output(Command::new("umount").arg(self.root()))?;
        Ok(self.scratch.join("upper"))
    }

    /// Makes it what the image is.
    pub(crate) fn restore(&self) -> Result<()> {
        shell::output(Command::new("umount").arg(self.root()))?;
        fs::remove_dir_all(&self.scratch)?;
        self.mount()
    }

    fn mount(&self) -> Result<()> {
        let [upper, work] = ["upper", "work"].map(|part| self.scratch.join(part));
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
