//! The Helm chart, rendered, and the image that it runs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::kubelet::PodSpec;
use crate::shell;

/// The repository to which [`image`] gives its images, and which the chart is told.
pub(crate) const REPOSITORY: &str = "localhost/nri-ldcache";

/// The namespace of the release.
pub(crate) const NAMESPACE: &str = "gpu";

/// The objects of a release of that name.
#[derive(Debug, PartialEq)]
pub(crate) struct Chart(Vec<Value>);

impl Chart {
    /// Renders the chart with one of the Helms that `tests/chart/setup.sh` installs.
    pub(crate) fn render(helm: &str, tag: &str) -> Result<Self> {
        let mut command = Command::new(tools()?.join("bin").join(helm));
        command.args(["template", "nri-ldcache", "--namespace", NAMESPACE]);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/nri-ldcache"));
        command.arg("--set").arg(format!("image.repository={REPOSITORY},image.tag={tag}"));
        command.args(["--set", "cleanup.graceSeconds=2"]);
        let text = shell::output(&mut command)?;
        let objects = serde_saphyr::from_multiple(&text);
        objects.map(Self).map_err(|error| anyhow::anyhow!("what {helm} rendered: {error}"))
    }

    /// The pod of an object.
    pub(crate) fn pod(&self, kind: &str, name: &str) -> Result<PodSpec> {
        let is = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
        let object = self.0.iter().find(is).with_context(|| format!("no {kind} {name}"))?;
        PodSpec::of(object.clone()).with_context(|| format!("{kind} {name}"))
    }
}

/// Packs a program into an image, an archive at `archive`.
pub(crate) fn image(program: &Path, archive: &Path) -> Result<()> {
    tools()?;
    let mut pack = Command::new("bash");
    shell::output(pack.arg(script("image.sh")).arg(program).arg(archive)).map(drop)
}

fn tools() -> Result<PathBuf> {
    let said = shell::output(Command::new("bash").arg(script("chart/setup.sh")))?;
    Ok(said.lines().next_back().context("tests/chart/setup.sh prints no directory")?.into())
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}
