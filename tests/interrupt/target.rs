//! The processes of a hook, seen from the machine on which its node runs.

use std::fs;
use std::process::Child;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::PATIENCE;
use crate::attack::expected::Engine;

/// Who is interrupted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// The process that the runtime started.
    Outer,
    /// Its child, pid 1 of the jail.
    Jail,
    /// Its child in turn: ldconfig.
    Inner,
}

impl Target {
    /// All that there are.
    pub(super) fn of(engine: Engine) -> &'static [Self] {
        match engine {
            Engine::Native | Engine::Incremental => &[Self::Outer, Self::Jail],
            Engine::Ldconfig => &[Self::Outer, Self::Jail, Self::Inner],
        }
    }

    /// The process, once it is there; none if the hook has ended before.
    pub(super) fn find(self, nsenter: &mut Child) -> Result<Option<u32>> {
        let depth = match self {
            Self::Outer => 1,
            Self::Jail => 2,
            Self::Inner => 3,
        };
        let start = Instant::now();
        while nsenter.try_wait()?.is_none() {
            let way = (0..depth).try_fold(nsenter.id(), |pid, _| child(pid));
            // nsenter has a child before that child is the hook.
            if let Some(pid) = way.filter(|_| depth > 1 || is_hook(way)) {
                return Ok(Some(pid));
            }
            ensure!(start.elapsed() < PATIENCE, "no {self:?} appears");
        }
        Ok(None)
    }

    /// The same, once it has a mount namespace of its own.
    pub(super) fn find_inside(self, nsenter: &mut Child) -> Result<()> {
        let namespace = |pid| fs::read_link(format!("/proc/{pid}/ns/mnt"));
        while let (Some(outer), Some(pid)) = (Self::Outer.find(nsenter)?, self.find(nsenter)?) {
            // One that has ended has none.
            if namespace(outer).ok() != namespace(pid).ok() {
                break;
            }
        }
        Ok(())
    }
}

fn is_hook(pid: Option<u32>) -> bool {
    let name = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok());
    name.is_some_and(|name| name.starts_with("nri-ldcache"))
}

fn child(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}
