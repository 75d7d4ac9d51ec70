//! The plugin on real nodes: what an administrator has after installing it.

use std::path::Path;

use anyhow::Result;

use crate::containerd::{Containerd, NRI_SOCKET};
use crate::daemon::Daemon;
use crate::endpoint::{ADDRESS, get_inside};
use crate::node::Release;
use crate::{gpu, shell};

/// Where the binary lies on a node.
pub(crate) const BINARY: &str = "/opt/nri-ldcache/nri-ldcache";

/// A node with a GPU, containerd and our binary; the plugin runs or it does not.
#[derive(Debug)]
pub(crate) struct Installation {
    pub(crate) release: Release,
    pub(crate) containerd: Containerd,
    pub(crate) plugin: Option<Daemon>,
}

impl Installation {
    /// Everything but the plugin.
    pub(crate) fn without_plugin(release: Release, binary: &Path) -> Result<Self> {
        let containerd = Containerd::start(release)?;
        containerd.node().copy(binary, BINARY)?;
        gpu::install(containerd.node(), BINARY)?;
        containerd.node().run(&["busybox", "ip", "link", "set", "lo", "up"])?;
        Ok(Self { release, containerd, plugin: None })
    }

    /// Everything, the plugin at work.
    pub(crate) fn with_plugin(release: Release, binary: &Path) -> Result<Self> {
        let mut installation = Self::without_plugin(release, binary)?;
        installation.start_plugin()?;
        Ok(installation)
    }

    /// Starts the plugin, and waits until containerd asks it about every new container.
    pub(crate) fn start_plugin(&mut self) -> Result<()> {
        let mut plugin = self.spawn_plugin()?;
        plugin.wait_until("synchronized", |plugin| plugin.log().contains("synchronized"))?;
        self.plugin = Some(plugin);
        Ok(())
    }

    /// Starts the plugin and does not wait for it.
    pub(crate) fn spawn_plugin(&self) -> Result<Daemon> {
        self.spawn_plugin_as("nri-ldcache", &["--http-address", ADDRESS])
    }

    /// Starts a plugin with a name and arguments of its own.
    pub(crate) fn spawn_plugin_as(&self, name: &str, args: &[&str]) -> Result<Daemon> {
        let own = [BINARY, "run", "--name", name, "--socket-path", NRI_SOCKET];
        let argv = [&own, &["--hook-path", BINARY][..], args].concat();
        self.containerd.node().daemon(name, &argv)
    }

    /// The metrics of the plugin.
    pub(crate) fn metrics(&self) -> Result<String> {
        Ok(get_inside(self.containerd.node(), ADDRESS, "/metrics")?.body)
    }

    /// What the plugin logged last and what containerd complained of, to be shown with a failure.
    pub(crate) fn logs(&self) -> String {
        let plugin = self.plugin.as_ref().map(Daemon::log).unwrap_or_default();
        let containerd = self.containerd.log();
        let bad =
            |line: &&str| ["level=error", "level=fatal"].iter().any(|level| line.contains(level));
        let bad: Vec<_> = containerd.lines().filter(bad).collect();
        let bad = bad.join("\n");
        format!("plugin:\n{}\ncontainerd:\n{}", shell::tail(&plugin), shell::tail(&bad))
    }
}
