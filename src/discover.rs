//! What the hook sees and the plugin could not: which directories hold mounted driver libraries.
//!
//! A runtime that injects CDI devices of NRI plugins does so after it has asked the plugins, and mounts of other hooks are
//! in no configuration at all. The mount table has them all.

use std::path::{Path, PathBuf};

use crate::root::Root;
use crate::signal;
use crate::update::LibDir;

/// Mounts that are looked at; a pod has some dozens.
const MAX_MOUNTS: usize = 2000;

/// The directories below `root`, each once, that hold driver libraries by one of `mounts`: the parent of a mounted library,
/// and of a mounted directory itself, its `lib64` or its `lib` those that have a library in it.
pub fn dirs(root: &Root, mounts: &[PathBuf]) -> Vec<LibDir> {
    let mut found: Vec<LibDir> = Vec::new();
    for mount in mounts.iter().take(MAX_MOUNTS) {
        let Some(path) = mount.to_str() else { continue };
        let candidates = if signal::is_library(path) {
            mount.parent().map(Path::to_path_buf).into_iter().collect()
        } else {
            holders(root, mount)
        };
        for dir in candidates.iter().filter_map(|dir| dir.to_str()?.parse::<LibDir>().ok()) {
            if !found.contains(&dir) {
                found.push(dir);
            }
        }
    }
    found
}

/// Of a mounted directory and its library directories, those that have a driver library.
fn holders(root: &Root, mount: &Path) -> Vec<PathBuf> {
    if root.is_file(mount) {
        return Vec::new();
    }
    let dirs = [mount.to_owned(), mount.join("lib64"), mount.join("lib")];
    dirs.into_iter().filter(|dir| holds_library(root, dir)).collect()
}

/// A directory with more entries than [`Root::list`] takes is no driver's.
fn holds_library(root: &Root, dir: &Path) -> bool {
    let names = root.list(dir).unwrap_or_default();
    names.iter().any(|name| str::from_utf8(name).is_ok_and(signal::is_library))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_what_holds_driver_libraries_is_found() {
        let dir = tempfile::tempdir().unwrap();
        for file in [
            "usr/lib/libcuda.so.570",
            "opt/driver/lib64/libnvidia-ml.so.1",
            "opt/driver/lib/readme",
            "flat/libcuda.so.1",
            "data/lib/libfoo.so.1",
        ] {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let mounts = [
            "/proc",
            "/usr/lib/libcuda.so.570",
            "/usr/lib/libnvidia-ml.so.570",
            "/opt/driver",
            "/flat",
            "/data",
            "/missing",
            "/etc/hosts",
            "/usr/bin/nvidia-smi",
        ];
        let mounts = mounts.map(PathBuf::from);
        let found = dirs(&Root::at(dir.path()).unwrap(), &mounts);
        let found: Vec<_> = found.iter().map(LibDir::as_str).collect();
        assert_eq!(found, ["/usr/lib", "/opt/driver/lib64", "/flat"]);
    }
}
