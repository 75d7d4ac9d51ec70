//! A node: a Debian directory with containerd, runc and crun, running in namespaces of its own.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio, id};
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::daemon::Daemon;
use crate::{cache, debian, shell};

const PACKAGES: [&str; 6] =
    ["containerd", "containernetworking-plugins", "runc", "crun", "busybox-static", "tini"];

/// What cargo and the user have in their environment (`LD_LIBRARY_PATH`, say) is not the node's.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The Debian releases whose containerd has NRI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// containerd 1.7, NRI 0.6
    Trixie,
    /// containerd 2.1, NRI 0.8
    Forky,
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trixie => "trixie",
            Self::Forky => "forky",
        })
    }
}

impl FromStr for Release {
    type Err = anyhow::Error;

    fn from_str(suite: &str) -> Result<Self> {
        let mut known = [Self::Trixie, Self::Forky].into_iter();
        let found = known.find(|release| release.to_string() == suite);
        found.with_context(|| format!("{suite} is neither trixie nor forky"))
    }
}

/// A running node. It ends with this value, or with this process, however that dies: see `node-enter.sh`.
#[derive(Debug)]
pub(crate) struct Node {
    /// PID 1 of the node, as the host numbers it.
    pid: u32,
    cgroup: String,
    stdin: Option<ChildStdin>,
    child: Child,
}

impl Node {
    /// Starts a node of this release; its directory is made when it is missing.
    pub(crate) fn start(release: Release) -> Result<Self> {
        let suite = release.to_string();
        let directory = cache::entry(&format!("node-{suite}-2"), |target| {
            debian::debootstrap(&suite, &PACKAGES, target)
        })?;
        Self::enter(&directory).with_context(|| format!("start node {suite}"))
    }

    fn enter(directory: &Path) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let cgroup = format!("nri-ldcache-test-{}-{}", id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut child = Command::new("sh")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node-enter.sh"))
            .arg(directory)
            .arg(&cgroup)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is for us alone: the script has to outlive us, to remove the cgroups.
            .process_group(0)
            .spawn()?;
        let stdin = child.stdin.take();
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("stdout is piped")?).read_line(&mut line)?;
        let pid = line.trim().parse().context("node-enter.sh printed no pid")?;
        Ok(Self { pid, cgroup, stdin, child })
    }

    /// The cgroup below which the node's pods belong.
    pub(crate) fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// Lets go on what a runtime has stopped: one on cgroups v1 that is killed while it writes a container's rules for devices, as
    /// a containerd that is killed kills it, leaves that frozen. Then neither the next containerd gets ready, which deletes the
    /// container first, nor does the node end.
    pub(crate) fn thaw(&self) {
        let containers = fs::read_dir(Path::new("/sys/fs/cgroup/freezer").join(&self.cgroup));
        for container in containers.into_iter().flatten().flatten() {
            // Of a cgroup that is gone by now, or of a file, there is none.
            let _ = fs::write(container.path().join("freezer.state"), "THAWED");
        }
    }

    /// A path of the node as this process can open it.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.pid)).join(inside.trim_start_matches('/'))
    }

    /// A command that will run inside the node, in a session of its own: there, what a test stops or leaves to the node's
    /// PID 1 does not make the kernel hang up our process group (setpgid(2), "orphaned process group").
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setsid");
        command.args([
            "nsenter",
            "-t",
            &self.pid.to_string(),
            "-m",
            "-p",
            "-n",
            "-u",
            "-i",
            "-r",
            "-w",
            "--",
        ]);
        command.arg(program).env_clear().env("PATH", PATH);
        command
    }

    /// Runs a command inside the node and returns what it printed.
    pub(crate) fn run(&self, argv: &[&str]) -> Result<String> {
        let (program, args) = argv.split_first().context("an empty command")?;
        shell::output(self.command(program).args(args))
    }

    /// Starts a daemon inside the node; what it prints is appended to `/var/log/NAME.log` there.
    pub(crate) fn daemon(&self, name: &str, argv: &[&str]) -> Result<Daemon> {
        // `exec` keeps the pid that the shell prints: nsenter(1) does not tell it.
        let script = r#"echo $$; log=$1; shift; exec "$@" >>"$log" 2>&1"#;
        let log = format!("/var/log/{name}.log");
        let mut command = self.command("sh");
        command.args(["-c", script, "sh", &log]).args(argv);
        Daemon::spawn(command, self.command("sh"), name, self.path(&log))
    }

    /// Copies a file of the host into the node.
    pub(crate) fn copy(&self, from: &Path, inside: &str) -> Result<()> {
        let to = self.path(inside);
        let parent = to.parent().with_context(|| format!("{inside} has no directory"))?;
        fs::create_dir_all(parent)?;
        // A running program cannot be written; renamed over, it can be replaced.
        let new = to.with_extension("new");
        shell::copy(from, &new)?;
        fs::rename(&new, &to)?;
        Ok(())
    }

    /// Writes a file of the node.
    pub(crate) fn write(&self, inside: &str, text: &str) -> Result<()> {
        let to = self.path(inside);
        let parent = to.parent().with_context(|| format!("{inside} has no directory"))?;
        fs::create_dir_all(parent)?;
        fs::write(&to, text).with_context(|| format!("write {inside}"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.stdin.take());
        while let Ok(None) = self.child.try_wait() {
            self.thaw();
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Whether this machine can run nodes at all; if not, says why, and in CI that is a failure.
pub(crate) fn possible() -> bool {
    let Err(reason) = requirements() else { return true };
    assert!(std::env::var("CI").as_deref() != Ok("true"), "cannot run nodes: {reason:#}");
    shell::tell(&format!("SKIPPED, nothing was tested: {reason:#}"));
    false
}

fn requirements() -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    // The owner of /proc/self is the effective user, proc_pid(5).
    ensure!(fs::metadata("/proc/self")?.uid() == 0, "a node needs root");
    for tool in ["cc", "debootstrap", "nsenter", "tar", "unshare"] {
        let found = Command::new(tool).arg("--version").output();
        found.with_context(|| format!("{tool} is missing; tests/setup.sh installs it"))?;
    }
    Ok(())
}
