//! A container that is about to be created: a bundle with a small root that an attacker fills.

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, ThreadId};

use anyhow::{Context, Result};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use serde_json::json;

use super::object::{bind, change};
use super::site::TRAP;
use super::situation::{MAPPED, Situation};
use crate::bundle::VOLUME;
use crate::{gpu, shell};

/// On a tmpfs, so no part of the host's tree that is compared.
pub(crate) const PLACE: &str = "/var/lib/containerd/attack";

/// The directory that each hook is told to add.
pub(crate) const DRIVER: &str = "/opt/driver";

/// A bundle on a filesystem of its own, gone when dropped.
#[derive(Debug)]
pub(crate) struct Victim {
    dir: PathBuf,
    home: ThreadId,
}

impl Victim {
    /// A bundle with an innocent root; `size` is that of its filesystem.
    pub(crate) fn new(situation: Situation, size: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = Path::new(PLACE).join(COUNT.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&dir)?;
        let options = format!("mode=755,{size}");
        mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))?;
        let victim = Self { dir, home: thread::current().id() };
        let config = json!({ "ociVersion": "1.0.2", "root": { "path": "rootfs" } });
        fs::write(victim.dir.join("config.json"), config.to_string())?;
        fs::create_dir(victim.root())?;
        if situation == Situation::Overlay {
            let part = |name| victim.dir.join(name);
            ["lower", "upper", "work"]
                .into_iter()
                .try_for_each(|name| fs::create_dir(part(name)))?;
            furnish(&part("lower"))?;
            let [lower, upper, work] = ["lower", "upper", "work"].map(part);
            let (lower, upper, work) = (lower.display(), upper.display(), work.display());
            let layers = format!("lowerdir={lower},upperdir={upper},workdir={work}");
            mount(Some("o"), &victim.root(), Some("overlay"), MsFlags::empty(), Some(&*layers))?;
        } else {
            furnish(&victim.root())?;
        }
        Ok(victim)
    }

    /// Gives the image a cache that is valid, to start from.
    pub(crate) fn make_cache(&self) -> Result<()> {
        shell::output(Command::new("ldconfig").arg("-r").arg(self.root())).map(drop)
    }

    /// Mounts the volume and the driver, as a runtime has done before it runs hooks.
    pub(crate) fn mount(&self) -> Result<()> {
        for (from, to, flags) in [
            (VOLUME.to_owned(), "vol", MsFlags::MS_PRIVATE),
            (
                format!("{}/lib64", gpu::VOLUME),
                "opt/driver",
                MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY,
            ),
        ] {
            let to = self.root().join(to);
            bind(&from, &to)?;
            change(&to, flags)?;
        }
        Ok(())
    }

    /// Gives the root to the users of a user namespace. What refuses that keeps its owner.
    pub(crate) fn give(&self) -> Result<()> {
        give(&self.root())
    }

    /// The state that a runtime writes to the hook's standard input, as a file.
    pub(crate) fn state(&self) -> Result<File> {
        let path = self.state_path();
        let state = json!({
            "ociVersion": "1.0.2",
            "id": self.id(),
            "status": "creating",
            "pid": 1,
            "bundle": self.dir,
        });
        fs::write(&path, state.to_string())?;
        Ok(File::open(path)?)
    }

    pub(crate) fn id(&self) -> String {
        self.dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Beside the root's filesystem, which may be full.
    pub(crate) fn state_path(&self) -> PathBuf {
        self.dir.with_extension("json")
    }

    /// A file beside the root for what the hook says.
    pub(crate) fn log(&self) -> Result<File> {
        let log = File::options().create(true).write(true).truncate(true).open(self.log_path())?;
        log.set_permissions(Permissions::from_mode(0o666))?;
        Ok(log)
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.dir.with_extension("log")
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// A path of the root, links in it not resolved.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    /// The container's cache as a program in it would read it, if it would.
    pub(crate) fn cache(&self) -> Result<Vec<u8>> {
        let root = open(&self.root(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let file = openat2(&root, "/etc/ld.so.cache", how).context("open the container's cache")?;
        let mut bytes = Vec::new();
        File::from(file).take(64 << 20).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // Another thread is not on the host where these paths are; there, the node's end takes them all.
        if thread::current().id() != self.home {
            return;
        }
        let _ = umount2(&self.dir, MntFlags::MNT_DETACH);
        drop(fs::remove_dir(&self.dir));
        drop(fs::remove_file(self.state_path()));
        drop(fs::remove_file(self.log_path()));
    }
}

/// Writes what a small image has, and programs that betray whoever executes them.
fn furnish(root: &Path) -> Result<()> {
    let lib = root.join(gpu::directory().trim_start_matches('/'));
    for dir in [
        "dev",
        "etc/ld.so.conf.d",
        "lib64",
        "opt/driver",
        "proc",
        "run",
        "sys",
        "usr/sbin",
        "var/cache/ldconfig",
        "vol",
    ] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::create_dir_all(&lib)?;
    symlink("usr/lib", root.join("lib"))?;
    symlink("usr/sbin", root.join("sbin"))?;
    for (path, text) in [
        ("etc/debian_version", "12.0\n"),
        ("etc/ld.so.cache", "the image's"),
        ("etc/ld.so.conf", "include /etc/ld.so.conf.d/*.conf\n"),
        ("etc/ld.so.conf.d/base.conf", "/usr/local/lib\n"),
        ("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
        ("var/cache/ldconfig/aux-cache", "the image's"),
    ] {
        fs::write(root.join(path), text)?;
    }
    fs::write(lib.join("libimage.so.1.0"), super::elf::shared_object(b"libimage.so.1"))?;
    fs::copy(TRAP, root.join("usr/sbin/ldconfig"))?;
    for name in ["usr/sbin/ldconfig.real", "lib64/ld-linux-x86-64.so.2", "usr/lib/libc.so.6"] {
        fs::hard_link(root.join("usr/sbin/ldconfig"), root.join(name))?;
    }
    Ok(())
}

fn give(path: &Path) -> Result<()> {
    let found = path.symlink_metadata()?;
    drop(lchown(path, Some(MAPPED), Some(MAPPED)));
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path())?;
        }
    }
    Ok(())
}
