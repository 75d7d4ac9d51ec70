//! Paths that change while the hook works: what is checked must be what is used.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Result, ensure};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::expected::Engine;
use super::site::{self, Site};
use super::situation::Situation;
use super::victim::Victim;
use super::watched::Proc;
use crate::node::{self, Release};

const RUNS: usize = 40;

/// What is exchanged, and the link that takes its place.
const SWAPPED: [(&str, &str); 4] = [
    ("/etc", "/vol/etc"),
    ("/etc/ld.so.conf.d", "/vol/etc/ld.so.conf.d"),
    ("/usr/lib", "/proc/1/root/usr/lib"),
    ("/opt", "../../../../vol"),
];

/// CVE-2024-0132, CVE-2025-23359, CVE-2026-24260: another container that shares the root's files swaps directories for
/// links as fast as it can.
#[test]
fn a_path_that_is_swapped_while_the_hook_runs_leads_nowhere() -> Result<()> {
    if !node::possible() {
        return Ok(());
    }
    let node = site::start(Release::Forky)?;
    for (path, target) in SWAPPED {
        let done = AtomicBool::new(false);
        let victim = site::enter(&node, || {
            let victim = Victim::new(Situation::Host, "size=64m")?;
            victim.mount()?;
            symlink(target, victim.path("/swapped"))?;
            Ok(victim)
        })?;
        let (one, other) = (victim.path(path), victim.path("/swapped"));
        let proc = Proc::of_this_machine()?;
        let swaps = thread::scope(|scope| {
            let swapper = scope.spawn(|| site::enter(&node, || swap(&one, &other, &done)));
            let runs = site::enter(&node, || runs(&victim, proc));
            done.store(true, Ordering::Relaxed);
            let swaps = swapper.join().expect("the swapper returns errors");
            runs.and(swaps)
        })?;
        println!("{path}: swapped {swaps} times during {RUNS} runs");
        ensure!(swaps > RUNS, "{path} was swapped {swaps} times only");
    }
    Ok(())
}

fn swap(one: &Path, other: &Path, done: &AtomicBool) -> Result<usize> {
    let mut swaps = 0;
    while !done.load(Ordering::Relaxed) {
        renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE)?;
        swaps += 1;
    }
    Ok(swaps)
}

fn runs(victim: &Victim, proc: Proc) -> Result<()> {
    let site = Site::look(proc)?;
    let mounts = mounts(&site)?;
    for engine in Engine::ALL.into_iter().cycle().take(RUNS) {
        let ran = site.run(victim, Situation::Host, &[engine.argument()])?;
        ensure!(ran.did.code.is_some(), "the hook had to be killed: {ran:?}");
        ensure!(!ran.said.contains("time was up"), "{ran:?}");
    }
    let damage = site.damage()?;
    ensure!(damage.is_empty(), "{damage:?}");
    ensure!(self::mounts(&site)? == mounts, "changed the host's mounts");
    Ok(())
}

/// The host's mounts without their paths, which change with every swap.
fn mounts(site: &Site) -> Result<Vec<String>> {
    let without_path = |line: &str| {
        line.split(' ').enumerate().filter(|(at, _)| *at != 4).map(|(_, word)| word).collect()
    };
    Ok(site.mounts()?.iter().flat_map(|table| table.lines().map(without_path)).collect())
}
