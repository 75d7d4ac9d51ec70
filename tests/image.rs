//! The image of the tests, an OCI archive made without a registry.
//!
//! One image, a small Debian with glibc, is the workload and the pause container of every pod.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{cache, debian, shell};

/// The name under which the image is imported.
pub(crate) const NAME: &str = "localhost/nri-ldcache/debian:bookworm";

/// What a GPU workload never reads; two thirds of a minimal Debian.
const LEFT_OUT: [&str; 9] = [
    "./dev/*",
    "./proc/*",
    "./sys/*",
    "./usr/share/doc/*",
    "./usr/share/locale/*",
    "./usr/share/man/*",
    "./usr/share/zoneinfo/*",
    "./var/cache/*",
    "./var/lib/apt/lists/*",
];

/// The root directory that the image is made of.
pub(crate) fn root() -> Result<PathBuf> {
    cache::entry("image-bookworm", |target| debian::debootstrap("bookworm", &[], target))
}

/// The image as an archive that `ctr images import` takes.
pub(crate) fn archive() -> Result<PathBuf> {
    let root = root()?;
    // The name carries the recipe's version: another recipe is another archive.
    cache::entry("image-bookworm-1.tar", |archive| pack(&root, archive))
}

fn pack(root: &Path, archive: &Path) -> Result<()> {
    let layout = tempfile::tempdir_in(archive.parent().context("archive has no directory")?)?;
    let layout = layout.path();
    fs::create_dir_all(layout.join("blobs/sha256"))?;

    let layer = layer(root, layout)?;
    let config = document(layout, &configuration(&layer))?;
    let manifest = document(layout, &manifest(&config, &layer))?;
    fs::write(layout.join("index.json"), index(&manifest).to_string())?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    shell::output(Command::new("tar").arg("-cf").arg(archive).arg("-C").arg(layout).arg("."))?;
    Ok(())
}

/// A file of the layout, known by its digest.
struct Blob {
    digest: String,
    size: u64,
}

impl Blob {
    /// Gives `file` its digest as name.
    fn adopt(layout: &Path, file: &Path) -> Result<Self> {
        let sum = shell::output(Command::new("sha256sum").arg(file))?;
        let hex = sum.split_whitespace().next().context("sha256sum printed nothing")?;
        let size = fs::metadata(file)?.len();
        fs::rename(file, layout.join("blobs/sha256").join(hex))?;
        Ok(Self { digest: format!("sha256:{hex}"), size })
    }

    fn descriptor(&self, kind: &str) -> Value {
        let media = format!("application/vnd.oci.image.{kind}");
        json!({ "mediaType": media, "digest": self.digest, "size": self.size })
    }
}

fn layer(root: &Path, layout: &Path) -> Result<Blob> {
    let file = layout.join("layer");
    let mut tar = Command::new("tar");
    tar.arg("-cf").arg(&file).arg("--numeric-owner").arg("-C").arg(root);
    tar.args(LEFT_OUT.map(|pattern| format!("--exclude={pattern}"))).arg(".");
    shell::output(&mut tar)?;
    Blob::adopt(layout, &file)
}

fn document(layout: &Path, value: &Value) -> Result<Blob> {
    let file = layout.join("document");
    fs::write(&file, value.to_string())?;
    Blob::adopt(layout, &file)
}

fn configuration(layer: &Blob) -> Value {
    json!({
        "architecture": architecture(),
        "os": "linux",
        "config": { "Cmd": ["sleep", "infinity"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
    })
}

fn manifest(config: &Blob, layer: &Blob) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor("config.v1+json"),
        "layers": [layer.descriptor("layer.v1.tar")],
    })
}

fn index(manifest: &Blob) -> Value {
    let mut descriptor = manifest.descriptor("manifest.v1+json");
    descriptor["annotations"] = json!({ "io.containerd.image.name": NAME });
    json!({ "schemaVersion": 2, "manifests": [descriptor] })
}

/// Go's name of this machine's architecture, which is the OCI's.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
