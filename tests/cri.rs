//! A blocking CRI client: what a kubelet would ask of a container runtime.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{self, NamespaceMode};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::image;
use crate::pod::{Container, Pod};

/// The CRI of one container runtime.
#[derive(Debug)]
pub(crate) struct Cri {
    runtime: Runtime,
    client: RuntimeServiceClient<Channel>,
    cgroup: String,
}

impl Cri {
    /// A client of the runtime at `socket` that puts its pods below `cgroup`.
    pub(crate) fn new(socket: &Path, cgroup: &str) -> Result<Self> {
        let runtime = Runtime::new()?;
        let socket = PathBuf::from(socket);
        let connect = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // tonic wants an URI; the connector knows better.
        let channel = runtime.block_on(async {
            Endpoint::from_static("http://cri").connect_with_connector_lazy(connect)
        });
        Ok(Self { runtime, client: RuntimeServiceClient::new(channel), cgroup: cgroup.to_owned() })
    }

    /// Whether the runtime answers and says that it can run pods; its network aside, which our pods do not use.
    pub(crate) fn ready(&self) -> bool {
        let mut client = self.client.clone();
        let request = v1::StatusRequest { verbose: false };
        let answer = self.runtime.block_on(client.status(request));
        let status = answer.ok().and_then(|answer| answer.into_inner().status);
        let conditions = status.map(|status| status.conditions).unwrap_or_default();
        conditions.iter().any(|condition| condition.r#type == "RuntimeReady" && condition.status)
    }

    /// Runs a pod sandbox.
    pub(crate) fn sandbox(&self, pod: &Pod) -> Result<Sandbox<'_>> {
        self.pod(sandbox_config(pod, &self.cgroup), &pod.runtime)
    }

    /// Runs a pod sandbox that has all but a name of its own.
    pub(crate) fn pod(
        &self,
        mut config: v1::PodSandboxConfig,
        runtime: &str,
    ) -> Result<Sandbox<'_>> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        if let Some(metadata) = &mut config.metadata {
            metadata.name = format!("{}-{number}", metadata.name);
            metadata.uid = format!("uid-{number}");
        }
        let request = v1::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: runtime.to_owned(),
        };
        let mut client = self.client.clone();
        let id = self
            .call("run pod sandbox", async move { client.run_pod_sandbox(request).await })?
            .pod_sandbox_id;
        Ok(Sandbox { cri: self, id, config })
    }

    fn call<T>(
        &self,
        what: &str,
        answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T> {
        let answer = self.runtime.block_on(answer);
        Ok(answer
            .map_err(|status| anyhow::anyhow!("{status}"))
            .with_context(|| what.to_owned())?
            .into_inner())
    }
}

/// A running pod sandbox, removed with its containers when dropped.
#[derive(Debug)]
pub(crate) struct Sandbox<'a> {
    cri: &'a Cri,
    id: String,
    config: v1::PodSandboxConfig,
}

impl Sandbox<'_> {
    /// Creates a container and starts it; its id.
    pub(crate) fn run(&self, container: &Container) -> Result<String> {
        let id = self.create(container)?;
        self.start(&id)?;
        Ok(id)
    }

    /// Those of the pod: CRI wants them said again for each container.
    fn namespaces(&self) -> Option<v1::NamespaceOption> {
        self.config.linux.as_ref()?.security_context.as_ref()?.namespace_options.clone()
    }

    /// Creates a container; its id.
    pub(crate) fn create(&self, container: &Container) -> Result<String> {
        self.create_as(container_config(container, self.namespaces()))
    }

    /// The same of a container that the CRI is told all of.
    pub(crate) fn create_as(&self, config: v1::ContainerConfig) -> Result<String> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let mut client = self.cri.client.clone();
        let call = async move { client.create_container(request).await };
        Ok(self.cri.call("create container", call)?.container_id)
    }

    /// Starts a created container.
    pub(crate) fn start(&self, container: &str) -> Result<()> {
        let request = v1::StartContainerRequest { container_id: container.to_owned() };
        let mut client = self.cri.client.clone();
        self.cri.call("start container", async move { client.start_container(request).await })?;
        Ok(())
    }

    /// Ends a container: SIGTERM, and after `grace` seconds SIGKILL.
    pub(crate) fn stop(&self, container: &str, grace: i64) -> Result<()> {
        let request =
            v1::StopContainerRequest { container_id: container.to_owned(), timeout: grace };
        let mut client = self.cri.client.clone();
        self.cri.call("stop container", async move { client.stop_container(request).await })?;
        Ok(())
    }

    /// What became of a container.
    pub(crate) fn status(&self, container: &str) -> Result<v1::ContainerStatus> {
        let request =
            v1::ContainerStatusRequest { container_id: container.to_owned(), verbose: false };
        let mut client = self.cri.client.clone();
        let call = async move { client.container_status(request).await };
        self.cri.call("look at container", call)?.status.context("a container without status")
    }

    /// The pod's own address.
    pub(crate) fn ip(&self) -> Result<String> {
        let request =
            v1::PodSandboxStatusRequest { pod_sandbox_id: self.id.clone(), verbose: false };
        let mut client = self.cri.client.clone();
        let call = async move { client.pod_sandbox_status(request).await };
        let status = self.cri.call("look at pod sandbox", call)?.status;
        let network = status.and_then(|status| status.network).context("a pod without network")?;
        Ok(network.ip)
    }

    /// Stops a container at once, and removes it.
    pub(crate) fn remove(&self, container: &str) -> Result<()> {
        let container_id = container.to_owned();
        let stop = v1::StopContainerRequest { container_id: container_id.clone(), timeout: 0 };
        let remove = v1::RemoveContainerRequest { container_id };
        let mut client = self.cri.client.clone();
        let removed = async move {
            client.stop_container(stop).await?;
            client.remove_container(remove).await
        };
        self.cri.call("remove container", removed)?;
        Ok(())
    }

    /// Runs a command in a container.
    pub(crate) fn exec(&self, container: &str, argv: &[&str]) -> Result<Ran> {
        let request = v1::ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: argv.iter().map(ToString::to_string).collect(),
            timeout: 20,
        };
        let mut client = self.cri.client.clone();
        let answer = self.cri.call("exec", async move { client.exec_sync(request).await })?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Ran {
            code: answer.exit_code,
            stdout: text(&answer.stdout),
            stderr: text(&answer.stderr),
        })
    }
}

impl Drop for Sandbox<'_> {
    fn drop(&mut self) {
        let stop = v1::StopPodSandboxRequest { pod_sandbox_id: self.id.clone() };
        let remove = v1::RemovePodSandboxRequest { pod_sandbox_id: self.id.clone() };
        let of_it = v1::ContainerFilter { pod_sandbox_id: self.id.clone(), ..Default::default() };
        let list = v1::ListContainersRequest { filter: Some(of_it) };
        let mut client = self.cri.client.clone();
        // Its containers first, as kubelet removes them: containerd 2.1 locks out new plugins for a sandbox and again for each
        // container that it removes with it, and a plugin that connects in between stops them all for ever (sync.RWMutex: no
        // recursive read locks).
        let removed = self.cri.call("remove pod sandbox", async move {
            client.stop_pod_sandbox(stop).await?;
            for container in client.list_containers(list).await?.into_inner().containers {
                let container_id = container.id;
                client.remove_container(v1::RemoveContainerRequest { container_id }).await?;
            }
            client.remove_pod_sandbox(remove).await
        });
        if let Err(error) = removed {
            eprintln!("{error:#}");
        }
    }
}

/// What a command in a container did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

fn sandbox_config(pod: &Pod, cgroup: &str) -> v1::PodSandboxConfig {
    let metadata = v1::PodSandboxMetadata {
        name: pod.name.clone(),
        namespace: pod.namespace.clone(),
        ..Default::default()
    };
    let security = v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod.user_namespace)),
        ..Default::default()
    };
    v1::PodSandboxConfig {
        metadata: Some(metadata),
        annotations: pod.annotations.clone(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: format!("/{cgroup}"),
            security_context: Some(security),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn container_config(
    container: &Container,
    namespaces: Option<v1::NamespaceOption>,
) -> v1::ContainerConfig {
    let security = v1::LinuxContainerSecurityContext {
        namespace_options: namespaces,
        readonly_rootfs: container.read_only,
        ..Default::default()
    };
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt: 0 }),
        image: Some(v1::ImageSpec {
            image: image::NAME.to_owned(),
            // CRI-O insists.
            user_specified_image: image::NAME.to_owned(),
            ..Default::default()
        }),
        envs: container.envs.clone(),
        mounts: container.mounts.clone(),
        devices: container.devices.clone(),
        annotations: container.annotations.clone(),
        cdi_devices: container.cdi_devices.clone(),
        linux: Some(v1::LinuxContainerConfig {
            security_context: Some(security),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The node's network, for that needs no CNI; but a network that is not of its own user namespace can't be had in one.
fn namespaces(user: bool) -> v1::NamespaceOption {
    let mapping = v1::IdMapping { host_id: 100_000, container_id: 0, length: 65_536 };
    let users = v1::UserNamespace {
        mode: NamespaceMode::Pod.into(),
        uids: vec![mapping],
        gids: vec![mapping],
    };
    v1::NamespaceOption {
        network: if user { NamespaceMode::Pod } else { NamespaceMode::Node }.into(),
        pid: NamespaceMode::Container.into(),
        userns_options: user.then_some(users),
        ..Default::default()
    }
}
