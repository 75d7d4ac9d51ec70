//! What every end-to-end test runs on: both containerds, each with both runtimes.

use std::path::Path;
use std::sync::OnceLock;
use std::thread;

use anyhow::{Context, Result, anyhow};

use crate::containerd::RUNTIMES;
use crate::installation::Installation;
use crate::node::{self, Release};

/// Runs `check` with both runtimes of both releases, on nodes that all tests share.
pub(crate) fn everywhere(check: impl Fn(&Installation, &str) -> Result<()> + Sync) -> Result<()> {
    static NODES: Nodes = OnceLock::new();
    on(&NODES, Installation::with_plugin, check)
}

/// The same where the plugin does not run: what a test sees here, the plugin has to change.
pub(crate) fn without_plugin(
    check: impl Fn(&Installation, &str) -> Result<()> + Sync,
) -> Result<()> {
    static NODES: Nodes = OnceLock::new();
    on(&NODES, Installation::without_plugin, check)
}

/// The program that is tested.
pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_nri-ldcache"))
}

/// The error is kept too: what did not start once is not tried again by every test.
type Nodes = OnceLock<Vec<Result<Installation, String>>>;

fn on(
    nodes: &Nodes,
    start: fn(Release, &Path) -> Result<Installation>,
    check: impl Fn(&Installation, &str) -> Result<()> + Sync,
) -> Result<()> {
    if !node::possible() {
        return Ok(());
    }
    let nodes = nodes.get_or_init(|| {
        together([Release::Trixie, Release::Forky], |release| {
            start(release, binary()).map_err(|error| format!("{error:#}"))
        })
    });
    let check = &check;
    together(nodes, |node| {
        let node = node.as_ref().map_err(|error| anyhow!("{error}"))?;
        RUNTIMES.iter().try_for_each(|runtime| {
            let checked = check(node, runtime);
            if checked.is_err() {
                eprintln!("{}", node.logs());
            }
            checked.with_context(|| format!("{} with {runtime}", node.release))
        })
    })
    .into_iter()
    .collect()
}

/// Does something with all values at the same time.
pub(crate) fn together<T: Send, R: Send>(
    values: impl IntoIterator<Item = T>,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> =
            values.into_iter().map(|value| scope.spawn(move || work(value))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a check returns errors")).collect()
    })
}
