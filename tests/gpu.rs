//! A GPU without a GPU: device nodes that nobody opens, driver libraries that do nothing, a CDI spec that names them.

use std::env::consts::ARCH;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use crate::node::Node;
use crate::pod::Container;
use crate::shell;

/// What [`APP`] prints when the dynamic linker finds the driver.
pub(crate) const GREETING: &str = "CUDA driver 12.8 answers\n";

/// A program that needs `libcuda.so.1`, in the containers that [`with_app`] makes.
pub(crate) const APP: &str = "/usr/local/bin/cuda-app";

/// The driver as installers unpack it, SONAME links included; in the node.
pub(crate) const VOLUME: &str = "/opt/driver";

pub(crate) const DEVICES: [&str; 3] = ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia0"];

/// The CDI device that brings device nodes and libraries, and no hook.
pub(crate) const CDI: &str = "nvidia.com/gpu=0";

/// The same with an update-ldcache hook of its own, as `nvidia-ctk cdi generate` writes it.
pub(crate) const CDI_WITH_HOOK: &str = "nvidia.com/gpu-with-hook=0";

/// A device as NVIDIA's toolkit describes it, with all of its hooks, and [`TOOLKIT`] to run them.
pub(crate) const CDI_OF_TOOLKIT: &str = "nvidia.com/gpu-of-toolkit=0";

/// Where a spec finds the toolkit's hooks. A test puts our program there.
pub(crate) const TOOLKIT: &str = "/usr/bin/nvidia-cdi-hook";

const HOSTILE: &str = "/opt/hostile";

const VERSION: &str = "570.124.06";
const LIBRARIES: [&str; 3] = ["libcuda", "libnvidia-ml", "libnvidia-ptxjitcompiler"];

const DRIVER: &str = r#"const char *cuFakeDriverVersion(void) { return "12.8"; }"#;
const PROGRAM: &str = r#"
#include <stdio.h>
const char *cuFakeDriverVersion(void);
int main(void) { return printf("CUDA driver %s answers\n", cuFakeDriverVersion()) < 0; }
"#;

/// Makes the GPU, its driver and its CDI specs on a node; `hook` is the program that the spec with a hook calls.
pub(crate) fn install(node: &Node, hook: &str) -> Result<()> {
    for (minor, device) in [255, 254, 0].iter().zip(DEVICES) {
        node.run(&["mknod", "-m", "666", device, "c", "195", &minor.to_string()])?;
    }
    libraries(&node.path(VOLUME).join("lib64"))?;
    program(&node.path(VOLUME).join("lib64"), &node.path("/opt/cuda-app"))?;
    fs::create_dir_all(node.path(HOSTILE))?;
    let hostile = node.path(HOSTILE).join("libcuda-hostile.so.1");
    shared_object(&hostile, "../../../vol/planted.so.1")?;
    node.write("/etc/cdi/nvidia.json", &cdi("nvidia.com/gpu", json!([])).to_string())?;
    let hooks = json!([{
        "hookName": "createContainer",
        "path": hook,
        "args": ["nvidia-cdi-hook", "update-ldcache", "--folder", directory()],
    }]);
    node.write("/etc/cdi/with-hook.json", &cdi("nvidia.com/gpu-with-hook", hooks).to_string())?;
    let toolkit = cdi("nvidia.com/gpu-of-toolkit", toolkit_hooks());
    node.write("/etc/cdi/of-toolkit.json", &toolkit.to_string())
}

/// The hooks that `nvidia-ctk cdi generate` of the toolkit's version 1.18 puts into a spec.
fn toolkit_hooks() -> Value {
    let gbm = format!("../libnvidia-allocator.so.1::{}/gbm/nvidia-drm_gbm.so", directory());
    let folder = directory();
    let hooks = [
        vec!["create-symlinks", "--link", &gbm],
        vec!["enable-cuda-compat", "--host-driver-version=570.124.06"],
        vec!["update-ldcache", "--folder", &folder],
        vec!["disable-device-node-modification"],
    ];
    let hooks = hooks.into_iter().map(|args| {
        let args: Vec<_> = ["nvidia-cdi-hook"].into_iter().chain(args).collect();
        let env = ["NVIDIA_CTK_DEBUG=false"];
        json!({ "hookName": "createContainer", "path": TOOLKIT, "args": args, "env": env })
    });
    hooks.collect()
}

/// A container with a driver directory whose maker wants a link made outside: at `/vol`, when ldconfig follows a SONAME.
pub(crate) fn hostile(container: Container) -> Container {
    let library = "libcuda-hostile.so.1";
    container.mount(&format!("{HOSTILE}/{library}"), &format!("{}/{library}", directory()))
}

/// A container that has [`APP`], and nothing of a GPU.
pub(crate) fn with_app(name: &str) -> Container {
    Container::new(name).mount("/opt/cuda-app", APP)
}

/// The driver's files, each mounted into the distribution's own library directory, as a CDI spec does it.
pub(crate) fn files(container: Container) -> Container {
    files_as_pairs()
        .into_iter()
        .fold(container, |container, (from, to)| container.mount(&from, &to))
}

/// The GPU's device nodes.
pub(crate) fn devices(container: Container) -> Container {
    DEVICES.into_iter().fold(container, Container::device)
}

/// The name of a library's file.
pub(crate) fn file(library: &str) -> String {
    format!("{library}.so.{VERSION}")
}

/// The image's library directory for this machine's architecture.
pub(crate) fn directory() -> String {
    format!("/usr/lib/{ARCH}-linux-gnu")
}

pub(crate) fn files_as_pairs() -> Vec<(String, String)> {
    let mount = |library| {
        let file = file(library);
        (format!("{VOLUME}/lib64/{file}"), format!("{}/{file}", directory()))
    };
    LIBRARIES.map(mount).to_vec()
}

fn cdi(kind: &str, hooks: Value) -> Value {
    let nodes = DEVICES.map(|path| json!({ "path": path }));
    let mounts: Vec<_> = files_as_pairs()
        .into_iter()
        .map(|(from, to)| json!({ "hostPath": from, "containerPath": to, "options": ["ro", "bind"] }))
        .collect();
    let mut edits = json!({ "deviceNodes": nodes, "mounts": mounts });
    if hooks != json!([]) {
        edits["hooks"] = hooks;
    }
    let device = json!({ "name": "0", "containerEdits": edits });
    json!({ "cdiVersion": "0.5.0", "kind": kind, "devices": [device] })
}

fn libraries(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    for library in LIBRARIES {
        let (file, soname) = (file(library), format!("{library}.so.1"));
        shared_object(&directory.join(&file), &soname)?;
        symlink(&file, directory.join(&soname))?;
    }
    Ok(())
}

fn shared_object(target: &Path, soname: &str) -> Result<()> {
    let source = target.with_extension("c");
    fs::write(&source, DRIVER)?;
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", &format!("-Wl,-soname,{soname}"), "-o"]);
    shell::output(cc.arg(target).arg(&source))?;
    Ok(fs::remove_file(source)?)
}

/// `cuda-app`, which has `libcuda.so.1` as NEEDED and no run path.
fn program(libraries: &Path, target: &Path) -> Result<()> {
    let source = target.with_extension("c");
    fs::write(&source, PROGRAM)?;
    let mut cc = Command::new("cc");
    cc.arg("-o").arg(target).arg(&source).arg(libraries.join(file("libcuda")));
    shell::output(&mut cc)?;
    Ok(fs::remove_file(source)?)
}
