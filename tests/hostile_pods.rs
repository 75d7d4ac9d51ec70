//! The worst of the attack matrix through containerd and its runtimes: every pod starts, and nothing else changes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::attack::elf::shared_object;
use crate::attack::snapshot::Tree;
use crate::gpu;
use crate::installation::Installation;
use crate::matrix::everywhere;
use crate::pod::{Container, Pod};

/// A volume of the node that the pod may write.
const VOLUME: &str = "/srv/hostile-volume";

/// What a pod may take to start: less than the hook's own limit.
const LIMIT: Duration = Duration::from_secs(8);

/// What of the node nobody else changes while other tests use it.
const TREES: [&str; 5] = ["/boot", "/etc", "/root", "/srv", "/usr"];

/// An image, as its uppermost layer.
struct Attack {
    name: &'static str,
    /// Fills the layer of a container that was created and not started: hooks run when it starts.
    prepare: fn(&Path) -> Result<()>,
    /// Does the program find the driver all the same?
    updated: bool,
}

const fn attack(name: &'static str, prepare: fn(&Path) -> Result<()>, updated: bool) -> Attack {
    Attack { name, prepare, updated }
}

fn path(layer: &Path, path: &str) -> Result<PathBuf> {
    let path = layer.join(path);
    fs::create_dir_all(path.parent().context("a path has a directory")?)?;
    Ok(path)
}

pub(crate) fn link(layer: &Path, name: &str, target: &str) -> Result<()> {
    Ok(symlink(target, path(layer, name)?)?)
}

pub(crate) fn fifo(layer: &Path, name: &str) -> Result<()> {
    Ok(mkfifo(&path(layer, name)?, Mode::from_bits_truncate(0o666))?)
}

fn write(layer: &Path, name: &str, content: &[u8]) -> Result<()> {
    Ok(fs::write(path(layer, name)?, content)?)
}

fn trap(root: &Path, name: &str) -> Result<()> {
    let path = path(root, name)?;
    fs::write(&path, "#!/bin/sh\ntouch /vol/executed /executed\n")?;
    Ok(fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?)
}

const ATTACKS: [Attack; 10] = [
    attack(
        "ld.so.conf.d is a link into a volume",
        |layer| link(layer, "etc/ld.so.conf.d", "/vol/etc/ld.so.conf.d"),
        false,
    ),
    attack(
        "ld.so.conf.d leads through the first process",
        |layer| link(layer, "etc/ld.so.conf.d", "/proc/1/root/etc/ld.so.conf.d"),
        false,
    ),
    attack(
        "the cache is a link into a volume",
        |layer| link(layer, "etc/ld.so.cache", "/vol/etc/ld.so.cache"),
        true,
    ),
    attack(
        "the cache leads through the first process",
        |layer| link(layer, "etc/ld.so.cache", "/proc/1/root/etc/ld.so.cache"),
        true,
    ),
    attack("ld.so.conf is a FIFO", |layer| fifo(layer, "etc/ld.so.conf"), false),
    attack("the temporary cache is a FIFO", |layer| fifo(layer, "etc/ld.so.cache~"), true),
    attack("an include is a glob bomb", bomb, false),
    attack(
        "a SONAME leads into a volume",
        |layer| {
            let library = format!("{}/libevil.so.1.0", &gpu::directory()[1..]);
            write(layer, &library, &shared_object(b"../../../vol/evil.so.1"))
        },
        true,
    ),
    attack(
        "ldconfig is the image's own",
        |layer| {
            let mut names = ["usr/sbin/ldconfig", "usr/sbin/ldconfig.real"].into_iter();
            names.try_for_each(|name| trap(layer, name))
        },
        true,
    ),
    attack(
        "a library directory is a link into a volume",
        |layer| link(layer, "usr/local/lib", "/vol/usr/lib"),
        true,
    ),
];

fn bomb(layer: &Path) -> Result<()> {
    for number in 0..900 {
        fs::create_dir_all(layer.join(format!("bomb{}/b{number}/c", number % 30)))?;
    }
    write(layer, "etc/ld.so.conf.d/bomb.conf", b"include /*/*/*/../../*/*/../../*/*/*.conf\n")
}

/// The node's files and its volume.
fn tree(node: &Installation) -> Result<Tree> {
    Tree::look(node.containerd.node().command("find"), &TREES, "")
}

fn prepare_volume(node: &Installation) -> Result<()> {
    let volume = node.containerd.node().path(VOLUME);
    write(&volume, "etc/ld.so.conf.d/a.conf", b"/a\n")?;
    write(&volume, "etc/ld.so.cache", b"the volume's")?;
    write(&volume, "usr/lib/libvolume.so.1.0", &shared_object(b"libvolume.so.1"))
}

/// The uppermost layer of a container that was created.
pub(crate) fn layer(node: &Installation, container: &str) -> Result<PathBuf> {
    let node = node.containerd.node();
    let mounts = ["ctr", "-n", "k8s.io", "snapshots", "mounts", "/mnt", container];
    let line = node.run(&mounts)?;
    let upper = line.split(',').find_map(|option| option.strip_prefix("upperdir="));
    Ok(node.path(upper.with_context(|| format!("no upperdir in {line}"))?.trim()))
}

/// Starts a pod with the attacker's layer, and compares.
fn run(node: &Installation, runtime: &str, attack: &Attack) -> Result<()> {
    let sandbox = node.containerd.cri().sandbox(&Pod::new("hostile", runtime))?;
    let container: Container = gpu::files(gpu::with_app("app")).volume(VOLUME, "/vol");
    let id = sandbox.create(&container)?;
    (attack.prepare)(&layer(node, &id)?)?;
    let before = tree(node)?;
    let start = Instant::now();
    sandbox.start(&id)?;
    let took = start.elapsed();
    let after = tree(node)?;
    let different = before.difference(&after);
    ensure!(different.is_empty(), "changed {different:?} of the node");
    ensure!(took < LIMIT, "started after {took:?}");
    ensure!(node.containerd.hooks(&id)?.len() == 1, "it got no hook");
    ensure!(!node.containerd.rootfs(&id).join("executed").exists(), "the image was executed");
    let ran = sandbox.exec(&id, &[gpu::APP])?;
    ensure!((ran.stdout == gpu::GREETING) == attack.updated, "{ran:?}");
    println!("{:<44} {runtime} {:>4} ms", attack.name, took.as_millis());
    Ok(())
}

#[test]
fn the_worst_attacks_keep_no_pod_from_starting_and_change_nothing_else() -> Result<()> {
    everywhere(|node, runtime| {
        prepare_volume(node)?;
        ATTACKS.iter().try_for_each(|attack| run(node, runtime, attack).context(attack.name))
    })
}
