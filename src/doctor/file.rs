//! Checks of the host's files: the hook, the reports, ldconfig.

use std::path::Path;

use super::Check;
use crate::config::Settings;
use crate::host::{self, Place};
use crate::ldconfig::Ldconfig;
use crate::update::{Engine, Update};

pub(super) fn checks(settings: &Settings) -> Vec<Check> {
    let hook = match settings.place() {
        Ok(Some(place)) => installation(&place),
        Ok(None) => hook(settings),
        Err(error) => Check::bad("hook", format!("{error:#}"), "set one of them"),
    };
    vec![hook, reports(settings), ldconfig(settings)]
}

/// What the daemon would find or do.
fn installation(place: &Place) -> Check {
    match place.look() {
        Ok(seen) => Check::good("hook", seen),
        Err(error) => {
            let remedy = "choose a directory that root alone may write, and that is mounted neither noexec nor read-only (install-dir)";
            Check::bad("hook", format!("{error:#}"), remedy)
        }
    }
}

/// The file that was installed by somebody else.
fn hook(settings: &Settings) -> Check {
    let remedy = "install this program there, or set hook-path or install-dir";
    let injection = match settings.injection() {
        Ok(injection) => injection,
        Err(error) => return Check::bad("hook", format!("{error:#}"), remedy),
    };
    if let Err(error) = injection.verify() {
        return Check::bad("hook", format!("{error:#}"), remedy);
    }
    let seen = injection.seen().display();
    match host::root_alone_may_change(injection.path(), settings.host_root()) {
        Ok(()) => Check::good("hook", format!("{seen} is this program")),
        Err(error) => {
            let remedy = "move it to a directory that root alone may write: it runs as root";
            Check::warning("hook", format!("{seen} is this program, but {error:#}"), remedy)
        }
    }
}

/// Hooks write there, on the host; from here it may well be read-only.
fn reports(settings: &Settings) -> Check {
    let dir = settings.reports();
    let (name, above) = (dir.display(), dir.parent().unwrap_or(Path::new("/")));
    match dir.metadata() {
        Ok(found) if found.is_dir() => Check::good("reports", format!("{name} is there")),
        Ok(_) => {
            let remedy = "remove it, or set report-dir: what hooks do is not logged";
            Check::warning("reports", format!("{name} is not a directory"), remedy)
        }
        Err(_) if above.is_dir() => {
            Check::good("reports", format!("{name} is not there yet, the first hook makes it"))
        }
        Err(error) => {
            let remedy =
                "mount the host's directory there, or set report-dir: what hooks do is not logged";
            Check::warning("reports", format!("{name}: {error}"), remedy)
        }
    }
}

fn ldconfig(settings: &Settings) -> Check {
    if settings.engine.unwrap_or_default() != Engine::Ldconfig {
        return Check::good("ldconfig", "not needed, for the engine is our own");
    }
    let path = settings.ldconfig_path.as_deref().unwrap_or(Path::new(Update::LDCONFIG));
    let path = path.to_str().map_or(path, |text| Path::new(text.trim_start_matches('@')));
    let seen = settings.host_root().join(path.strip_prefix("/").unwrap_or(path));
    match Ldconfig::seal(&seen) {
        Ok(_) => Check::good("ldconfig", format!("{} is static", seen.display())),
        Err(error) => Check::bad("ldconfig", format!("{error:#}"), "set engine to auto"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn state(text: &str, name: &str) -> (State, String) {
        let settings = Settings::parse(text).unwrap();
        let checks = checks(&settings);
        let check = checks.iter().find(|check| check.name == name).unwrap();
        (check.state, check.seen.clone())
    }

    #[test]
    fn a_hook_that_is_not_there_or_not_ours_is_bad() {
        let host = tempfile::tempdir().unwrap();
        let root = format!("host_root = '{}'\n", host.path().display());
        fs::write(host.path().join("hook"), "").unwrap();
        for (text, expected) in [
            ("hook_path = '/none'", "find hook"),
            ("hook_path = '/hook'", "not executable"),
            ("hook_path = '/x'\ninstall_dir = '/y'", "exclude each other"),
            ("install_dir = '/none/y'", "/none is not there"),
            ("install_dir = '/hook'", "is a file"),
        ] {
            let (found, seen) = state(&format!("{root}{text}"), "hook");
            assert!(found == State::Bad && seen.contains(expected), "{text}: {seen}");
        }
        let (found, seen) = state(&format!("{root}install_dir = '/y'"), "hook");
        assert!(found == State::Good && seen.contains("will be made"), "{seen}");
        assert!(!host.path().join("y").exists());
    }

    #[test]
    fn a_hook_that_others_could_replace_is_told() {
        let host = tempfile::tempdir().unwrap();
        let dir = host.path().join("open");
        fs::create_dir(&dir).unwrap();
        fs::copy("/proc/self/exe", dir.join("hook")).unwrap();
        let text = format!("host_root = '{}'\nhook_path = '/open/hook'", host.path().display());
        assert_eq!(state(&text, "hook").0, State::Good);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        let (found, seen) = state(&text, "hook");
        assert!(found == State::Warning && seen.contains("others than its owner"), "{seen}");
    }

    #[test]
    fn reports_and_ldconfig_are_looked_at_below_the_hosts_root() {
        let host = tempfile::tempdir().unwrap();
        let root = format!("host_root = '{}'\n", host.path().display());
        assert_eq!(state(&root, "reports").0, State::Warning);
        fs::create_dir(host.path().join("run")).unwrap();
        assert!(state(&root, "reports").1.contains("not there yet"));
        fs::write(host.path().join("run/nri-ldcache"), "").unwrap();
        assert_eq!(state(&root, "reports").0, State::Warning);
        assert_eq!(state(&root, "ldconfig").0, State::Good);
        assert_eq!(state(&format!("{root}engine = 'ldconfig'"), "ldconfig").0, State::Bad);
    }
}
