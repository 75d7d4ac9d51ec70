//! What a kubelet does with a pod, without an API server: init containers, probes, logs, and the end.

mod fields;
mod translation;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_cri::v1;

use crate::containerd::Containerd;
use crate::cri::Sandbox;
use crate::endpoint::{self, Answer};
use translation::Container;
pub(crate) use translation::{Get, PodSpec};

const PATIENCE: Duration = Duration::from_secs(60);
const LOGS: &str = "/var/log/pods";

/// A pod that a kubelet has started.
#[derive(Debug)]
pub(crate) struct RunningPod<'a> {
    spec: PodSpec,
    containerd: &'a Containerd,
    sandbox: Sandbox<'a>,
    /// Of its containers, in the order of the spec.
    ids: Vec<String>,
}

impl<'a> RunningPod<'a> {
    /// Starts the pod: its init containers one after the other, and when they have succeeded, its containers.
    pub(crate) fn start(containerd: &'a Containerd, spec: &PodSpec) -> Result<Self> {
        let sandbox = containerd.cri().pod(sandbox(spec, containerd.node().cgroup()), "runc")?;
        let mut pod = Self { spec: spec.clone(), containerd, sandbox, ids: Vec::new() };
        for container in &spec.init {
            let id = pod.run(container)?;
            let code = pod.code(&id)?;
            ensure!(code == 0, "{} exits with {code}: {}", name(container), pod.log(container));
        }
        for container in &spec.containers {
            let id = pod.run(container)?;
            pod.ids.push(id);
        }
        Ok(pod)
    }

    fn run(&self, container: &Container) -> Result<String> {
        for directory in &container.directories {
            let path = self.containerd.node().path(&directory.path);
            if directory.create {
                fs::create_dir_all(&path)?;
            }
            ensure!(path.is_dir(), "{} is no directory", directory.path);
        }
        let id = self.sandbox.create_as(container.config.clone());
        let id = id.with_context(|| format!("create {}", name(container)))?;
        self.sandbox.start(&id).with_context(|| format!("start {}", name(container)))?;
        Ok(id)
    }

    /// Waits until it is ready: all of its readiness probes succeed.
    pub(crate) fn wait_until_ready(&self) -> Result<()> {
        let probes = || self.spec.containers.iter().filter_map(|it| it.readiness.as_ref());
        ensure!(probes().count() > 0, "a pod without a readiness probe is always ready");
        let start = Instant::now();
        for probe in probes() {
            loop {
                let seen = self.get(probe);
                if seen.as_ref().is_ok_and(|answer| answer.status == 200) {
                    break;
                }
                ensure!(start.elapsed() < PATIENCE, "not ready: {seen:?}\n{}", self.logs());
                thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// Do its liveness probes succeed?
    pub(crate) fn is_alive(&self) -> Result<bool> {
        let probes = self.spec.containers.iter().filter_map(|it| it.liveness.as_ref());
        let codes = probes.map(|probe| Ok(self.get(probe)?.status));
        Ok(codes.collect::<Result<Vec<_>>>()?.iter().all(|code| *code == 200))
    }

    /// Asks the pod itself, from its node.
    pub(crate) fn get(&self, get: &Get) -> Result<Answer> {
        let address = format!("{}:{}", self.ip()?, get.port);
        endpoint::get_inside(self.containerd.node(), &address, &get.path)
    }

    /// Its address.
    pub(crate) fn ip(&self) -> Result<String> {
        self.sandbox.ip()
    }

    /// Waits for the end of its first container; its exit code.
    pub(crate) fn wait(&self) -> Result<i32> {
        self.code(self.ids.first().context("a pod without containers")?)
    }

    fn code(&self, id: &str) -> Result<i32> {
        let start = Instant::now();
        loop {
            let status = self.sandbox.status(id)?;
            if status.state() == v1::ContainerState::ContainerExited {
                return Ok(status.exit_code);
            }
            if start.elapsed() > PATIENCE {
                bail!("{id} does not end");
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What a container has printed.
    fn log(&self, container: &Container) -> String {
        let path = format!("{}/{}", directory(&self.spec), container.config.log_path);
        fs::read_to_string(self.containerd.node().path(&path)).unwrap_or_default()
    }

    /// What all of them have.
    pub(crate) fn logs(&self) -> String {
        self.spec.init.iter().chain(&self.spec.containers).map(|it| self.log(it)).collect()
    }

    /// Ends it as a kubelet does: SIGTERM, and after the grace period SIGKILL.
    pub(crate) fn stop(self) -> Result<()> {
        self.ids.iter().try_for_each(|id| self.sandbox.stop(id, self.spec.grace))
    }
}

fn name(container: &Container) -> &str {
    container.config.metadata.as_ref().map_or("", |metadata| &metadata.name)
}

fn directory(spec: &PodSpec) -> String {
    format!("{LOGS}/{}_{}", spec.namespace, spec.name)
}

fn sandbox(spec: &PodSpec, cgroup: &str) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: spec.name.clone(),
            namespace: spec.namespace.clone(),
            ..Default::default()
        }),
        hostname: spec.name.clone(),
        log_directory: directory(spec),
        labels: spec.labels.clone(),
        annotations: spec.annotations.clone(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: format!("/{cgroup}"),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(spec.namespaces.clone()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}
