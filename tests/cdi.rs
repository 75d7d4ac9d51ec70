//! The route without a plugin: a CDI spec of NVIDIA's toolkit, whose hooks this program runs under the toolkit's name.

use anyhow::{Result, bail, ensure};

use crate::gpu;
use crate::installation::BINARY;
use crate::matrix::without_plugin;
use crate::pod::{Container, Pod};

/// A container with the toolkit's device; [`BINARY`] takes the toolkit's place on the node.
fn with_device(name: &str) -> Container {
    gpu::with_app(name).cdi(gpu::CDI_OF_TOOLKIT)
}

#[test]
fn a_spec_of_the_toolkit_works() -> Result<()> {
    without_plugin(|node, runtime| {
        node.containerd.node().run(&["ln", "-sf", BINARY, gpu::TOOLKIT])?;
        let sandbox = node.containerd.cri().sandbox(&Pod::new("cdi", runtime))?;
        let container = sandbox.run(&with_device("app"))?;
        let hooks = node.containerd.hooks(&container)?;
        ensure!(hooks.len() == 4, "{hooks:?}");
        let app = sandbox.exec(&container, &[gpu::APP])?;
        ensure!((app.code, app.stdout.as_str()) == (0, gpu::GREETING), "{app:?}");
        Ok(())
    })
}

/// As with the toolkit's own: a refresh that fails keeps its container from starting.
#[test]
fn a_spec_whose_refresh_fails_stops_its_container() -> Result<()> {
    without_plugin(|node, runtime| {
        node.containerd.node().run(&["ln", "-sf", BINARY, gpu::TOOLKIT])?;
        let sandbox = node.containerd.cri().sandbox(&Pod::new("cdi", runtime))?;
        let volume = format!("/opt/etc-{runtime}");
        node.containerd.node().run(&["mkdir", "-p", &volume])?;
        let Err(error) = sandbox.run(&with_device("app").volume(&volume, "/etc")) else {
            bail!("it starts");
        };
        let error = format!("{error:#}");
        ensure!(error.contains("hook"), "{error}");
        Ok(())
    })
}
