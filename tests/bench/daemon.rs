//! What the daemon costs.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Result, bail, ensure};
use nri::api::{Container, PodSandbox};
use nri::fake::FakeSocket;

use crate::program;

/// The daemon's memory, after it has been told of a large node and asked about many containers.
pub(crate) fn memory() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let scratch = tempfile::tempdir()?;
        let path = scratch.path().join("nri.sock");
        let socket = FakeSocket::bind(&path)?;
        let mut command = Command::new(program());
        command.arg("run").arg("--socket-path").arg(&path).stderr(Stdio::null());
        command.args(["--http-address", "127.0.0.1:0"]);
        let mut daemon = command.spawn()?;
        let mut node = socket.accept().await?;
        let started = rss(daemon.id())?;
        let (pods, containers): (Vec<_>, Vec<_>) = (0..1000).map(gpu_container).unzip();
        node.handshake(&pods, &containers, 1).await?;
        let idle = rss(daemon.id())?;
        for number in 0..100 {
            let (pod, container) = gpu_container(number);
            let answer = node.create_container(pod, container).await?;
            ensure!(answer.adjust.hooks.create_container.len() == 1, "no hook: {answer:?}");
        }
        let busy = rss(daemon.id())?;
        println!("daemon with metrics: {started:.2} MiB resident at its start, {idle:.2} MiB after a Synchronize of 1,000 containers, {busy:.2} MiB after 100 creations");
        daemon.kill()?;
        daemon.wait()?;
        Ok(())
    })
}

/// A pod and its container, as large as those of a cluster.
fn gpu_container(number: usize) -> (PodSandbox, Container) {
    let id = format!("{number:064x}");
    let label = |key: usize| (format!("example.com/label-{key}"), "x".repeat(100));
    let pod = PodSandbox {
        id: id.clone(),
        name: format!("pod-{number}"),
        namespace: "default".into(),
        annotations: (0..20).map(label).collect(),
        ..Default::default()
    };
    let mut env: Vec<_> = (0..40).map(|key| format!("VARIABLE_{key}={}", "x".repeat(60))).collect();
    env.push("NVIDIA_VISIBLE_DEVICES=all".into());
    let container = Container {
        id: id.clone(),
        pod_sandbox_id: id,
        name: "main".into(),
        env,
        ..Default::default()
    };
    (pod, container)
}

/// Resident memory in MiB (proc_pid_status(5), `VmRSS`, in KiB).
fn rss(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let Some(line) = status.lines().find_map(|line| line.strip_prefix("VmRSS:")) else {
        bail!("no VmRSS")
    };
    let size: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(size / 1024.0)
}
