//! What is private otherwise, for the targets in `tests/fuzz`: parsers without the files that their bytes come from.
//!
//! Only there with the feature `fuzzing`. No part of the program, and no interface that anybody may rely on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Result;
use nri::api::{Container, PodSandbox};

use crate::config::Settings;
use crate::ld_so_conf::{Conf, Source};
use crate::update::LibDir;
use crate::{explain, oci};

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
