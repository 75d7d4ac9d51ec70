//! Uninstalling: what is ours goes, once nobody can need it, and what is not ours stays and is named.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::directory::{self, Directory};
use super::{Held, PATIENCE, Place, held, version};
use crate::report;

/// How often locks are looked at; each look keeps a daemon from its own lock for a moment.
const PERIOD: Duration = Duration::from_millis(500);

/// What an uninstallation came to.
#[derive(Debug, Default)]
pub struct Removal {
    /// What is gone, as this process saw it.
    pub removed: Vec<PathBuf>,
    /// What stays, and why.
    pub left: Vec<String>,
}

impl Place {
    /// Removes every version, what installations have left, and the hooks' reports in `reports`; and both directories, if
    /// nothing else is in them.
    ///
    /// Waits until no daemon has had a lock on a version for `grace`: a container that was told of it may still be being
    /// created. `tell` is told what is waited for, when that changes.
    pub fn uninstall(
        &self,
        reports: &Path,
        grace: Duration,
        mut tell: impl FnMut(&str),
    ) -> Result<Removal> {
        let mut removal = Removal::default();
        if let Some(dir) = Directory::open(&self.host_root, &self.dir)? {
            // Until they are gone: a daemon that starts now finds that they are being removed, and does not inject them.
            let _locks = self.wait(&dir, grace, &mut tell)?;
            removal
                .empty(&dir, |name| Ok(version::is_version(name) || version::is_temporary(name)))?;
        }
        if let Some(dir) = Directory::open(&self.host_root, reports)? {
            dir.lock(PATIENCE)?;
            removal.empty(&dir, |name| is_report(&dir, name))?;
        }
        Ok(removal)
    }

    /// Waits for the grace, and leaves the directory locked, so that nobody installs while it is emptied, and every version.
    fn wait(
        &self,
        dir: &Directory,
        grace: Duration,
        tell: &mut impl FnMut(&str),
    ) -> Result<Vec<File>> {
        let (mut free, mut told) = (Instant::now(), String::new());
        loop {
            let over = free.elapsed() >= grace;
            if over {
                dir.lock(PATIENCE)?;
            }
            let line = match held(dir)? {
                Held::ByNobody(locks) if over => return Ok(locks),
                Held::ByNobody(_) => {
                    format!("waiting {} s for containers that are being created", grace.as_secs())
                }
                Held::By(name) => {
                    // A daemon that came while the directory was locked may want to install.
                    dir.unlock()?;
                    free = Instant::now();
                    format!("waiting for the daemon that injects {}", dir.join(&name).display())
                }
            };
            if told != line {
                tell(&line);
                told = line;
            }
            sleep(PERIOD.min(grace.max(Duration::from_millis(10))));
        }
    }
}

impl Removal {
    /// Removes the regular files of a directory that are ours, and the directory itself if it is empty then.
    fn empty(&mut self, dir: &Directory, is_ours: impl Fn(&str) -> Result<bool>) -> Result<()> {
        for name in dir.names()? {
            let path = dir.join(&name);
            let why = match dir.file(&name) {
                Ok(Some(_)) if is_ours(&name)? => {
                    dir.remove(&name)?;
                    self.removed.push(path);
                    continue;
                }
                Ok(Some(_)) => format!("{} is not ours", path.display()),
                Ok(None) => continue,
                Err(error) => format!("{error:#}"),
            };
            self.left.push(why);
        }
        match dir.remove_itself()? {
            None => self.removed.push(dir.path().to_owned()),
            Some(why) => self.left.push(format!("{} is {why}", dir.path().display())),
        }
        Ok(())
    }
}

fn is_report(dir: &Directory, name: &str) -> Result<bool> {
    if report::is_temporary(name) {
        return Ok(true);
    }
    let Some(file) = dir.file(name)? else { return Ok(false) };
    // One that is too large is not ours.
    let text = directory::read(file, report::LIMIT).context("read report").unwrap_or_default();
    Ok(report::is_report(name, &text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hook::Done;
    use crate::report::Report;
    use std::fs;

    fn uninstalled(root: &Path) -> Removal {
        let place = Place::new(Path::new("/ours"), root).unwrap();
        place.uninstall(Path::new("/reports"), Duration::ZERO, |_| ()).unwrap()
    }

    #[test]
    fn what_is_ours_goes_and_what_is_not_is_named() {
        let root = tempfile::tempdir().unwrap();
        let path = |below: &str| root.path().join(below);
        fs::create_dir_all(path("ours/nri-ldcache-2.0.0-00112233")).unwrap();
        for name in ["nri-ldcache-1.0.0-00112233", ".nri-ldcache-1.0.0-00112233.1f.tmp", "foreign"]
        {
            fs::write(path("ours").join(name), "").unwrap();
        }
        let reports = path("reports");
        Report::new("c.1", Duration::ZERO, &Ok(Done::default())).write(&reports).unwrap();
        for (name, text) in [("c2.77.tmp", "{"), ("c3.json", r#"{"id":"other"}"#), ("x.tmp", "")] {
            fs::write(reports.join(name), text).unwrap();
        }
        let removal = uninstalled(root.path());
        assert_eq!(removal.removed.len(), 4, "{removal:?}");
        let left = removal.left.join("\n").replace(root.path().to_str().unwrap(), "");
        assert_eq!(
            left,
            "/ours/foreign is not ours\n\
             /ours/nri-ldcache-2.0.0-00112233 is a directory\n\
             /ours is not empty\n\
             /reports/c3.json is not ours\n\
             /reports/x.tmp is not ours\n\
             /reports is not empty"
        );
        let again = uninstalled(root.path());
        assert_eq!((again.removed.len(), again.left.len()), (0, 6));
    }

    #[test]
    fn empty_directories_go_and_missing_ones_are_fine() {
        let root = tempfile::tempdir().unwrap();
        for dir in ["ours", "reports"] {
            fs::create_dir(root.path().join(dir)).unwrap();
        }
        assert_eq!(uninstalled(root.path()).removed.len(), 2);
        let removal = uninstalled(root.path());
        assert_eq!((removal.removed.len(), removal.left.len()), (0, 0));
    }
}
