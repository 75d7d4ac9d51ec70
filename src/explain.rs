//! `explain`: what the policy says of a container, from the JSON that operators have at hand.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use nri::api::{CDIDevice, Container, Hook, LinuxDevice, Mount, PodSandbox};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::Settings;
use crate::injection::Injection;
use crate::policy::{Verdict, decide};

/// Most bytes of a file; `crictl inspect` prints some 100 KiB.
const LIMIT: u64 = 16 << 20;

/// Explains what the daemon with these settings would do with a container.
///
/// `container` is an OCI `config.json`, the output of `crictl inspect`, or a CRI container configuration; `pod` the output
/// of `crictl inspectp` or a CRI pod configuration. `-` is standard input.
pub fn run(settings: &Settings, container: &Path, pod: Option<&Path>) -> Result<String> {
    let name = container.display().to_string();
    let (mut own_pod, mut container) =
        read_container(&read(container)?).with_context(|| format!("understand {name}"))?;
    if let Some(path) = pod {
        own_pod =
            read_pod(read(path)?).with_context(|| format!("understand {}", path.display()))?;
    }
    let updated = take_own_hook(&mut container);
    let decision = decide(&settings.policy()?, &own_pod, &container);
    let mut text = String::new();
    if updated {
        writeln!(
            text,
            "note: it has the hook of this plugin already, which is left out of account"
        )?;
    }
    match &decision.verdict {
        Verdict::Leave(reason) => {
            writeln!(text, "decision: leave ({})\nreason: {reason}", reason.word())?
        }
        Verdict::Update(update, signals) => {
            writeln!(text, "decision: update")?;
            for signal in signals {
                writeln!(text, "reason: {signal}")?;
            }
            let hook = settings.injection()?.hook(update);
            writeln!(text, "hook (createContainer): {:#}", to_json(&hook))?;
        }
    }
    decision.refused.iter().try_for_each(|refused| writeln!(text, "refused: {refused}"))?;
    Ok(text)
}

/// Removes what the plugin has added: who asks why a running container was updated does not mean that it has been.
fn take_own_hook(container: &mut Container) -> bool {
    let Some(hooks) = container.hooks.as_mut() else { return false };
    let before = hooks.create_container.len();
    hooks
        .create_container
        .retain(|hook| hook.args.first().is_none_or(|name| name != Injection::NAME));
    hooks.create_container.len() < before
}

fn to_json(hook: &Hook) -> Value {
    json!({ "path": hook.path, "args": hook.args, "env": hook.env, "timeout": hook.timeout.value })
}

fn read(path: &Path) -> Result<Value> {
    let name = path.display();
    let source: Box<dyn Read> = match path.as_os_str().as_encoded_bytes() {
        b"-" => Box::new(io::stdin()),
        _ => Box::new(File::open(path).with_context(|| format!("open {name}"))?),
    };
    let mut bytes = Vec::new();
    source.take(LIMIT + 1).read_to_end(&mut bytes).with_context(|| format!("read {name}"))?;
    ensure!(bytes.len() as u64 <= LIMIT, "read {name}: larger than {} MiB", LIMIT >> 20);
    serde_json::from_slice(&bytes).with_context(|| format!("read {name}"))
}

pub(crate) fn read_container(document: &Value) -> Result<(PodSandbox, Container)> {
    if let Some(spec) = document.pointer("/info/runtimeSpec") {
        let (pod, mut container) = from_oci(spec)?;
        if let Some(name) = document.pointer("/status/metadata/name").and_then(Value::as_str) {
            container.name = name.to_owned();
        }
        return Ok((pod, container));
    }
    if document.get("ociVersion").is_some() {
        return from_oci(document);
    }
    if document.get("image").is_some() && document.get("metadata").is_some() {
        return Ok((PodSandbox::default(), from_cri(document)?));
    }
    if document.pointer("/metadata/namespace").is_some() {
        bail!("this is a pod: give it with --pod, beside one of its containers");
    }
    bail!(
        "neither an OCI config.json (no ociVersion), nor crictl inspect, nor a CRI container configuration"
    );
}

/// The parts of `config.json` that the policy looks at (runtime-spec, config.md).
#[derive(Default, Deserialize)]
#[serde(default)]
struct Oci {
    annotations: HashMap<String, String>,
    process: OciProcess,
    mounts: Vec<OciMount>,
    hooks: OciHooks,
    linux: OciLinux,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OciProcess {
    env: Vec<String>,
    args: Vec<String>,
}

#[derive(Deserialize)]
struct OciMount {
    destination: String,
    #[serde(default)]
    source: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct OciHooks {
    prestart: Vec<OciHook>,
    create_runtime: Vec<OciHook>,
    create_container: Vec<OciHook>,
    start_container: Vec<OciHook>,
}

#[derive(Deserialize)]
struct OciHook {
    path: String,
    #[serde(default)]
    args: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OciLinux {
    devices: Vec<OciDevice>,
}

#[derive(Deserialize)]
struct OciDevice {
    path: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    major: i64,
    #[serde(default)]
    minor: i64,
}

/// What containerd and CRI-O tell in annotations of a container about its pod.
const NAMESPACE: [&str; 2] = ["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"];
const POD: [&str; 2] = ["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"];
const CONTAINER: [&str; 2] = ["io.kubernetes.cri.container-name", "io.kubernetes.container.name"];

fn from_oci(spec: &Value) -> Result<(PodSandbox, Container)> {
    let oci = Oci::deserialize(spec)?;
    let told = |keys: [&str; 2]| {
        keys.iter().find_map(|key| oci.annotations.get(*key)).cloned().unwrap_or_default()
    };
    let mut container = Container {
        name: told(CONTAINER),
        args: oci.process.args,
        env: oci.process.env,
        ..Container::default()
    };
    // A config.json has the pod's annotations only where the runtime passes them on.
    let pod = PodSandbox {
        namespace: told(NAMESPACE),
        name: told(POD),
        annotations: oci.annotations.clone(),
        ..PodSandbox::default()
    };
    container.annotations = oci.annotations;
    container.mounts = oci
        .mounts
        .into_iter()
        .map(|mount| Mount {
            destination: mount.destination,
            source: mount.source,
            ..Mount::default()
        })
        .collect();
    let devices = oci.linux.devices.into_iter();
    container.linux.mut_or_insert_default().devices = devices
        .map(|device| LinuxDevice {
            path: device.path,
            type_: device.kind,
            major: device.major,
            minor: device.minor,
            ..LinuxDevice::default()
        })
        .collect();
    let hooks = container.hooks.mut_or_insert_default();
    let convert = |hooks: Vec<OciHook>| {
        hooks
            .into_iter()
            .map(|hook| Hook { path: hook.path, args: hook.args, ..Hook::default() })
            .collect()
    };
    hooks.prestart = convert(oci.hooks.prestart);
    hooks.create_runtime = convert(oci.hooks.create_runtime);
    hooks.create_container = convert(oci.hooks.create_container);
    hooks.start_container = convert(oci.hooks.start_container);
    Ok((pod, container))
}

/// The parts of a CRI `ContainerConfig` (k8s.io/cri-api, runtime/v1) in protobuf's JSON, as crictl takes it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Cri {
    metadata: CriMetadata,
    envs: Vec<CriEnv>,
    mounts: Vec<CriMount>,
    devices: Vec<CriDevice>,
    annotations: HashMap<String, String>,
    #[serde(rename = "CDI_devices", alias = "CDIDevices", alias = "cdi_devices")]
    cdi_devices: Vec<CriCdiDevice>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CriMetadata {
    name: String,
    namespace: String,
}

#[derive(Deserialize)]
struct CriEnv {
    key: String,
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
struct CriMount {
    #[serde(alias = "containerPath")]
    container_path: String,
    #[serde(default, alias = "hostPath")]
    host_path: String,
}

#[derive(Deserialize)]
struct CriDevice {
    #[serde(alias = "containerPath")]
    container_path: String,
}

#[derive(Deserialize)]
struct CriCdiDevice {
    name: String,
}

fn from_cri(document: &Value) -> Result<Container> {
    let cri = Cri::deserialize(document)?;
    let mut container = Container {
        name: cri.metadata.name,
        env: cri.envs.into_iter().map(|env| format!("{}={}", env.key, env.value)).collect(),
        mounts: cri
            .mounts
            .into_iter()
            .map(|mount| Mount {
                destination: mount.container_path,
                source: mount.host_path,
                ..Mount::default()
            })
            .collect(),
        CDI_devices: cri
            .cdi_devices
            .into_iter()
            .map(|device| CDIDevice { name: device.name, ..CDIDevice::default() })
            .collect(),
        annotations: cri.annotations,
        ..Container::default()
    };
    // The configuration has paths alone; the runtime reads the numbers from the host's node.
    let devices = cri.devices.into_iter();
    container.linux.mut_or_insert_default().devices = devices
        .map(|device| LinuxDevice { path: device.container_path, ..LinuxDevice::default() })
        .collect();
    Ok(container)
}

pub(crate) fn read_pod(mut document: Value) -> Result<PodSandbox> {
    if let Some(status) = document.get_mut("status") {
        document = status.take();
    }
    let pod = Cri::deserialize(&document)?;
    ensure!(!pod.metadata.name.is_empty(), "no metadata.name in it");
    Ok(PodSandbox {
        name: pod.metadata.name,
        namespace: pod.metadata.namespace,
        annotations: pod.annotations,
        ..PodSandbox::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explain(container: Value, pod: Option<Value>) -> String {
        let (mut own_pod, mut container) = read_container(&container).unwrap();
        take_own_hook(&mut container);
        if let Some(pod) = pod {
            own_pod = read_pod(pod).unwrap();
        }
        format!(
            "{:?}",
            decide(&Settings::default().policy().unwrap(), &own_pod, &container).verdict
        )
    }

    #[test]
    fn every_kind_of_document_is_understood() {
        let oci = json!({"ociVersion": "1.1.0", "linux": {"devices": [{"path": "/dev/x", "type": "c", "major": 195, "minor": 0}]}});
        assert!(explain(oci.clone(), None).contains("Device(\"/dev/x\")"));
        let hooked = |name: &str| {
            json!({"ociVersion": "1.1.0", "process": {"env": ["NVIDIA_VISIBLE_DEVICES=all"]},
            "hooks": {"createContainer": [{"path": "/x", "args": [name, "update-ldcache"]}]}})
        };
        assert!(explain(hooked("nri-ldcache"), None).contains("VisibleDevices"));
        assert!(explain(hooked("nvidia-cdi-hook"), None).contains("HasHook"));
        let inspect =
            json!({"status": {"metadata": {"name": "main"}}, "info": {"runtimeSpec": oci}});
        assert!(explain(inspect, None).contains("Device"));
        let cri = json!({"metadata": {"name": "main"}, "image": {"image": "x"}, "envs": [{"key": "NVIDIA_VISIBLE_DEVICES", "value": "all"}],
            "mounts": [{"container_path": "/usr/lib/libcuda.so.1", "host_path": "/x"}], "CDI_devices": [{"name": "nvidia.com/gpu=0"}]});
        let said = explain(cri.clone(), None);
        for signal in ["VisibleDevices(\"all\")", "Library", "Cdi(\"nvidia.com/gpu=0\")"] {
            assert!(said.contains(signal), "{said}");
        }
        let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "annotations": {"ldcache.noderesource.dev": "disabled"}});
        assert!(explain(cri.clone(), Some(pod.clone())).contains("Disabled"));
        assert!(explain(cri, Some(json!({ "status": pod }))).contains("Disabled"));
    }

    #[test]
    fn other_documents_are_refused_with_advice() {
        for (document, advice) in [
            (json!({"metadata": {"name": "p", "namespace": "n"}}), "--pod"),
            (json!({"hello": 1}), "neither an OCI config.json"),
            (json!({"ociVersion": "1", "process": {"env": 3}}), "invalid type"),
        ] {
            let error = format!("{:#}", read_container(&document).unwrap_err());
            assert!(error.contains(advice), "{error}");
        }
        assert!(read_pod(json!({})).is_err());
    }
}
