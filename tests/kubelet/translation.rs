//! A pod of Kubernetes' API as the configurations of the CRI: each field is translated, or it is an error.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use k8s_cri::v1::{self, NamespaceMode};
use serde_json::Value;

use super::fields::Fields;

/// Whom the kubelet asks for these, and who decided before it: the API server's admission, the scheduler, controllers.
const NOT_OURS: [&str; 9] = [
    "affinity",
    "automountServiceAccountToken",
    "dnsPolicy",
    "enableServiceLinks",
    "nodeSelector",
    "priorityClassName",
    "restartPolicy",
    "serviceAccountName",
    "tolerations",
];

/// The kubelet's default for a container of a critical pod (pkg/kubelet/qos/policy.go).
const CRITICAL: i64 = -997;

/// A pod, ready to be run.
#[derive(Clone, Debug)]
pub(crate) struct PodSpec {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) labels: HashMap<String, String>,
    pub(super) annotations: HashMap<String, String>,
    pub(super) namespaces: v1::NamespaceOption,
    pub(super) grace: i64,
    pub(super) init: Vec<Container>,
    pub(super) containers: Vec<Container>,
}

/// A container with what the kubelet does to it from outside.
#[derive(Clone, Debug)]
pub(super) struct Container {
    pub(super) config: v1::ContainerConfig,
    /// Directories of the host that are to be there before.
    pub(super) directories: Vec<HostPath>,
    pub(super) readiness: Option<Get>,
    pub(super) liveness: Option<Get>,
}

/// `hostPath` of a volume.
#[derive(Clone, Debug)]
pub(super) struct HostPath {
    pub(super) path: String,
    pub(super) create: bool,
}

/// `httpGet` of a probe.
#[derive(Clone, Debug)]
pub(crate) struct Get {
    pub(crate) path: String,
    pub(crate) port: u16,
}

impl PodSpec {
    /// A Pod, or the template of a DaemonSet.
    pub(crate) fn of(object: Value) -> Result<Self> {
        let mut object = Fields::of("pod", object)?;
        let kind: String = object.need("kind")?;
        let mut outer = object.object("metadata")?;
        let (name, namespace) = (outer.need("name")?, outer.need("namespace")?);
        let mut pod = match kind.as_str() {
            "DaemonSet" => object.object("spec")?.object("template")?,
            _ => object,
        };
        let mut metadata = if kind == "DaemonSet" { pod.object("metadata")? } else { outer };
        let labels = metadata.get("labels")?.unwrap_or_default();
        let annotations = metadata.get("annotations")?.unwrap_or_default();
        metadata.finish()?;
        Self::spec(pod.object("spec")?, name, namespace, labels, annotations)
    }

    fn spec(
        mut spec: Fields,
        name: String,
        namespace: String,
        labels: HashMap<String, String>,
        annotations: HashMap<String, String>,
    ) -> Result<Self> {
        let token: bool = spec.need("automountServiceAccountToken")?;
        ensure!(!token, "a pod that gets a token");
        spec.pass_over(&NOT_OURS);
        spec.object("securityContext")?.finish()?;
        ensure!(spec.get("hostUsers")?.unwrap_or(true), "a pod with users of its own");
        let mode = |host: Option<bool>, own| {
            if host.unwrap_or(false) { NamespaceMode::Node } else { own }.into()
        };
        let namespaces = v1::NamespaceOption {
            network: mode(spec.get("hostNetwork")?, NamespaceMode::Pod),
            pid: mode(spec.get("hostPID")?, NamespaceMode::Container),
            ipc: mode(spec.get("hostIPC")?, NamespaceMode::Pod),
            ..Default::default()
        };
        let mut volumes = HashMap::new();
        for mut volume in spec.objects("volumes")? {
            volumes.insert(volume.need::<String>("name")?, host_path(volume)?);
        }
        let grace = spec.get("terminationGracePeriodSeconds")?.unwrap_or(30);
        let mut containers = |name: &str| -> Result<Vec<Container>> {
            let containers = spec.objects(name)?.into_iter();
            containers.map(|fields| container(fields, &volumes, &namespaces)).collect()
        };
        let (init, containers) = (containers("initContainers")?, containers("containers")?);
        spec.finish()?;
        Ok(Self { name, namespace, labels, annotations, namespaces, grace, init, containers })
    }
}

fn host_path(mut volume: Fields) -> Result<HostPath> {
    let mut host = volume.object("hostPath")?;
    let (path, kind): (_, String) = (host.need("path")?, host.need("type")?);
    host.finish()?;
    volume.finish()?;
    ensure!(["Directory", "DirectoryOrCreate"].contains(&kind.as_str()), "a volume of type {kind}");
    Ok(HostPath { path, create: kind == "DirectoryOrCreate" })
}

fn container(
    mut fields: Fields,
    volumes: &HashMap<String, HostPath>,
    namespaces: &v1::NamespaceOption,
) -> Result<Container> {
    let name: String = fields.need("name")?;
    let image: String = fields.need("image")?;
    fields.pass_over(&["imagePullPolicy"]);
    let ports = ports(&mut fields)?;
    fields.take("startupProbe"); // the readiness that follows is waited for all the same
    let (readiness, liveness) = (
        probe(fields.object("readinessProbe")?, &ports)?,
        probe(fields.object("livenessProbe")?, &ports)?,
    );
    let (mut mounts, mut directories) = (Vec::new(), Vec::new());
    for mount in fields.objects("volumeMounts")? {
        let (volume, mount) = volume_mount(mount, volumes)?;
        mounts.push(mount);
        directories.push(volume);
    }
    let mut envs = Vec::new();
    for mut env in fields.objects("env")? {
        envs.push(v1::KeyValue { key: env.need("name")?, value: env.need("value")? });
        env.finish()?;
    }
    let config = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: name.clone(), attempt: 0 }),
        image: Some(v1::ImageSpec {
            image: image.clone(),
            user_specified_image: image,
            ..Default::default()
        }),
        command: fields.get("command")?.unwrap_or_default(),
        args: fields.get("args")?.unwrap_or_default(),
        envs,
        mounts,
        log_path: format!("{name}.log"),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources(fields.object("resources")?)?),
            security_context: Some(security(fields.object("securityContext")?, namespaces)?),
        }),
        ..Default::default()
    };
    fields.finish()?;
    Ok(Container { config, directories, readiness, liveness })
}

fn volume_mount(
    mut mount: Fields,
    volumes: &HashMap<String, HostPath>,
) -> Result<(HostPath, v1::Mount)> {
    let name: String = mount.need("name")?;
    let volume = volumes.get(&name).with_context(|| format!("no volume {name}"))?;
    let translated = v1::Mount {
        container_path: mount.need("mountPath")?,
        host_path: volume.path.clone(),
        readonly: mount.get("readOnly")?.unwrap_or(false),
        ..Default::default()
    };
    mount.finish()?;
    Ok((volume.clone(), translated))
}

fn ports(fields: &mut Fields) -> Result<HashMap<String, u16>> {
    let mut ports = HashMap::new();
    for mut port in fields.objects("ports")? {
        ports.insert(port.need("name")?, port.need("containerPort")?);
        port.finish()?;
    }
    Ok(ports)
}

/// How often and how long it is asked is up to who runs the pod.
fn probe(mut probe: Fields, ports: &HashMap<String, u16>) -> Result<Option<Get>> {
    probe.pass_over(&["periodSeconds", "timeoutSeconds", "failureThreshold"]);
    let mut get = probe.object("httpGet")?;
    let (path, port) = (get.get("path")?, get.take("port"));
    get.finish()?;
    probe.finish()?;
    let Some(path) = path else { return Ok(None) };
    let port = match port {
        Some(Value::String(name)) => {
            *ports.get(&name).with_context(|| format!("no port {name}"))?
        }
        Some(number) => serde_json::from_value(number).context("a probe's port")?,
        None => anyhow::bail!("a probe without a port"),
    };
    Ok(Some(Get { path, port }))
}

fn security(
    mut fields: Fields,
    namespaces: &v1::NamespaceOption,
) -> Result<v1::LinuxContainerSecurityContext> {
    let mut capabilities = fields.object("capabilities")?;
    let (add, drop) = (capabilities.get("add")?, capabilities.get("drop")?);
    capabilities.finish()?;
    let mut seccomp = fields.object("seccompProfile")?;
    let profile: Option<String> = seccomp.get("type")?;
    seccomp.finish()?;
    let profile_type = match profile.as_deref() {
        Some("RuntimeDefault") => v1::security_profile::ProfileType::RuntimeDefault,
        None | Some("Unconfined") => v1::security_profile::ProfileType::Unconfined,
        Some(other) => anyhow::bail!("a seccomp profile of type {other}"),
    };
    let id = |id: Option<i64>| id.map(|value| v1::Int64Value { value });
    let escalation: Option<bool> = fields.get("allowPrivilegeEscalation")?;
    let security = v1::LinuxContainerSecurityContext {
        capabilities: Some(v1::Capability {
            add_capabilities: add.unwrap_or_default(),
            drop_capabilities: drop.unwrap_or_default(),
            ..Default::default()
        }),
        privileged: fields.get("privileged")?.unwrap_or(false),
        namespace_options: Some(namespaces.clone()),
        run_as_user: id(fields.get("runAsUser")?),
        run_as_group: id(fields.get("runAsGroup")?),
        readonly_rootfs: fields.get("readOnlyRootFilesystem")?.unwrap_or(false),
        no_new_privs: escalation == Some(false),
        seccomp: Some(v1::SecurityProfile {
            profile_type: profile_type.into(),
            localhost_ref: String::new(),
        }),
        ..Default::default()
    };
    fields.finish()?;
    Ok(security)
}

fn resources(mut fields: Fields) -> Result<v1::LinuxContainerResources> {
    let (mut requests, mut limits) = (fields.object("requests")?, fields.object("limits")?);
    let cpu = requests.get::<String>("cpu")?.map(|cpu| quantity(&cpu)).transpose()?;
    let memory = limits.get::<String>("memory")?.map(|size| quantity(&size)).transpose()?;
    requests.pass_over(&["memory"]); // for the scheduler
    [requests, limits, fields].into_iter().try_for_each(Fields::finish)?;
    Ok(v1::LinuxContainerResources {
        // As a kubelet does it: 1024 shares a processor, and 2 at least.
        cpu_shares: cpu.map_or(2, |milli| (milli * 1024 / 1000).max(2)),
        memory_limit_in_bytes: memory.map_or(0, |milli| milli / 1000),
        oom_score_adj: CRITICAL,
        ..Default::default()
    })
}

/// A quantity of Kubernetes in thousandths.
fn quantity(text: &str) -> Result<i64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: i64 = digits.parse().with_context(|| format!("quantity {text}"))?;
    Ok(number
        * match &text[digits.len()..] {
            "m" => 1,
            "" => 1000,
            "Ki" => 1000 << 10,
            "Mi" => 1000 << 20,
            other => anyhow::bail!("quantity {text}: unit {other}"),
        })
}

#[test]
fn fields_that_would_be_lost_are_told() {
    let pod = |container: Value| {
        serde_json::json!({
            "kind": "Pod", "apiVersion": "v1", "metadata": { "name": "a", "namespace": "b" },
            "spec": { "automountServiceAccountToken": false, "containers": [container] },
        })
    };
    let good = serde_json::json!({
        "name": "c", "image": "d", "resources": { "requests": { "cpu": "5m" }, "limits": { "memory": "64Mi" } },
    });
    let spec = PodSpec::of(pod(good.clone())).expect("all is known");
    let linux = spec.containers[0].config.linux.clone().expect("is set");
    let resources = linux.resources.expect("are set");
    assert_eq!((resources.cpu_shares, resources.memory_limit_in_bytes), (5, 64 << 20));
    for (path, value) in [("lifecycle", "x"), ("securityContext", "privilegd")] {
        let mut bad = good.clone();
        bad[path] = serde_json::json!({ value: true });
        let error = PodSpec::of(pod(bad)).expect_err("a field is lost").to_string();
        assert!(error.contains("would be lost"), "{error}");
    }
}
