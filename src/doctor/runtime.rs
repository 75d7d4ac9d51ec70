//! [`Runtime`]: a container runtime of the host, found by its files.

use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::root::Root;
use crate::runtime_config::{self, Nri};

/// How long a program may take to tell its version.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who speaks NRI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Containerd,
    Crio,
}

/// Where a distribution has its runtime.
struct Known {
    name: &'static str,
    kind: Kind,
    socket: &'static str,
    config: &'static str,
    /// Files in it are read after `config`.
    drop_ins: Option<&'static str>,
    program: &'static [&'static str],
}

const KNOWN: [Known; 6] = [
    Known {
        name: "containerd",
        kind: Kind::Containerd,
        socket: "/run/containerd/containerd.sock",
        config: "/etc/containerd/config.toml",
        drop_ins: None,
        program: &["/usr/local/bin/containerd", "/usr/bin/containerd"],
    },
    Known {
        name: "k3s",
        kind: Kind::Containerd,
        socket: "/run/k3s/containerd/containerd.sock",
        config: "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
        drop_ins: None,
        program: &["/var/lib/rancher/k3s/data/current/bin/containerd"],
    },
    Known {
        name: "rke2",
        kind: Kind::Containerd,
        socket: "/run/k3s/containerd/containerd.sock",
        config: "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
        drop_ins: None,
        program: &["/var/lib/rancher/rke2/bin/containerd"],
    },
    Known {
        name: "k0s",
        kind: Kind::Containerd,
        socket: "/run/k0s/containerd.sock",
        config: "/etc/k0s/containerd.toml",
        drop_ins: None,
        program: &["/var/lib/k0s/bin/containerd"],
    },
    Known {
        name: "microk8s",
        kind: Kind::Containerd,
        socket: "/var/snap/microk8s/common/run/containerd.sock",
        config: "/var/snap/microk8s/current/args/containerd.toml",
        drop_ins: None,
        program: &["/snap/microk8s/current/bin/containerd"],
    },
    Known {
        name: "cri-o",
        kind: Kind::Crio,
        socket: "/run/crio/crio.sock",
        config: "/etc/crio/crio.conf",
        drop_ins: Some("/etc/crio/crio.conf.d"),
        program: &["/usr/local/bin/crio", "/usr/bin/crio"],
    },
];

/// A runtime whose files are there.
#[derive(Debug)]
pub(super) struct Runtime {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Major and minor number, if they can be known.
    pub(super) version: Option<(u32, u32)>,
    /// What its version says of itself.
    pub(super) told: Option<String>,
    /// Whether it has a socket, and so probably runs.
    pub(super) runs: bool,
    /// Its configuration file.
    pub(super) config: &'static str,
    /// What its configuration says of NRI.
    pub(super) nri: Result<Nri>,
}

/// The runtimes of the host whose root is seen at `host`; those that run, if any does.
pub(super) fn find(host: &Path) -> Vec<Runtime> {
    let Ok(root) = Root::at(host) else { return Vec::new() };
    let found = KNOWN.iter().filter_map(|known| look(&root, host, known));
    let (running, others): (Vec<_>, Vec<_>) = found.partition(|runtime| runtime.runs);
    if running.is_empty() { others } else { running }
}

fn look(root: &Root, host: &Path, known: &Known) -> Option<Runtime> {
    let drop_ins = known.drop_ins.is_some_and(|dir| root.exists(Path::new(dir)));
    let configured = root.exists(Path::new(known.config)) || drop_ins;
    let program = known.program.iter().find(|program| root.is_file(Path::new(program)));
    // k3s and rke2 have the same socket, and are told apart by their configuration, which both always write.
    let shared = KNOWN.iter().filter(|other| other.socket == known.socket).count() > 1;
    let runs = is_socket(host, known.socket) && (configured || !shared);
    if !runs && !configured && program.is_none() {
        return None;
    }
    let told = program.filter(|_| host == Path::new("/")).and_then(|program| tell(program));
    let version = told.as_deref().and_then(version);
    let nri = match known.kind {
        Kind::Containerd => runtime_config::containerd(root, Path::new(known.config), version),
        Kind::Crio => {
            runtime_config::crio(root, Path::new(known.config), known.drop_ins.map(Path::new))
        }
    };
    let (name, kind, config) = (known.name, known.kind, known.config);
    Some(Runtime { name, kind, version, told, runs, config, nri })
}

fn is_socket(host: &Path, path: &str) -> bool {
    let path = host.join(path.trim_start_matches('/'));
    path.metadata().is_ok_and(|found| found.file_type().is_socket())
}

/// Asks a program of the host for its version, if nobody but root could have changed it: we are root.
fn tell(program: &str) -> Option<String> {
    let found = Path::new(program).metadata().ok()?;
    if found.uid() != 0 || found.mode() & 0o022 != 0 {
        return None;
    }
    let mut command = Command::new(PathBuf::from(program));
    command.arg("--version").env_clear().stdin(Stdio::null()).stderr(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).spawn().ok()?;
    let end = Instant::now() + PATIENCE;
    while child.try_wait().ok()?.is_none() {
        if Instant::now() > end {
            drop(child.kill());
            drop(child.wait());
            return None;
        }
        sleep(Duration::from_millis(5));
    }
    let mut said = String::new();
    child.stdout.take()?.take(4096).read_to_string(&mut said).ok()?;
    said.lines().next().map(str::to_owned)
}

/// The first word that looks like a version: `containerd github.com/containerd/containerd 1.7.24~ds1`, `crio version 1.34.0`.
fn version(said: &str) -> Option<(u32, u32)> {
    said.split_whitespace().find_map(|word| {
        let mut numbers = word.trim_start_matches('v').split('.');
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::net::UnixListener;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (said, expected) in [
            ("containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24~ds1-6", Some((1, 7))),
            ("containerd github.com/containerd/containerd/v2 v2.1.9 abc", Some((2, 1))),
            ("crio version 1.34.0", Some((1, 34))),
            ("no", None),
        ] {
            assert_eq!(version(said), expected, "{said}");
        }
    }

    #[test]
    fn who_runs_is_told_from_who_is_only_there() {
        let host = tempfile::tempdir().unwrap();
        let names = || find(host.path()).iter().map(|found| found.name).collect::<Vec<_>>();
        assert!(names().is_empty());
        for config in
            ["etc/containerd/config.toml", "var/lib/rancher/k3s/agent/etc/containerd/config.toml"]
        {
            let path = host.path().join(config);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "version = 3").unwrap();
        }
        assert_eq!(names(), ["containerd", "k3s"]);
        fs::create_dir_all(host.path().join("run/k3s/containerd")).unwrap();
        let _listener =
            UnixListener::bind(host.path().join("run/k3s/containerd/containerd.sock")).unwrap();
        assert_eq!(names(), ["k3s"]);
    }
}
