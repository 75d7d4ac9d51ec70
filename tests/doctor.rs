//! What `doctor` says: on nodes with real runtimes, and of hosts that are made up.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::containerd::NRI_SOCKET;
use crate::installation::BINARY;
use crate::node::{self, Node, Release};
use crate::{matrix, shell};

/// A diagnosis, and whether the exit code fits it.
fn diagnosis(output: Output) -> Result<Value> {
    let said = String::from_utf8_lossy(&output.stderr);
    let diagnosis: Value = serde_json::from_slice(&output.stdout).context(said.into_owned())?;
    let good = diagnosis["good"].as_bool().context("good is missing")?;
    ensure!(output.status.code() == Some(i32::from(!good)), "{:?} {diagnosis}", output.status);
    let checks = diagnosis["checks"].as_array().context("checks are missing")?;
    let bad = checks.iter().any(|check| check["state"] == "bad");
    ensure!(bad != good && diagnosis["version"] == env!("CARGO_PKG_VERSION"), "{diagnosis}");
    // What is not good comes with what to do.
    let told = |check: &Value| (check["state"] == "good") != check["remedy"].is_string();
    ensure!(checks.iter().all(told), "{diagnosis}");
    Ok(diagnosis)
}

/// The check of this name has this state, and saw these words.
fn expect(diagnosis: &Value, name: &str, state: &str, seen: &str) -> Result<()> {
    let mut checks = diagnosis["checks"].as_array().into_iter().flatten();
    let found = checks.any(|check| {
        let text = check["seen"].as_str().unwrap_or_default();
        check["name"] == name && check["state"] == state && text.contains(seen)
    });
    ensure!(found, "no {state} {name} with {seen:?}: {diagnosis:#}");
    Ok(())
}

fn on(node: &Node, args: &[&str]) -> Result<Value> {
    let mut doctor = node.command(BINARY);
    diagnosis(doctor.args(["doctor", "--json"]).args(args).stdin(Stdio::null()).output()?)
}

#[test]
fn a_node_on_which_everything_works_is_good() -> Result<()> {
    matrix::without_plugin(|node, _| {
        let (release, node) = (node.release, node.containerd.node());
        let found = on(node, &["--hook-path", BINARY])?;
        let version = if release == Release::Trixie { " 1.7." } else { "2." };
        expect(&found, "runtime", "good", version)?;
        expect(&found, "nri", "good", "enabled by its configuration")?;
        expect(&found, "socket", "good", "is there")?;
        expect(&found, "hook", "good", BINARY)?;
        expect(&found, "mount_setattr", "good", "there")?;
        ensure!(found["good"] == true, "{found:#}");
        let found = on(node, &["--socket-path=/run/elsewhere.sock", "--hook-path=/bin/true"])?;
        expect(&found, "connections", "bad", NRI_SOCKET)?;
        expect(&found, "socket", "bad", "/run/elsewhere.sock")?;
        expect(&found, "hook", "bad", "/bin/true is another program")
    })
}

#[test]
fn defaults_are_those_of_the_installed_version() -> Result<()> {
    if !node::possible() {
        return Ok(());
    }
    for (release, state, seen) in [
        (Release::Trixie, "bad", "disabled by default"),
        (Release::Forky, "good", "enabled by default"),
    ] {
        let node = Node::start(release)?;
        node.copy(Path::new(env!("CARGO_BIN_EXE_nri-ldcache")), BINARY)?;
        expect(&on(&node, &[])?, "nri", state, seen)?;
        let defaults = node.run(&["containerd", "config", "default"])?;
        node.write("/etc/containerd/config.toml", &defaults)?;
        let found = on(&node, &[])?;
        expect(&found, "nri", state, "by its configuration")?;
        expect(&found, "runtime", "unknown", "which has no socket")?;
        expect(&found, "socket", "bad", "No such file")?;
        let text = node.command(BINARY).arg("doctor").output()?;
        let text = String::from_utf8(text.stdout)?;
        ensure!(text.contains("\nBAD ") && text.contains("-> enable NRI"), "{text}");
    }
    Ok(())
}

/// What containerd itself makes of its files.
#[test]
fn nri_is_enabled_by_a_drop_in_until_that_is_undone() -> Result<()> {
    if !node::possible() {
        return Ok(());
    }
    let node = Node::start(Release::Trixie)?;
    node.copy(Path::new(env!("CARGO_BIN_EXE_nri-ldcache")), BINARY)?;
    let disabled = || -> Result<bool> {
        // Without a file containerd has its defaults, but nothing to dump.
        let there = node.path("/etc/containerd/config.toml").exists();
        let what = if there { "dump" } else { "default" };
        let text = node.run(&["containerd", "config", what])?;
        let config: toml::Table = text.parse()?;
        let nri = &config["plugins"]["io.containerd.nri.v1.nri"];
        nri["disable"].as_bool().context("disable is missing")
    };
    let tree = || node.run(&["find", "/etc/containerd", "-printf", r"%p %y %m %s\n"]);
    let snapshotter = "version = 2\n# mine\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n";
    for main in [None, Some(snapshotter)] {
        node.run(&["mkdir", "-p", "/etc/containerd"])?;
        match main {
            Some(text) => node.write("/etc/containerd/config.toml", text)?,
            None => _ = node.run(&["rm", "-f", "/etc/containerd/config.toml"])?,
        }
        let before = tree()?;
        ensure!(disabled()?, "it was enabled");
        node.run(&[BINARY, "enable-nri"])?;
        ensure!(!disabled()?, "containerd has it disabled still");
        expect(&on(&node, &[])?, "nri", "good", "enabled by its configuration")?;
        let dump = node.run(&["containerd", "config", "dump"])?;
        ensure!(main.is_none() || dump.contains(r#"snapshotter = "native""#), "{dump}");
        node.run(&[BINARY, "enable-nri", "--undo"])?;
        ensure!(disabled()? && tree()? == before, "{before}\n{}", tree()?);
    }
    Ok(())
}

/// A host with a runtime's socket and files; `doctor` has its root elsewhere than at `/`.
fn made_up(socket: &str, files: &[(&str, &str)], args: &[&str]) -> Result<Value> {
    let host = tempfile::tempdir()?;
    let path = |inside: &str| host.path().join(inside.trim_start_matches('/'));
    for (name, text) in files {
        fs::create_dir_all(path(name).parent().context("no directory")?)?;
        fs::write(path(name), text)?;
    }
    fs::create_dir_all(path(socket).parent().context("no directory")?)?;
    let _runtime = UnixListener::bind(path(socket))?;
    let nri = host.path().join("nri.sock");
    let _nri = UnixListener::bind(&nri)?;
    fs::create_dir(path("opt"))?;
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_nri-ldcache"));
    doctor.args(["doctor", "--json", "--install-dir=/opt/x", "--host-root"]).arg(host.path());
    let before = shell::output(Command::new("find").arg(host.path()))?;
    let found = doctor.arg("--socket-path").arg(&nri).args(args).env_clear().output()?;
    ensure!(shell::output(Command::new("find").arg(host.path()))? == before, "something changed");
    diagnosis(found)
}

const K3S: (&str, &str) = (
    "/run/k3s/containerd/containerd.sock",
    "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
);
const CRIO: &str = "/run/crio/crio.sock";
const DROP_IN: &str = "/etc/crio/crio.conf.d/20-nri.conf";

#[test]
fn distributions_are_known_by_their_files() -> Result<()> {
    let found = made_up(K3S.0, &[(K3S.1, "version = 3")], &[])?;
    expect(&found, "runtime", "good", "k3s")?;
    expect(&found, "nri", "good", "enabled by default")?;
    expect(&found, "hook", "good", "will be made")?;
    ensure!(found["good"] == true, "{found:#}");
    let found = made_up(K3S.0, &[(K3S.1, "version = 2")], &[])?;
    expect(&found, "nri", "unknown", "the version is not known")?;
    let off = "version = 2\n[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = true\n";
    expect(&made_up(K3S.0, &[(K3S.1, off)], &[])?, "nri", "bad", "disabled")?;
    for (socket, config) in [
        ("/run/k0s/containerd.sock", "/etc/k0s/containerd.toml"),
        (
            "/var/snap/microk8s/common/run/containerd.sock",
            "/var/snap/microk8s/current/args/containerd.toml",
        ),
        (K3S.0, "/var/lib/rancher/rke2/agent/etc/containerd/config.toml"),
    ] {
        expect(&made_up(socket, &[(config, off)], &[])?, "nri", "bad", "disabled")?;
    }
    Ok(())
}

#[test]
fn a_validator_that_rejects_hooks_is_bad() -> Result<()> {
    let text = "[crio.nri]\nenable_nri = true\n[crio.nri.default_validator]\nnri_enable_default_validator = true\nnri_validator_reject_oci_hook_adjustment = true\n";
    let found = made_up(CRIO, &[(DROP_IN, text)], &[])?;
    expect(&found, "nri", "good", "enabled")?;
    expect(&found, "validator", "bad", "nri_validator_reject_oci_hook_adjustment")?;
    let containerd = "/run/containerd/containerd.sock";
    let text = "version = 3\n[plugins.'io.containerd.nri.v1.nri'.default_validator]\nenable = true\nrequired_plugins = ['nri-ldcache']\n";
    let found = made_up(containerd, &[("/etc/containerd/config.toml", text)], &[])?;
    expect(&found, "validator", "warning", "not connected")?;
    ensure!(found["good"] == true, "a warning is not bad: {found:#}");
    Ok(())
}

#[test]
fn files_that_can_not_be_read_are_named() -> Result<()> {
    let found = made_up(CRIO, &[(DROP_IN, "[crio.nri]\nenable_nri = maybe")], &[])?;
    expect(&found, "nri", "bad", "/etc/crio/crio.conf.d/20-nri.conf, line 2")?;
    let huge = "#".repeat(2 << 20);
    expect(&made_up(K3S.0, &[(K3S.1, &huge)], &[])?, "nri", "bad", "larger than 1048576 bytes")?;
    expect(&made_up(CRIO, &[], &["--folders=x"])?, "settings", "bad", "\"x\" is not absolute")
}
