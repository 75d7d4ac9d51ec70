//! A root that is refreshed again and again.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

/// What an update changes of a root, as the image has it.
pub(crate) struct Refreshed {
    root: PathBuf,
    cache: Vec<u8>,
}

impl Refreshed {
    pub(crate) fn new(root: PathBuf) -> Result<Self> {
        let cache = fs::read(root.join("etc/ld.so.cache"))?;
        Ok(Self { root, cache })
    }

    pub(crate) fn restore(&self) -> Result<()> {
        for dir in ["etc/ld.so.conf.d", "opt/driver"] {
            for entry in fs::read_dir(self.root.join(dir))? {
                let entry = entry?;
                let ours = entry.file_name().to_string_lossy().ends_with("-nvcr-ldcache.conf");
                if ours || entry.file_type()?.is_symlink() {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(fs::write(self.root.join("etc/ld.so.cache"), &self.cache)?)
    }
}
