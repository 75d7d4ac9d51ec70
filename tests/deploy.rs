//! The chart's pods on real nodes, from installation to removal: the agent, an upgrade under load, the cleanup.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};

use crate::chart::{self, Chart, NAMESPACE, REPOSITORY};
use crate::containerd::Containerd;
use crate::cri::Sandbox;
use crate::endpoint::sample;
use crate::gpu;
use crate::kubelet::{Get, RunningPod};
use crate::matrix::binary;
use crate::node::{self, Release};
use crate::pod::Pod;
use crate::shell;

/// What changes on a node whether or not anything is installed; and its hosts, which the test itself writes.
const RESTLESS: [&str; 8] = [
    "/etc/hosts",
    "/proc",
    "/run/cni-ipam",
    "/run/containerd",
    "/run/netns",
    "/sys",
    "/var/lib/cni",
    "/var/log",
];

#[test]
fn both_helms_render_the_same() -> Result<()> {
    ensure!(Chart::render("helm3", "one")? == Chart::render("helm4", "one")?, "they do not");
    Ok(())
}

#[test]
fn the_chart_installs_upgrades_and_removes() -> Result<()> {
    if !node::possible() {
        return Ok(());
    }
    for (release, helm) in [(Release::Trixie, "helm3"), (Release::Forky, "helm4")] {
        lifecycle(release, helm).with_context(|| format!("{release} with {helm}"))?;
    }
    Ok(())
}

fn lifecycle(release: Release, helm: &str) -> Result<()> {
    let containerd = Containerd::start(release)?;
    gpu::install(containerd.node(), "/nowhere")?;
    images(&containerd)?;
    let (one, two) = (Chart::render(helm, "one")?, Chart::render(helm, "two")?);
    let before = files(&containerd)?;
    let early = GpuPod::start(&containerd)?;
    ensure!(!early.works()?, "a GPU works before anything is installed");

    let agent = RunningPod::start(&containerd, &one.pod("DaemonSet", "nri-ldcache")?)?;
    agent.wait_until_ready()?;
    ensure!(agent.is_alive()?, "{}", agent.logs());
    let without = metric(&agent, "containers_without_hook")?;
    ensure!(without == 1.0, "{without} containers without a hook, and there is one");
    let pod = GpuPod::start(&containerd)?;
    let first = pod.good()?;
    for name in ["registered", "hooks_injected_total"] {
        let is = metric(&agent, name)?;
        ensure!(is == 1.0, "{name} is {is}");
    }
    helm_test(&containerd, &one, &agent)?;

    let (agent, pods) = upgrade(&containerd, agent, &two)?;
    let last = pods.last().context("no pod was created during the upgrade")?;
    ensure!(*last != first, "the new agent injects the old program {last}");

    agent.stop()?;
    remove(&containerd, &two)?;
    ensure!(pod.works()?, "a GPU that was in use works no longer");
    ensure!(!GpuPod::start(&containerd)?.works()?, "nothing was removed");
    let after = files(&containerd)?;
    let left: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
    let gone: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
    ensure!(left.is_empty() && gone.is_empty(), "left {left:#?}, gone {gone:#?}");
    Ok(())
}

/// Gives the node the image, and a second version of it: another file that is the same program.
fn images(containerd: &Containerd) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let program = dir.path().join("nri-ldcache");
    // The node's files are in memory, which counts against the pod's limit.
    shell::output(Command::new("strip").arg("-o").arg(&program).arg(binary()))?;
    for version in ["one", "two"] {
        let archive = dir.path().join("image.tar");
        chart::image(&program, &archive)?;
        containerd.node().copy(&archive, "/tmp/image.tar")?;
        let ctr = |args: &[&str]| {
            containerd.node().run(&[&["ctr", "-n", "k8s.io", "images"], args].concat())
        };
        ctr(&["import", "/tmp/image.tar"])?;
        let name = format!("{REPOSITORY}:{}", env!("CARGO_PKG_VERSION"));
        ctr(&["tag", &name, &format!("{REPOSITORY}:{version}")])?;
        fs::remove_file(containerd.node().path("/tmp/image.tar"))?;
        File::options().append(true).open(&program)?.write_all(b"another version")?;
    }
    Ok(())
}

/// Starts the new agent, and ends the old one when the new one is ready, while pods are created without a pause.
/// The programs of their hooks, in the order of the pods.
fn upgrade<'a>(
    containerd: &'a Containerd,
    old: RunningPod<'a>,
    chart: &Chart,
) -> Result<(RunningPod<'a>, Vec<String>)> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let creator = scope.spawn(|| {
            let mut programs = Vec::new();
            // One more after the end, of which the new agent alone knows.
            while {
                let last = done.load(Ordering::Relaxed);
                programs.push(GpuPod::start(containerd)?.good()?);
                !last
            } {}
            anyhow::Ok(programs)
        });
        let surge = || {
            let new = RunningPod::start(containerd, &chart.pod("DaemonSet", "nri-ldcache")?)?;
            new.wait_until_ready()?;
            old.stop()?;
            anyhow::Ok(new)
        };
        let new = surge();
        done.store(true, Ordering::Relaxed);
        let programs = creator.join().expect("the creator returns errors")?;
        println!("{} pods were created during the upgrade", programs.len());
        Ok((new?, programs))
    })
}

/// `helm test`: a pod that asks the agents by the name of their service, which a cluster's DNS would know.
fn helm_test(containerd: &Containerd, chart: &Chart, agent: &RunningPod<'_>) -> Result<()> {
    known_as(containerd, "nri-ldcache-test", &agent.ip()?, || {
        let test = RunningPod::start(containerd, &chart.pod("Pod", "nri-ldcache-test")?)?;
        ensure!(test.wait()? == 0, "helm test fails: {}", test.logs());
        Ok(())
    })
}

/// `helm uninstall`: what its hooks do when the agent is gone.
fn remove(containerd: &Containerd, chart: &Chart) -> Result<()> {
    let name = "nri-ldcache-cleanup";
    let cleanup = RunningPod::start(containerd, &chart.pod("DaemonSet", name)?)?;
    known_as(containerd, name, &cleanup.ip()?, || {
        let waiting =
            RunningPod::start(containerd, &chart.pod("Pod", "nri-ldcache-cleanup-wait")?)?;
        ensure!(waiting.wait()? == 0, "{}\n{}", waiting.logs(), cleanup.logs());
        Ok(())
    })?;
    cleanup.wait_until_ready()
}

/// Does something while new pods find the service `name` at `ip`.
fn known_as(
    containerd: &Containerd,
    name: &str,
    ip: &str,
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let hosts = fs::read_to_string(containerd.node().path("/etc/hosts"))?;
    containerd.node().write("/etc/hosts", &format!("{hosts}{ip} {name}.{NAMESPACE}.svc\n"))?;
    let done = work();
    containerd.node().write("/etc/hosts", &hosts)?;
    done
}

fn metric(agent: &RunningPod<'_>, name: &str) -> Result<f64> {
    let get = Get { path: "/metrics".to_owned(), port: 9177 };
    sample(&agent.get(&get)?.body, name)
}

/// The node's files: name, kind, mode, owner, target, and of a file its size and time.
fn files(containerd: &Containerd) -> Result<Vec<String>> {
    let mut find = containerd.node().command("find");
    find.args(["/", "/run", "-xdev"]);
    for path in RESTLESS {
        find.args(["-path", path, "-prune", "-o"]);
    }
    let what = ["%p %y %m %u %g %l %s %T@\\n", "%p %y %m %u %g %l\\n"];
    find.args(["-type", "f", "-printf", what[0], "-o", "-printf", what[1]]);
    let listing = shell::output(&mut find)?;
    Ok(listing.lines().map(ToOwned::to_owned).collect())
}

/// A pod with a GPU.
struct GpuPod<'a> {
    containerd: &'a Containerd,
    sandbox: Sandbox<'a>,
    id: String,
}

impl<'a> GpuPod<'a> {
    fn start(containerd: &'a Containerd) -> Result<Self> {
        let sandbox = containerd.cri().sandbox(&Pod::new("gpu", "runc"))?;
        let id = sandbox.run(&gpu::with_app("app").cdi(gpu::CDI))?;
        Ok(Self { containerd, sandbox, id })
    }

    fn works(&self) -> Result<bool> {
        Ok(self.sandbox.exec(&self.id, &[gpu::APP])?.stdout == gpu::GREETING)
    }

    /// It works, with one hook; the program of that.
    fn good(&self) -> Result<String> {
        let hooks = self.containerd.hooks(&self.id)?;
        ensure!(hooks.len() == 1, "{} hooks", hooks.len());
        ensure!(self.works()?, "it has the hook {} and does not work", hooks[0]);
        let path = hooks[0]["path"].as_str().context("a hook without a path")?;
        ensure!(Path::new(path).starts_with("/opt/nri-ldcache"), "a hook that runs {path}");
        Ok(path.to_owned())
    }
}
