//! Checks of the runtime: is NRI there, and does it let hooks be injected?

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::runtime::{Kind, Runtime};
use super::{Check, State};
use crate::config::Settings;
use crate::jail;
use crate::runtime_config::Nri;

pub(super) fn checks(settings: &Settings, runtimes: &[Runtime]) -> Vec<Check> {
    let mut checks: Vec<_> = runtimes.iter().flat_map(|runtime| of(settings, runtime)).collect();
    if runtimes.is_empty() {
        let seen = format!("none found below {}", settings.host_root().display());
        let remedy =
            "run this on the host itself, or set host-root to where all of its root is mounted";
        checks.push(Check::unknown("runtime", seen, remedy));
    }
    // Of several, one may serve Kubernetes and the others be left from before.
    let some_good = checks.iter().any(|check| check.name == "nri" && check.state == State::Good);
    if some_good {
        let others = checks.iter_mut().filter(|check| check.name == "nri");
        others
            .filter(|check| check.state == State::Bad)
            .for_each(|check| check.state = State::Warning);
    }
    checks.push(socket(settings.socket_path()));
    checks
}

fn of(settings: &Settings, runtime: &Runtime) -> Vec<Check> {
    let mut seen = runtime.told.clone().unwrap_or_else(|| runtime.name.to_owned());
    if !runtime.runs {
        seen += ", which has no socket";
    }
    let found = match runtime.runs {
        true => Check::good("runtime", seen),
        false => Check::unknown("runtime", seen, "start it, if it is the one that Kubernetes uses"),
    };
    let nri = match &runtime.nri {
        Ok(nri) => nri,
        Err(error) => {
            let remedy = "correct the file: the runtime can't read it, either";
            return vec![found, Check::bad("nri", format!("{error:#}"), remedy)];
        }
    };
    vec![found, enabled(runtime, nri), listens(settings, nri), validator(settings, runtime, nri)]
}

/// Where it is enabled, and that a restart is needed.
fn remedy(runtime: &Runtime, nri: &Nri) -> String {
    let how = match runtime.kind {
        Kind::Containerd => {
            let file = nri.said.as_deref().unwrap_or(Path::new(runtime.config)).display();
            format!("{} of {file}", nri.remedy())
        }
        Kind::Crio => {
            "set enable_nri = true in [crio.nri] of /etc/crio/crio.conf.d/10-nri.conf".to_owned()
        }
    };
    format!("{how}, and restart {}", runtime.name)
}

fn enabled(runtime: &Runtime, nri: &Nri) -> Check {
    let default = match (runtime.kind, runtime.version) {
        (Kind::Containerd, Some(version)) => Some(version >= (2, 0)),
        // A file of schema 3 is read by containerd 2 alone; one of schema 2 by both.
        (Kind::Containerd, None) => (nri.schema >= Some(3)).then_some(true),
        (Kind::Crio, Some(version)) => Some(version >= (1, 30)),
        (Kind::Crio, None) => None,
    };
    let place = nri.files.last().map_or("no file", |_| "its configuration");
    match (nri.enabled, default) {
        (Some(true), _) => Check::good("nri", format!("enabled by {place}")),
        (Some(false), _) => {
            Check::bad("nri", format!("disabled by {place}"), &remedy(runtime, nri))
        }
        (None, Some(true)) => Check::good("nri", "enabled by default"),
        (None, Some(false)) => {
            Check::bad("nri", "disabled by default in this version", &remedy(runtime, nri))
        }
        (None, None) => {
            let seen = "not configured, and the version is not known: containerd 2.0 and CRI-O 1.30 have it enabled, older ones do not";
            Check::unknown("nri", seen, &format!("if there is no socket, {}", remedy(runtime, nri)))
        }
    }
}

fn listens(settings: &Settings, nri: &Nri) -> Check {
    if nri.connections == Some(false) {
        let remedy = "allow connections (disable_connections), or link this program into the directory of launched plugins";
        return Check::bad("connections", "plugins can't connect, only be launched", remedy);
    }
    let (ours, theirs) = (settings.socket_path(), nri.socket.as_deref());
    match theirs {
        Some(theirs) if plain(theirs) != plain(ours) => Check::bad(
            "connections",
            format!("the runtime listens at {}, not {}", theirs.display(), ours.display()),
            &format!("set socket-path to {}", theirs.display()),
        ),
        _ => Check::good("connections", format!("expected at {}", ours.display())),
    }
}

/// `/var/run` is a link to `/run`, on a host if not in a pod.
fn plain(path: &Path) -> PathBuf {
    path.strip_prefix("/var/run").map_or(path.to_owned(), |rest| Path::new("/run").join(rest))
}

fn validator(settings: &Settings, runtime: &Runtime, nri: &Nri) -> Check {
    if nri.rejects_hooks {
        let key = match runtime.kind {
            Kind::Containerd => "reject_oci_hook_adjustment",
            Kind::Crio => "nri_validator_reject_oci_hook_adjustment",
        };
        let seen = format!("{key} is set: containers that hooks are injected into are not created");
        let remedy = "set it to false, or do not run this plugin and call update-ldcache from the CDI specification";
        return Check::bad("validator", seen, remedy);
    }
    let identity = settings.identity().map(|identity| identity.to_string()).unwrap_or_default();
    let name = settings.name.as_deref().unwrap_or("nri-ldcache");
    if nri.required.iter().any(|required| required == name || *required == identity) {
        let seen = "containers are not created while this plugin is not connected";
        let remedy =
            "this is a choice: exempt this plugin's own pod with the annotation that tolerates it";
        return Check::warning("validator", seen, remedy);
    }
    Check::good("validator", "none that rejects hooks or requires this plugin")
}

/// Looks at the socket and does not connect: a connection alone takes a lock in the runtime that every container waits for
/// (<https://github.com/containerd/containerd/issues/14083>).
fn socket(path: &Path) -> Check {
    let name = path.display();
    match path.metadata() {
        Ok(found) if !found.file_type().is_socket() => {
            Check::bad("socket", format!("{name} is not a socket"), "set socket-path")
        }
        Ok(_) if mounted(path).is_ok_and(|mounted| mounted) => Check::warning(
            "socket",
            format!("{name} is a mount of its own, and dead once the runtime restarts"),
            "mount its directory instead",
        ),
        Ok(_) => {
            let seen =
                format!("{name} is there; not connected to, for that alone delays containers");
            Check::good("socket", seen)
        }
        Err(error) => {
            let remedy = "enable NRI and restart the runtime, mount the socket's directory into the pod, or set socket-path";
            Check::bad("socket", format!("{name}: {error}"), remedy)
        }
    }
}

fn mounted(path: &Path) -> Result<bool> {
    Ok(jail::is_mount_point(&path.canonicalize()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime(kind: Kind, version: Option<(u32, u32)>) -> Runtime {
        let nri = Ok(Nri::default());
        Runtime { name: "x", kind, version, told: None, runs: true, config: "/c", nri }
    }

    #[test]
    fn defaults_are_those_of_the_version() {
        for (kind, version, schema, expected) in [
            (Kind::Containerd, Some((1, 7)), Some(2), State::Bad),
            (Kind::Containerd, Some((2, 0)), Some(2), State::Good),
            (Kind::Containerd, None, Some(3), State::Good),
            (Kind::Containerd, None, Some(2), State::Unknown),
            (Kind::Crio, Some((1, 29)), None, State::Bad),
            (Kind::Crio, Some((1, 30)), None, State::Good),
            (Kind::Crio, None, None, State::Unknown),
        ] {
            let nri = Nri { schema, ..Nri::default() };
            let check = enabled(&runtime(kind, version), &nri);
            assert_eq!(check.state, expected, "{kind:?} {version:?} {schema:?}");
        }
    }

    #[test]
    fn one_runtime_with_nri_is_enough() {
        let off = Nri { enabled: Some(false), ..Nri::default() };
        let on = Nri { enabled: Some(true), ..Nri::default() };
        let with = |nri: &Nri| Runtime { nri: Ok(nri.clone()), ..runtime(Kind::Containerd, None) };
        let states = |runtimes: &[Runtime]| {
            let checks = checks(&Settings::default(), runtimes);
            checks
                .iter()
                .filter(|check| check.name == "nri")
                .map(|check| check.state)
                .collect::<Vec<_>>()
        };
        assert_eq!(states(&[with(&off)]), [State::Bad]);
        assert_eq!(states(&[with(&off), with(&on)]), [State::Warning, State::Good]);
    }

    #[test]
    fn what_stops_hooks_is_bad() {
        let settings = Settings::default();
        let crio = runtime(Kind::Crio, None);
        let rejecting = Nri { rejects_hooks: true, ..Nri::default() };
        let check = validator(&settings, &crio, &rejecting);
        assert!(check.state == State::Bad && check.seen.starts_with("nri_validator_reject"));
        for (required, expected) in [
            ("nri-ldcache", State::Warning),
            ("90-nri-ldcache", State::Warning),
            ("x", State::Good),
        ] {
            let nri = Nri { required: vec![required.to_owned()], ..Nri::default() };
            assert_eq!(validator(&settings, &crio, &nri).state, expected);
        }
        for (socket, expected) in [
            ("/var/run/nri/nri.sock", State::Good),
            ("/run/nri/nri.sock", State::Good),
            ("/s", State::Bad),
        ] {
            let nri = Nri { socket: Some(socket.into()), ..Nri::default() };
            assert_eq!(listens(&settings, &nri).state, expected, "{socket}");
        }
        let launched = Nri { connections: Some(false), ..Nri::default() };
        assert_eq!(listens(&settings, &launched).state, State::Bad);
        assert_eq!(super::socket(Path::new("/nowhere/s")).state, State::Bad);
        assert_eq!(super::socket(Path::new("/etc")).state, State::Bad);
    }
}
