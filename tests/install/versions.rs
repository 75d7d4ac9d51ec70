//! Versions that come and go while containers are created with one of them.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};

use super::ground::Program;
use super::while_watched;
use crate::bundle::{Bundle, Host};
use crate::node::{self, Release};

const ROUNDS: u32 = 30;
const DIR: &str = "/opt/versions";

/// Installs a version on a node, and returns its path there.
fn install(host: &Host, package: &str) -> Result<String> {
    let path = host.node.run(&[package, "install", "--install-dir", DIR])?;
    Ok(path.trim_end().to_owned())
}

/// Everything there was installed long ago.
fn age(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let file = File::open(entry?.path())?;
        let installed = file.metadata()?.modified()?;
        file.set_modified(installed - Duration::from_secs(1200))?;
    }
    Ok(())
}

#[test]
fn containers_are_created_while_versions_come_and_go() -> Result<()> {
    if !node::possible() {
        return Ok(());
    }
    let host = Host::start(Release::Forky)?;
    // Not while others are started: they would have a copy open that is being written, for a moment.
    let (current, others) = ("/usr/bin/first", ["/usr/bin/one", "/usr/bin/two"]);
    host.node.copy(Program::first()?.path(), current)?;
    for other in others {
        host.node.copy(Program::other(other.trim_start_matches("/usr/bin/"))?.path(), other)?;
    }
    let path = install(&host, current)?;
    let daemon = File::open(host.node.path(&path))?;
    daemon.lock_shared()?;
    let created = |runtime: &str| -> Result<()> {
        let mut bundle = Bundle::new(&host)?.hook_at(&path, &["--on-failure=fail", "--folder=/a"]);
        let ran = bundle.run(runtime, "true")?;
        ensure!(ran.code == Some(0), "{runtime}: {}", ran.stderr);
        ensure!(bundle.report()?["outcome"] == "updated", "{}", bundle.report()?);
        Ok(())
    };
    let dir = host.node.path(DIR);
    let mut removed = 0;
    let count = while_watched(
        || ["runc", "crun"].into_iter().try_for_each(created),
        || {
            for number in 0..ROUNDS {
                age(&dir)?;
                // Superseded long ago, by its age: what keeps it is the daemon's lock.
                daemon.set_modified(SystemTime::now() - Duration::from_secs(86400))?;
                let before = fs::read_dir(&dir)?.count();
                install(&host, others[number as usize % others.len()])?;
                install(&host, current)?;
                removed += (before + 1).saturating_sub(fs::read_dir(&dir)?.count());
            }
            Ok(())
        },
    )?;
    println!("{} containers created in {ROUNDS} rounds, {removed} versions removed", 2 * count);
    ensure!(count > 2 && removed > 0, "{count} {removed}");
    Ok(())
}

#[test]
fn a_version_that_a_daemon_injects_stays() -> Result<()> {
    let ground = super::Ground::new()?;
    let [first, second, third] = ["first", "second", "third"].map(Program::other);
    let (first, second, third) = (first?, second?, third?);
    let path = ground.install(&first)?;
    let daemon = File::open(&path)?;
    daemon.lock_shared()?;
    age(&ground.dir())?;
    ground.install(&second)?;
    age(&ground.dir())?;
    // Superseded long ago, and injected all the same.
    ground.install(&third)?;
    first.check(&path)?;
    drop(daemon);
    // Now it goes; the second was current until the third came, which was now.
    ground.install(&third)?;
    ensure!(!path.exists(), "{} is still there", path.display());
    second.check(&ground.dir().join(second.name()?)).context("the second")?;
    Ok(())
}
