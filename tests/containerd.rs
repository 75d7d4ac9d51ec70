//! A real containerd inside a node of its own.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cri::Cri;
use crate::daemon::Daemon;
use crate::image;
use crate::node::{Node, Release};

/// Where plugins connect, inside the node.
pub(crate) const NRI_SOCKET: &str = "/run/nri/nri.sock";

/// The OCI runtimes that every containerd here has as runtime handlers.
pub(crate) const RUNTIMES: [&str; 2] = ["runc", "crun"];

const SOCKET: &str = "/run/containerd/containerd.sock";
const CONFIG: &str = "/etc/containerd/config.toml";

/// containerd with our image, ready for pods.
// Fields are dropped in this order: the daemon dies before its node does.
#[derive(Debug)]
pub(crate) struct Containerd {
    daemon: Mutex<Daemon>,
    cri: Cri,
    node: Node,
}

impl Containerd {
    /// Starts a node of this release and containerd in it.
    pub(crate) fn start(release: Release) -> Result<Self> {
        let image = image::archive()?;
        let node = Node::start(release)?;
        node.write(
            CONFIG,
            match release {
                Release::Trixie => include_str!("containerd-1.7.toml"),
                Release::Forky => include_str!("containerd-2.toml"),
            },
        )?;
        // For pods with a network of their own, which those in a user namespace need.
        node.write("/etc/cni/net.d/10-test.conflist", include_str!("cni.json"))?;
        node.run(&["mkdir", "-p", "/opt/cni"])?;
        node.run(&["ln", "-s", "/usr/lib/cni", "/opt/cni/bin"])?;
        let cri = Cri::new(&node.path(SOCKET), node.cgroup())?;
        let daemon = Mutex::new(serve(&node, &cri)?);
        node.copy(&image, "/tmp/image.tar")?;
        node.run(&["ctr", "-n", "k8s.io", "images", "import", "/tmp/image.tar"])?;
        fs::remove_file(node.path("/tmp/image.tar"))?;
        Ok(Self { daemon, cri, node })
    }

    /// The node that it runs in.
    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// Its CRI.
    pub(crate) fn cri(&self) -> &Cri {
        &self.cri
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        self.daemon().log()
    }

    /// Ends it with a signal, `TERM` or `KILL`, and starts it again; its pods live on.
    pub(crate) fn restart(&self, signal: &str) -> Result<()> {
        let mut daemon = self.daemon();
        daemon.signal(signal)?;
        *daemon = serve(&self.node, &self.cri)?;
        Ok(())
    }

    fn daemon(&self) -> MutexGuard<'_, Daemon> {
        self.daemon.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The root directory of a running container.
    pub(crate) fn rootfs(&self, container: &str) -> PathBuf {
        self.bundle(container).join("rootfs")
    }

    fn bundle(&self, container: &str) -> PathBuf {
        let tasks = "/run/containerd/io.containerd.runtime.v2.task/k8s.io";
        self.node.path(&format!("{tasks}/{container}"))
    }

    /// The OCI configuration that the runtime was given for a container.
    pub(crate) fn spec(&self, container: &str) -> Result<Value> {
        let path = self.bundle(container).join("config.json");
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// The `createContainer` hooks in a container's OCI configuration.
    pub(crate) fn hooks(&self, container: &str) -> Result<Vec<Value>> {
        let spec = self.spec(container)?;
        let hooks = spec.pointer("/hooks/createContainer").and_then(Value::as_array);
        Ok(hooks.cloned().unwrap_or_default())
    }
}

fn serve(node: &Node, cri: &Cri) -> Result<Daemon> {
    let mut daemon = node.daemon("containerd", &["containerd", "--config", CONFIG])?;
    let socket = node.path(SOCKET);
    daemon.wait_until("listening", |_| {
        node.thaw();
        socket.exists()
    })?;
    daemon.wait_until("ready", |_| {
        node.thaw();
        thread::sleep(Duration::from_millis(50));
        cri.ready()
    })?;
    Ok(daemon)
}
