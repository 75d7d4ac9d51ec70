//! What is private otherwise, for the targets in `tests/fuzz`: parsers without the files that their bytes come from.
//!
//! Only there with the feature `fuzzing`. No part of the program, and no interface that anybody may rely on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use nri::api::{Container, PodSandbox};

use crate::config::Settings;
use crate::engine::Glibc;
use crate::hook::Done;
use crate::jail::{MountInfo, answer};
use crate::ld_so_conf::{Conf, Source};
use crate::report::{self, Report};
use crate::update::LibDir;
use crate::{explain, musl, oci};

/// The root in a bundle's `config.json`.
pub fn root(config: &[u8]) -> Result<PathBuf> {
    Ok(oci::Config::parse(config)?.root.path)
}

/// What `explain` reads in a document about a container.
pub fn container(document: &[u8]) -> Result<(PodSandbox, Container)> {
    explain::read_container(&serde_json::from_slice(document)?)
}

/// What `explain` reads in a document about a pod.
pub fn pod(document: &[u8]) -> Result<PodSandbox> {
    explain::read_pod(serde_json::from_slice(document)?)
}

/// A configuration file.
pub fn settings(text: &str) -> Result<Settings> {
    Settings::parse(text)
}

/// A linker configuration.
#[derive(Debug)]
pub struct LdSoConf(Conf);

impl LdSoConf {
    /// Reads the configuration that these files are: paths and contents.
    pub fn read(files: &Files) -> Result<Self> {
        Ok(Self(Conf::read(files)?))
    }

    /// The directories that ldconfig is told of.
    pub fn dirs(&self) -> BTreeSet<&str> {
        self.0.dirs.iter().map(String::as_str).collect()
    }

    /// Will ldconfig read the file that we add?
    pub fn includes_ours(&self) -> bool {
        self.0.includes_ours
    }

    /// What that file would name.
    pub fn missing<'a>(&self, dirs: &'a [LibDir], system: &[&str]) -> Vec<&'a str> {
        self.0.missing(dirs, system)
    }
}

/// A mount table.
#[derive(Debug)]
pub struct Mounts(MountInfo);

impl Mounts {
    /// Reads a table.
    pub fn parse(table: &[u8]) -> Self {
        Self(MountInfo::parse(table))
    }

    /// What is mounted below and at `root`.
    pub fn points_below(&self, root: &Path) -> Vec<&Path> {
        self.0.points_below(root).collect()
    }

    /// Procfs and sysfs that can be reached below `root`, and other filesystems there.
    pub fn visible_below(&self, root: &Path) -> [Vec<PathBuf>; 2] {
        [self.0.pseudo_filesystems_below(root), self.0.visible_below(root)]
    }

    /// What can be written through below `root`.
    pub fn writable_below(&self, root: &Path) -> Option<&Path> {
        self.0.writable_below(root)
    }
}

/// What a jail's answer means.
pub fn understand(bytes: &[u8]) -> Result<Done> {
    answer::understand(bytes)
}

/// The answer of a jail.
pub fn tell(done: &Result<Done>) -> Result<Vec<u8>> {
    let mut told = Vec::new();
    answer::tell(done, &mut told)?;
    Ok(told)
}

/// The report of a run, and the most bytes of one.
pub fn report(done: &Result<Done>) -> (Report, u64) {
    (Report::new("c1", Duration::from_micros(1), done), report::LIMIT)
}

/// What a musl loader shall search.
pub fn searched(dirs: &[&str], before: Option<&[u8]>) -> Option<Vec<u8>> {
    musl::searched(dirs, before)
}

/// What a loader of glibc tells.
pub fn glibc(loader: &[u8]) -> Glibc {
    Glibc::read(loader).expect("a slice can be read")
}

/// Files by their paths, which are as the kernel reads them where there are no links.
pub type Files = BTreeMap<Vec<u8>, Vec<u8>>;

impl Source for Files {
    fn read(&self, path: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.get(&plain(path)).cloned())
    }

    fn list(&self, dir: &[u8]) -> Result<Vec<Vec<u8>>> {
        let dir = plain(dir);
        let below = self.keys().filter_map(|path| path.strip_prefix(&*dir)?.strip_prefix(b"/"));
        let names = below.filter_map(|path| path.split(|byte| *byte == b'/').next());
        Ok(names.map(<[u8]>::to_vec).collect::<BTreeSet<_>>().into_iter().collect())
    }
}

/// A path as the kernel reads it where there are no links.
pub fn plain(path: &[u8]) -> Vec<u8> {
    let mut parts = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.iter().flat_map(|part| [b"/", *part]).flatten().copied().collect()
}
