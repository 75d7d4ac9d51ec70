//! GPU pods on real container runtimes: containerd 1.7 and 2.1, each with runc and with crun.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::cri::{Ran, Sandbox};
use crate::gpu;
use crate::image;
use crate::installation::{BINARY, Installation};
use crate::matrix::{binary, everywhere, without_plugin};
use crate::node::{self, Release};
use crate::pod::{Container, Pod};

pub(crate) const ANNOTATION: &str = "ldcache.noderesource.dev";
pub(crate) const FOLDERS: &str = "folders.ldcache.noderesource.dev";

/// The ways in which a pod gets a GPU, each the one and only sign of it; [`gpu::with_app`] in, request out.
pub(crate) type Request = fn(Pod, Container) -> (Pod, Container);

pub(crate) const BY_DEVICES: Request = |pod, container| (pod, gpu::devices(gpu::files(container)));
pub(crate) const BY_CDI: Request = |pod, container| (pod, container.cdi(gpu::CDI));
const BY_CDI_ANNOTATION: Request =
    |pod, container| (pod, container.annotation("cdi.k8s.io/test", gpu::CDI));
const BY_ENV: Request =
    |pod, container| (pod, gpu::files(container).env("NVIDIA_VISIBLE_DEVICES", "all"));
const BY_FILES: Request = |pod, container| (pod, gpu::files(container));
const BY_DIRECTORY: Request =
    |pod, container| (pod, container.mount(gpu::VOLUME, "/usr/local/nvidia"));
const BY_ANNOTATION: Request = |pod, container| {
    let pod = pod.annotation(ANNOTATION, "enabled").annotation(FOLDERS, "/opt/driver");
    (pod, container.mount(&format!("{}/lib64", gpu::VOLUME), "/opt/driver"))
};

#[test]
fn a_gpu_by_device_nodes_works() -> Result<()> {
    works(BY_DEVICES)
}

#[test]
fn a_gpu_by_cdi_works() -> Result<()> {
    works(BY_CDI)
}

#[test]
fn a_gpu_by_cdi_annotation_works() -> Result<()> {
    works(BY_CDI_ANNOTATION)
}

#[test]
fn a_gpu_by_environment_works() -> Result<()> {
    works(BY_ENV)
}

#[test]
fn a_gpu_by_library_files_works() -> Result<()> {
    works(BY_FILES)
}

#[test]
fn a_gpu_by_directory_works() -> Result<()> {
    works(BY_DIRECTORY)
}

#[test]
fn a_gpu_by_annotation_alone_works() -> Result<()> {
    works(BY_ANNOTATION)
}

/// The cache is refreshed before the runtime makes the root read-only.
#[test]
fn a_gpu_with_a_read_only_root_works() -> Result<()> {
    works(|pod, container| (pod, gpu::files(container).read_only()))
}

/// The dynamic linker of our own hook would load it, were there one.
#[test]
fn an_environment_with_ld_preload_works() -> Result<()> {
    works(|pod, container| (pod, gpu::files(container).env("LD_PRELOAD", "/vol/none.so")))
}

/// The program needs no `LD_LIBRARY_PATH`, and the cache tells where its library is.
fn works(how: Request) -> Result<()> {
    everywhere(|node, runtime| {
        let pod = request(node, runtime, how)?;
        let app = pod.exec(&[gpu::APP])?;
        ensure!((app.code, app.stdout.as_str()) == (0, gpu::GREETING), "{app:?}");
        let cache = pod.exec(&["ldconfig", "-p"])?;
        ensure!(cache.stdout.contains("libcuda.so.1 "), "{cache:?}");
        ensure!(pod.hooks()? == 1, "{} hooks", pod.hooks()?);
        Ok(())
    })
}

/// The control: were this to pass for another reason, so would all of the above.
#[test]
fn without_the_plugin_no_library_is_found() -> Result<()> {
    let requests =
        [BY_DEVICES, BY_CDI, BY_CDI_ANNOTATION, BY_ENV, BY_FILES, BY_DIRECTORY, BY_ANNOTATION];
    without_plugin(|node, runtime| {
        for (number, how) in requests.into_iter().enumerate() {
            let pod = request(node, runtime, how)?;
            let app = pod.exec(&[gpu::APP])?;
            ensure!(app.code == 127, "request {number}: {app:?}");
            ensure!(app.stderr.contains("libcuda.so.1: cannot open shared object file"), "{app:?}");
            ensure!(pod.hooks()? == 0, "request {number} got a hook");
        }
        Ok(())
    })
}

#[test]
fn a_plain_pod_is_left_alone() -> Result<()> {
    left_alone(|pod, container| (pod, container))
}

#[test]
fn a_disabled_pod_is_left_alone() -> Result<()> {
    left_alone(|pod, container| (pod.annotation(ANNOTATION, "disabled"), gpu::devices(container)))
}

/// No hook, and the image's own cache, byte by byte.
fn left_alone(how: Request) -> Result<()> {
    everywhere(|node, runtime| {
        let image = fs::read(image::root()?.join("etc/ld.so.cache"))?;
        let pod = request(node, runtime, how)?;
        ensure!(pod.hooks()? == 0, "it got a hook");
        ensure!(pod.cache()? == image, "its cache was changed");
        Ok(())
    })
}

#[test]
fn a_container_that_has_the_hook_gets_no_second() -> Result<()> {
    everywhere(|node, runtime| {
        let with_hook = |pod, container: Container| (pod, container.cdi(gpu::CDI_WITH_HOOK));
        let pod = request(node, runtime, with_hook)?;
        ensure!(pod.hooks()? == 1, "{} hooks", pod.hooks()?);
        let app = pod.exec(&[gpu::APP])?;
        ensure!(app.stdout == gpu::GREETING, "{app:?}");
        Ok(())
    })
}

#[test]
fn a_container_is_disabled_by_its_name() -> Result<()> {
    everywhere(|node, runtime| {
        let pod = Pod::new("two", runtime)
            .annotation(&format!("{ANNOTATION}/container.other"), "disabled");
        let pod = Running::start(node, &pod, &gpu::files(gpu::with_app("app")))?;
        ensure!(pod.hooks()? == 1, "app has {} hooks", pod.hooks()?);
        let other =
            Running { container: pod.sandbox.run(&gpu::files(gpu::with_app("other")))?, ..pod };
        ensure!(other.hooks()? == 0, "other has {} hooks", other.hooks()?);
        Ok(())
    })
}

/// NixOS, Talos, Bottlerocket: the host has no ldconfig, or has it elsewhere.
#[test]
fn a_node_without_ldconfig_works() -> Result<()> {
    if !node::possible() {
        return Ok(());
    }
    [Release::Trixie, Release::Forky].into_iter().try_for_each(|release| {
        let node = Installation::with_plugin(release, binary())?;
        node.containerd.node().run(&[
            "sh",
            "-c",
            "rm /usr/sbin/ldconfig*; ! command -v ldconfig",
        ])?;
        ["runc", "crun"].iter().try_for_each(|runtime| {
            let pod = request(&node, runtime, BY_CDI)?;
            ensure!(pod.exec(&[gpu::APP])?.stdout == gpu::GREETING, "{release} with {runtime}");
            Ok(())
        })
    })
}

/// `hostUsers: false`: the hook runs as a user who is nobody on the host. containerd has it since 2.0.
#[test]
fn a_pod_in_a_user_namespace_works() -> Result<()> {
    everywhere(|node, runtime| {
        if node.release == Release::Trixie {
            return Ok(());
        }
        for how in [BY_FILES, BY_DIRECTORY] {
            let (pod, container) = how(Pod::new("user", runtime), gpu::with_app("app"));
            let pod = Running::start(node, &pod.user_namespace(), &container)?;
            let map = pod.exec(&["cat", "/proc/self/uid_map"])?;
            ensure!(map.stdout.contains("100000"), "no user namespace: {map:?}");
            let app = pod.exec(&[gpu::APP])?;
            ensure!((app.code, app.stdout.as_str()) == (0, gpu::GREETING), "{app:?}");
        }
        Ok(())
    })
}

#[test]
fn what_the_hook_did_is_told_by_the_daemon() -> Result<()> {
    everywhere(|node, runtime| {
        let pod = request(node, runtime, BY_DIRECTORY)?;
        let log = node.plugin.as_ref().context("the plugin was started")?.log();
        let told =
            log.lines().find(|line| line.contains(" updated ") && line.contains(&pod.container));
        let told = told.with_context(|| format!("nothing told of {}", pod.container))?;
        let libcuda = "libcuda=\"/usr/local/nvidia/lib64/libcuda.so.1 (Mounted)\"";
        for part in ["added=\"/usr/local/nvidia/lib64", libcuda, "refused=\"\""] {
            ensure!(told.contains(part), "{part} is not in {told}");
        }
        Ok(())
    })
}

#[test]
fn a_hostile_soname_plants_nothing_in_a_volume() -> Result<()> {
    everywhere(|node, runtime| {
        let volume = format!("/opt/volume-{runtime}");
        fs::create_dir(node.containerd.node().path(&volume))?;
        let container = gpu::hostile(gpu::files(gpu::with_app("app"))).volume(&volume, "/vol");
        let pod = Running::start(node, &Pod::new("hostile", runtime), &container)?;
        ensure!(pod.hooks()? == 1, "{} hooks", pod.hooks()?);
        let planted = fs::read_dir(node.containerd.node().path(&volume))?.count();
        ensure!(planted == 0, "{planted} files in the volume");
        let app = pod.exec(&[gpu::APP])?;
        ensure!(app.stdout == gpu::GREETING, "{app:?}");
        Ok(())
    })
}

/// containerd starts the plugin itself, and gives it its configuration.
#[test]
fn a_plugin_that_containerd_launches_works() -> Result<()> {
    if !node::possible() {
        return Ok(());
    }
    [Release::Trixie, Release::Forky].into_iter().try_for_each(|release| {
        let node = Installation::without_plugin(release, binary())?;
        let config = "excluded_namespaces = ['kube-*']\n";
        node.containerd.node().write("/etc/nri/conf.d/90-nri-ldcache.conf", config)?;
        node.containerd.node().run(&["mkdir", "-p", "/opt/nri/plugins"])?;
        let link = ["ln", "-s", BINARY, "/opt/nri/plugins/90-nri-ldcache"];
        node.containerd.node().run(&link)?;
        node.containerd.restart("TERM")?;
        let pod = request(&node, "runc", BY_CDI)?;
        ensure!(pod.exec(&[gpu::APP])?.stdout == gpu::GREETING, "{release}: not refreshed");
        let (pod, container) = BY_CDI(Pod::new("system", "runc"), gpu::with_app("app"));
        let excluded = Running::start(&node, &pod.namespace("kube-system"), &container)?;
        ensure!(excluded.hooks()? == 0, "{release}: its configuration does not count");
        Ok(())
    })
}

/// Runs a pod that asks for its GPU in this way.
pub(crate) fn request<'a>(
    node: &'a Installation,
    runtime: &str,
    how: Request,
) -> Result<Running<'a>> {
    let (pod, container) = how(Pod::new("test", runtime), gpu::with_app("app"));
    Running::start(node, &pod, &container)
}

/// A running pod of one container.
pub(crate) struct Running<'a> {
    node: &'a Installation,
    sandbox: Sandbox<'a>,
    pub(crate) container: String,
}

impl<'a> Running<'a> {
    pub(crate) fn start(node: &'a Installation, pod: &Pod, container: &Container) -> Result<Self> {
        let sandbox = node.containerd.cri().sandbox(pod)?;
        let container = sandbox.run(container)?;
        Ok(Self { node, sandbox, container })
    }

    pub(crate) fn exec(&self, argv: &[&str]) -> Result<Ran> {
        self.sandbox.exec(&self.container, argv)
    }

    pub(crate) fn hooks(&self) -> Result<usize> {
        Ok(self.node.containerd.hooks(&self.container)?.len())
    }

    pub(crate) fn cache(&self) -> Result<Vec<u8>> {
        Ok(fs::read(self.node.containerd.rootfs(&self.container).join("etc/ld.so.cache"))?)
    }
}
