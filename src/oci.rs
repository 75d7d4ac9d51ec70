//! [`State`] and [`Rootfs`]: the little that a hook needs of the OCI runtime specification.

use std::env;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat, stat};
use serde::{Deserialize, Deserializer};

use crate::jail::is_mount_point;

/// Most bytes of a state, which the runtime writes to a hook's standard input: ids, a path and the annotations.
const STATE_LIMIT: u64 = 4 << 20;

/// Most bytes of a bundle's `config.json`.
const CONFIG_LIMIT: u64 = 16 << 20;

/// The state of a container, as a runtime writes it to a hook (runtime-spec, "State").
///
/// `pid` and `status` are left out on purpose: in a createContainer hook they are 1 or 0 or missing, and no use.
#[derive(Debug, Deserialize)]
pub struct State {
    /// The container's id, for the report.
    #[serde(default, deserialize_with = "or_default")]
    pub id: String,
    /// The bundle's directory: absolute, with `config.json` in it.
    #[serde(default, deserialize_with = "or_default")]
    pub bundle: PathBuf,
    /// The container's root, absolute or relative to the bundle. Not of the specification; crun writes it.
    pub root: Option<PathBuf>,
}

impl State {
    /// Reads a state of at most 4 MiB; `name` is what errors call it.
    pub fn read(source: impl Read, name: &str) -> Result<Self> {
        let state: Self =
            parse(source, STATE_LIMIT).with_context(|| format!("read state {name}"))?;
        // What Go takes for nothing is nothing: null everywhere, and a root that is empty.
        let state = Self { root: state.root.filter(|root| !root.as_os_str().is_empty()), ..state };
        ensure!(
            !state.bundle.as_os_str().is_empty()
                || state.root.as_ref().is_some_and(|root| root.is_absolute()),
            "read state {name}: neither a bundle nor an absolute root in it"
        );
        Ok(state)
    }

    /// Opens the container's root: the state's, else that of the bundle's `config.json`, else the working directory.
    pub fn rootfs(&self) -> Result<Rootfs> {
        let root = match &self.root {
            Some(root) => root.clone(),
            None => match Config::read(&self.bundle.join("config.json")) {
                Ok(config) => config.root.path,
                Err(error) => return Rootfs::from_working_directory(&error).ok_or(error)?,
            },
        };
        ensure!(
            !root.as_os_str().is_empty(),
            "bundle {}: root path is empty",
            self.bundle.display()
        );
        Rootfs::open(&self.bundle.join(root))
    }
}

/// The one part of a bundle's `config.json` that is read.
#[derive(Deserialize)]
pub(crate) struct Config {
    pub(crate) root: Root,
}

#[derive(Deserialize)]
pub(crate) struct Root {
    pub(crate) path: PathBuf,
}

impl Config {
    fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        Self::parse(file).with_context(|| format!("read {}", path.display()))
    }

    pub(crate) fn parse(source: impl Read) -> Result<Self> {
        parse(source, CONFIG_LIMIT)
    }
}

/// Reads null as the default, as Go does.
pub(crate) fn or_default<'a, D: Deserializer<'a>, T: Deserialize<'a> + Default>(
    source: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(source)?.unwrap_or_default())
}

fn parse<T: for<'a> Deserialize<'a>>(source: impl Read, limit: u64) -> Result<T> {
    let mut bytes = Vec::new();
    source.take(limit + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= limit, "larger than {} MiB", limit >> 20);
    let text = str::from_utf8(&bytes).context("not UTF-8")?;
    serde_json::from_str(text).context("not the JSON expected")
}

/// A container's root: an open directory that is not the host's own `/`.
#[derive(Debug)]
pub struct Rootfs {
    path: PathBuf,
    dir: OwnedFd,
}

impl Rootfs {
    /// Opens `path`, which must lead to a directory other than `/`, by whatever name or bind mount.
    ///
    /// The descriptor is `O_PATH`: the directory that was checked is the one that the jail will enter.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display();
        ensure!(path.is_absolute(), "root {name} is not absolute");
        let dir = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .with_context(|| format!("open root {name}"))?;
        let found = fstat(&dir).with_context(|| format!("stat root {name}"))?;
        if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT != SFlag::S_IFDIR {
            bail!("root {name} is not a directory");
        }
        let host = stat("/").context("stat /")?;
        ensure!(
            (found.st_dev, found.st_ino) != (host.st_dev, host.st_ino),
            "root {name} is the host's own /"
        );
        Ok(Self { path: path.to_owned(), dir })
    }

    /// Opens the working directory, if it is the root of a container whose `config.json` may not be read: in a user namespace
    /// the host's files are not ours. runc runs createContainer hooks there, and it is a mount.
    fn from_working_directory(error: &anyhow::Error) -> Option<Result<Self>> {
        let denied = error.downcast_ref::<io::Error>().map(io::Error::kind)
            == Some(io::ErrorKind::PermissionDenied);
        let here = env::current_dir().ok()?;
        let mounted = is_mount_point(&here).unwrap_or(false);
        (denied && mounted).then(|| Self::open(&here))
    }

    /// The path that was opened, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Rootfs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn state(text: &str) -> Result<State> {
        State::read(text.as_bytes(), "stdin")
    }

    #[test]
    fn root_comes_from_the_state_else_from_the_bundle() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("rootfs")).unwrap();
        fs::create_dir_all(dir.path().join("other")).unwrap();
        let bundle = dir.path().to_str().unwrap();
        fs::write(
            dir.path().join("config.json"),
            r#"{"ociVersion":"1.1.0","root":{"path":"rootfs"}}"#,
        )
        .unwrap();
        for (text, root) in [
            (format!(r#"{{"bundle":"{bundle}","pid":-1}}"#), "rootfs"),
            (format!(r#"{{"bundle":"{bundle}","root":"other"}}"#), "other"),
            (format!(r#"{{"bundle":"{bundle}","root":"{bundle}/other"}}"#), "other"),
            (format!(r#"{{"root":"{bundle}/other"}}"#), "other"),
            (format!(r#"{{"id":null,"root":"","bundle":"{bundle}"}}"#), "rootfs"),
            (format!(r#"{{"root":null,"bundle":"{bundle}"}}"#), "rootfs"),
        ] {
            assert_eq!(
                state(&text).unwrap().rootfs().unwrap().path(),
                dir.path().join(root),
                "{text}"
            );
        }
    }

    #[test]
    fn a_bad_state_is_named() {
        let mut huge = br#"{"bundle":"/b","id":""#.to_vec();
        huge.resize(5 << 20, b'a');
        for (bytes, reason) in [
            (&b"{\"bundle\":\"/b\""[..], "EOF while parsing"),
            (b"", "EOF while parsing"),
            (b"hello", "not the JSON expected"),
            (b"{\"bundle\":\"/\xff\"}", "not UTF-8"),
            (b"{\"bundle\":7}", "invalid type"),
            (b"{}", "neither a bundle nor an absolute root"),
            (&huge, "larger than 4 MiB"),
        ] {
            let error = format!("{:#}", State::read(bytes, "stdin").unwrap_err());
            assert!(error.starts_with("read state stdin") && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_root_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path();
        fs::write(bundle.join("file"), "").unwrap();
        symlink("/", bundle.join("link")).unwrap();
        for (root, reason) in [
            ("", "root path is empty"),
            ("/", "the host's own /"),
            ("/./", "the host's own /"),
            ("link", "the host's own /"),
            ("file", "is not a directory"),
            ("missing", "ENOENT"),
        ] {
            let config = format!(r#"{{"root":{{"path":"{root}"}}}}"#);
            fs::write(bundle.join("config.json"), config).unwrap();
            let text = format!(r#"{{"bundle":"{}"}}"#, bundle.display());
            let error = format!("{:#}", state(&text).unwrap().rootfs().unwrap_err());
            assert!(error.contains(reason), "{root:?}: {error}");
        }
        let error = state(r#"{"bundle":"/nowhere"}"#).unwrap().rootfs().unwrap_err();
        assert!(format!("{error:#}").starts_with("open /nowhere/config.json"), "{error:#}");
    }
}
