//! OCI bundles on a node, run by a runtime without containerd: the hook alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use crate::installation::BINARY;
use crate::node::{self, Node, Release};
use crate::{gpu, image, shell};

/// On a tmpfs: an overlay can have its upper layer there, and it is no part of the tree that [`Host::tree`] looks at.
const PLACE: &str = "/var/lib/containerd";

/// A directory of the host that tests mount as a volume and nobody may change.
pub(crate) const VOLUME: &str = "/srv/volume";

/// A node without containerd, as host of containers that runc and crun start from bundles.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) release: Release,
    pub(crate) node: Node,
}

impl Host {
    /// Starts a node of this release, with a GPU and our binary.
    pub(crate) fn start(release: Release) -> Result<Self> {
        let node = Node::start(release)?;
        node.copy(Path::new(env!("CARGO_BIN_EXE_nri-ldcache")), BINARY)?;
        gpu::install(&node, BINARY)?;
        node.write(&format!("{VOLUME}/ld.so.cache"), "old")?;
        node.write(&format!("{VOLUME}/ld.so.conf.d/a.conf"), "/a")?;
        // What the first container of a node finds missing is no trace of an attack.
        for state in ["runc", "crun", "nri-ldcache"] {
            fs::create_dir_all(node.path("/run").join(state))?;
        }
        let mut copy = Command::new("cp");
        shell::output(copy.arg("-a").arg(image::root()?).arg(node.path(PLACE).join("image")))?;
        Ok(Self { release, node })
    }

    /// A path of the image, below every bundle's overlay.
    pub(crate) fn image(&self, path: &str) -> PathBuf {
        self.node.path(PLACE).join("image").join(path.trim_start_matches(['.', '/']))
    }

    /// Every file of the host with what stat(2) says of it, changes of content and of nothing but time included.
    pub(crate) fn tree(&self) -> Result<String> {
        let mut find = self.node.command("find");
        find.args(["/", "-xdev", "-printf", r"%p %y %m %U:%G %s %T@ %C@ %l\n"]);
        shell::output(&mut find)
    }
}

/// Runs `check` on both nodes with both runtimes of each; nodes are shared, bundles are not.
pub(crate) fn everywhere(check: impl Fn(&Host, &str) -> Result<()> + Sync) -> Result<()> {
    static HOSTS: OnceLock<Vec<Result<Host, String>>> = OnceLock::new();
    if !node::possible() {
        return Ok(());
    }
    let start = |release| Host::start(release).map_err(|error| format!("{error:#}"));
    let hosts = HOSTS.get_or_init(|| [Release::Trixie, Release::Forky].map(start).into());
    thread::scope(|scope| {
        let both = hosts.iter().map(|host| {
            scope.spawn(|| {
                let host = host.as_ref().map_err(|error| anyhow!("{error}"))?;
                ["runc", "crun"].iter().try_for_each(|runtime| {
                    check(host, runtime).with_context(|| format!("{} with {runtime}", host.release))
                })
            })
        });
        let both: Vec<_> = both.collect();
        both.into_iter().try_for_each(|host| host.join().expect("a check returns errors"))
    })
}

/// What a container did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A bundle whose root is the tests' image under an overlay of its own.
#[derive(Debug)]
pub(crate) struct Bundle<'a> {
    host: &'a Host,
    id: String,
    config: Value,
}

impl<'a> Bundle<'a> {
    /// A bundle with `cuda-app` and the driver's files, and no hook yet.
    pub(crate) fn new(host: &'a Host) -> Result<Self> {
        let files = gpu::files_as_pairs();
        let bundle = Self::without_driver(host)?;
        Ok(files.iter().fold(bundle, |bundle, (from, to)| bundle.volume(from, to, "ro")))
    }

    /// A bundle with `cuda-app` alone.
    pub(crate) fn without_driver(host: &'a Host) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("bundle-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let bundle = Self { host, config: config(&host.node, &id), id };
        for part in ["rootfs", "upper", "work"] {
            fs::create_dir_all(bundle.path(part))?;
        }
        let base = bundle.inside("");
        let layers = format!("lowerdir={PLACE}/image,upperdir={base}upper,workdir={base}work");
        host.node.run(&[
            "mount",
            "-t",
            "overlay",
            "-o",
            &layers,
            "root",
            &bundle.inside("rootfs"),
        ])?;
        Ok(bundle.volume("/opt/cuda-app", gpu::APP, "ro"))
    }

    /// The host's mounts, but for those of other bundles, which come and go.
    pub(crate) fn host_mounts(&self) -> Result<String> {
        let table = self.host.node.run(&["cat", "/proc/1/mountinfo"])?;
        let (all, own) = (format!("{PLACE}/bundles/"), self.inside(""));
        let lines = table.lines().filter(|line| !line.contains(&all) || line.contains(&own));
        Ok(lines.map(|line| format!("{line}\n")).collect())
    }

    /// A path of the bundle as this process can open it.
    pub(crate) fn path(&self, part: &str) -> PathBuf {
        self.host.node.path(&self.inside(part))
    }

    /// A path below the container's root as this process can open it.
    pub(crate) fn root(&self, path: &str) -> PathBuf {
        self.path("rootfs").join(path.trim_start_matches('/'))
    }

    /// A path of the bundle as the node names it.
    pub(crate) fn inside(&self, part: &str) -> String {
        format!("{PLACE}/bundles/{}/{part}", self.id)
    }

    /// Binds a directory or file of the host into the container; `access` is `ro` or `rw`.
    pub(crate) fn volume(mut self, from: &str, to: &str, access: &str) -> Self {
        let mount = json!({ "source": from, "destination": to, "type": "bind", "options": ["rbind", access] });
        if let Some(mounts) = self.config["mounts"].as_array_mut() {
            mounts.push(mount);
        }
        self
    }

    /// Adds a variable to the environment of the container's process.
    pub(crate) fn env(mut self, entry: &str) -> Self {
        if let Some(env) = self.config["process"]["env"].as_array_mut() {
            env.push(entry.into());
        }
        self
    }

    /// Lets the container have so many descriptors at most.
    pub(crate) fn descriptors(mut self, count: u32) -> Self {
        let limit = json!({ "type": "RLIMIT_NOFILE", "hard": count, "soft": count });
        self.config["process"]["rlimits"] = json!([limit]);
        self
    }

    /// Makes the container's root read-only.
    pub(crate) fn read_only(mut self) -> Self {
        self.config["root"]["readonly"] = true.into();
        self
    }

    /// Adds the hook, with these arguments behind its name.
    pub(crate) fn hook(self, args: &[&str]) -> Self {
        self.hook_at(BINARY, args)
    }

    /// The same with another version of the program.
    pub(crate) fn hook_at(mut self, path: &str, args: &[&str]) -> Self {
        let mut argv = vec!["nri-ldcache", "update-ldcache"];
        argv.extend(args);
        let hook = json!({ "path": path, "args": argv, "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "timeout": 20 });
        self.config["hooks"] = json!({ "createContainer": [hook] });
        self
    }

    /// Takes the hook's environment away, as specs before CVE-2025-23266 had it.
    pub(crate) fn without_hook_env(mut self) -> Self {
        if let Some(hook) = self.config["hooks"]["createContainer"][0].as_object_mut() {
            hook.remove("env");
        }
        self
    }

    /// What the hook reported on the host.
    pub(crate) fn report(&self) -> Result<Value> {
        let path = self.host.node.path("/run/nri-ldcache").join(format!("{}.json", self.id));
        let text = fs::read(&path).with_context(|| format!("read report {}", path.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Runs `script` in the container.
    pub(crate) fn run(&mut self, runtime: &str, script: &str) -> Result<Ran> {
        self.config["process"]["args"] = json!(["/bin/sh", "-c", script]);
        fs::write(self.path("config.json"), self.config.to_string())?;
        let mut command = self.host.node.command(runtime);
        command.args(["run", "--bundle", &self.inside(""), &self.id]).stdin(Stdio::null());
        let output = command.output().with_context(|| format!("start {runtime}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Ran {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        })
    }

    /// What the hook left in the container's root: each path of the overlay's upper layer, with its kind, mode, target and
    /// content. Directories that the runtime made for its mounts are left out by `baseline`, a run without the hook.
    pub(crate) fn changes(&self) -> Result<Vec<String>> {
        let upper = self.inside("upper");
        let script = r#"cd "$1" && find . -mindepth 1 \( -type f -printf '%p file %m ' -exec sh -c 'sha256sum <"$1"' sh {} \; -o -printf '%p %y %m %l\n' \)"#;
        let listing = self.host.node.run(&["sh", "-c", script, "sh", &upper])?;
        let mut lines: Vec<_> = listing.lines().map(str::to_owned).collect();
        lines.sort();
        ensure!(lines.iter().all(|line| line.starts_with("./")), "{listing}");
        Ok(lines)
    }
}

fn config(node: &Node, id: &str) -> Value {
    let namespaces = ["pid", "mount", "ipc", "uts"].map(|kind| json!({ "type": kind }));
    json!({
        "ociVersion": "1.0.2",
        "process": { "user": { "uid": 0, "gid": 0 }, "cwd": "/", "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "args": [] },
        "root": { "path": "rootfs" },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"] },
        ],
        "linux": { "namespaces": namespaces, "cgroupsPath": format!("/{}/{id}", node.cgroup()) },
    })
}
