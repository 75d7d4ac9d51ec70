//! The host that is attacked: a throw-away node, and what it was like before.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use nri_ldcache::report::{Outcome, Report};

use super::place::Place;
use super::situation::{Nests, Situation};
use super::snapshot::Tree;
use super::victim::{self, DRIVER, Victim};
use super::watched::{self, Proc, Watched};
use crate::bundle::VOLUME;
use crate::installation::BINARY;
use crate::node::{Node, Release};
use crate::{gpu, shell};

/// A program of the image that leaves a trace in the root, the volume and the host's /run.
pub(crate) const TRAP: &str = "/opt/trap";

/// Where hooks tell what they did.
const REPORTS: &str = "/run/nri-ldcache";

const SPRING: &str = r#"
#include <fcntl.h>
int main(void) {
    open("/executed", O_CREAT | O_WRONLY, 0600);
    open("/vol/executed", O_CREAT | O_WRONLY, 0600);
    open("/run/executed", O_CREAT | O_WRONLY, 0600);
}
"#;

/// Longer than the hook's own limit, below any patience of a runtime.
const LIMIT: Duration = Duration::from_secs(30);

/// What one run of the hook did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) did: Watched,
    pub(crate) said: String,
    /// Which engine made the cache, as the hook reports; in a user namespace it can't.
    pub(crate) engine: Option<String>,
}

/// The host, seen from inside: only a thread in its namespaces has one.
#[derive(Debug)]
pub(crate) struct Site {
    proc: Proc,
    nests: Nests,
    tree: Tree,
    processes: BTreeSet<String>,
}

impl Site {
    /// Starts a node and runs `work` in a thread that has entered it.
    pub(crate) fn visit<T: Send>(
        release: Release,
        work: impl FnOnce(&Self) -> Result<T> + Send,
    ) -> Result<T> {
        let node = start(release)?;
        let proc = Proc::of_this_machine()?;
        enter(&node, || work(&Self::look(proc)?))
    }

    /// Looks at the host that this thread has entered, before anything is done to it.
    pub(crate) fn look(proc: Proc) -> Result<Self> {
        let nests = Nests::make()?;
        Ok(Self { proc, nests, tree: tree()?, processes: processes()? })
    }

    /// Runs the hook for a container.
    pub(crate) fn run(&self, victim: &Victim, situation: Situation, args: &[&str]) -> Result<Ran> {
        let hook = self.nests.command(situation, BINARY);
        let mut command = watched::command();
        command.arg(hook.get_program()).args(hook.get_args());
        command.args(["update-ldcache", "--folder", DRIVER]).args(args);
        command.stdin(victim.state()?).stdout(Stdio::null()).stderr(victim.log()?);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir("/");
        let did = self.proc.watch(&mut command, Path::new(BINARY), LIMIT).context("run hook")?;
        let said = fs::read(victim.log_path())?;
        let said = String::from_utf8_lossy(&said).trim_end().to_owned();
        let report = Report::read(Path::new(REPORTS), &victim.id())?;
        let made = report.filter(|report| report.outcome == Outcome::Updated);
        Ok(Ran { did, said, engine: made.map(|report| report.engine) })
    }

    /// The mount tables of the host and of each nest.
    pub(crate) fn mounts(&self) -> Result<Vec<String>> {
        let mut tables = self.nests.mounts()?;
        tables.push(fs::read_to_string("/proc/1/mountinfo")?);
        Ok(tables)
    }

    /// What is not as it was: files of the host and its volumes, and processes of the hook.
    pub(crate) fn damage(&self) -> Result<Vec<String>> {
        let mut damage = self.tree.difference(&tree()?);
        let start = Instant::now();
        // One that was killed is a zombie for a moment, until pid 1 has seen it.
        while processes()? != self.processes && start.elapsed() < Duration::from_secs(1) {
            thread::sleep(Duration::from_millis(2));
        }
        for pid in processes()?.difference(&self.processes) {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            damage.push(format!("left process {pid} {line}"));
        }
        Ok(damage)
    }
}

/// Starts a node that has all that an attack needs.
pub(crate) fn start(release: Release) -> Result<Node> {
    let node = Node::start(release)?;
    furnish(&node)?;
    Ok(node)
}

/// Runs `work` in a thread of its own that is in the node's namespaces, and whose children are.
pub(crate) fn enter<T: Send>(node: &Node, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let root = node.path("");
    let process = root.parent().context("a node's root lies in procfs")?.to_owned();
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            // Working directory and root are a thread's own from here on, else no mount namespace can be entered.
            unshare(CloneFlags::CLONE_FS)?;
            let names = ["ipc", "uts", "pid", "mnt"];
            let open = |name| File::open(process.join("ns").join(name));
            let files = names.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
            for file in &files {
                setns(file, CloneFlags::empty()).context("enter node")?;
            }
            work()
        });
        inside.join().expect("the work returns errors")
    })
}

/// Puts the hook, the driver, the trap and a volume with everything that a link might want to the node.
fn furnish(node: &Node) -> Result<()> {
    node.copy(Path::new(env!("CARGO_BIN_EXE_nri-ldcache")), BINARY)?;
    // Made first, so that the directories in which they lie stay as they are.
    fs::create_dir_all(node.path(REPORTS))?;
    fs::create_dir_all(node.path(victim::PLACE))?;
    gpu::install(node, BINARY)?;
    let source = tempfile::Builder::new().suffix(".c").tempfile()?;
    fs::write(&source, SPRING)?;
    let mut cc = Command::new("cc");
    shell::output(cc.args(["-static", "-o"]).arg(node.path(TRAP)).arg(source.path()))?;
    spring(node)?;
    for place in Place::ALL {
        let path = node.path(VOLUME).join(place.path().trim_start_matches('/'));
        if place.is_dir() {
            fs::create_dir_all(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(0o777))?;
        } else {
            fs::create_dir_all(path.parent().context("a place has a directory")?)?;
            fs::write(
                &path,
                if place == Place::Conf { "include ld.so.conf.d/*.conf\n" } else { "" },
            )?;
            fs::set_permissions(&path, Permissions::from_mode(0o666))?;
        }
    }
    Ok(())
}

/// A trap that does not work proves nothing.
fn spring(node: &Node) -> Result<()> {
    node.run(&[TRAP])?;
    ensure!(node.path("/run/executed").exists(), "the trap leaves no trace");
    fs::remove_file(node.path("/run/executed"))?;
    Ok(fs::remove_file(node.path("/executed"))?)
}

/// The host's files, its volumes among them, but for the reports that hooks write.
fn tree() -> Result<Tree> {
    Tree::look(Command::new("find"), &["/", "/run"], REPORTS)
}

/// The pids of all processes of the node but our own: children of this thread that have not been waited for are ours.
fn processes() -> Result<BTreeSet<String>> {
    let names =
        fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).collect())
}
