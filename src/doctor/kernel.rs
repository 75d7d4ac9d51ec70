//! Checks of the kernel: the layers of the jail, each by the system call that it is made of, in a way that changes nothing.
//!
//! Hooks run on the host and outside of what confines a pod, so a refusal here (EPERM) says nothing of them; only what the
//! kernel does not know (ENOSYS) they don't have, either.

use std::fs;
use std::thread;

use anyhow::{Context, Result};
use landlock::{AccessFs, LandlockStatus, Ruleset, RulesetAttr};
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, ResolveFlags, SealFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

use super::Check;
use crate::config::Settings;
use crate::jail;
use crate::update::{Engine, Sandbox};

pub(super) fn checks(settings: &Settings) -> Vec<Check> {
    let strict = settings.sandbox.unwrap_or_default() == Sandbox::Strict;
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let layers = [
        layer("openat2", openat2(), "5.6", strict),
        layer("open_tree", open_tree(), "5.2", strict),
        layer("mount_setattr", mount_setattr(), "5.12", strict),
        layer("landlock", landlock(), "5.13", strict),
        layer("seccomp", seccomp(), "4.14", strict),
    ];
    let mut checks = vec![Check::good("kernel", format!("Linux {release}"))];
    checks.extend(layers);
    checks.extend([memfd(settings), namespaces(), security_module()]);
    checks
}

/// What came of using a layer: what it is, or what the kernel says.
type Probe = Result<String, Errno>;

fn layer(name: &'static str, probe: Probe, since: &str, strict: bool) -> Check {
    match probe {
        Ok(seen) => Check::good(name, seen),
        Err(Errno::NOSYS | Errno::OPNOTSUPP) => {
            let seen = format!("this kernel has none (since Linux {since})");
            match strict {
                true => Check::bad(name, seen, "set sandbox to best-effort, or update the kernel"),
                false => Check::warning(name, seen, "update the kernel; the other layers hold"),
            }
        }
        Err(error) => {
            let seen = format!("{error} for this process, which says nothing of hooks");
            Check::unknown(
                name,
                seen,
                "run this on the host itself: a pod is confined in ways that hooks are not",
            )
        }
    }
}

fn there(done: rustix::io::Result<impl Sized>) -> Probe {
    done.map(|_| "there".to_owned())
}

fn openat2() -> Probe {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    there(rustix::fs::openat2(CWD, c"/", flags, Mode::empty(), ResolveFlags::IN_ROOT))
}

/// Without a copy of the tree: a descriptor, as open(2) would give.
fn open_tree() -> Probe {
    there(rustix::mount::open_tree(CWD, c"/", OpenTreeFlags::OPEN_TREE_CLOEXEC))
}

/// A change of nothing.
fn mount_setattr() -> Probe {
    there(jail::mount_setattr_is_there().map_err(|error| Errno::from_raw_os_error(error as i32)))
}

/// In a thread that ends with the restriction.
fn landlock() -> Probe {
    let restricted = thread::spawn(|| -> Result<LandlockStatus> {
        let rules = Ruleset::default().handle_access(AccessFs::Execute)?.create()?;
        Ok(rules.restrict_self()?.landlock)
    });
    match restricted.join() {
        Ok(Ok(LandlockStatus::Available { effective_abi, kernel_abi })) => {
            let version = kernel_abi.unwrap_or(effective_abi as i32);
            Ok(format!("there, version {version}"))
        }
        Ok(Ok(LandlockStatus::NotEnabled)) => Err(Errno::OPNOTSUPP),
        Ok(Ok(LandlockStatus::NotImplemented)) => Err(Errno::NOSYS),
        _ => Err(Errno::PERM),
    }
}

fn seccomp() -> Probe {
    match fs::read_to_string("/proc/self/status") {
        Ok(status) if status.contains("\nSeccomp:") => Ok("there".to_owned()),
        Ok(_) => Err(Errno::NOSYS),
        Err(_) => Err(Errno::ACCESS),
    }
}

/// What ldconfig is executed from, and nothing else.
fn memfd(settings: &Settings) -> Check {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let made = match rustix::fs::memfd_create("probe", flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => rustix::fs::memfd_create("probe", flags),
        made => made,
    };
    let sealed = made.and_then(|file| rustix::fs::fcntl_add_seals(file, SealFlags::WRITE));
    let needed = settings.engine.unwrap_or_default() == Engine::Ldconfig;
    match sealed {
        Ok(()) => Check::good("memfd", "can be executed and sealed"),
        Err(error) if needed => {
            let remedy = "set vm.memfd_noexec to 0 or 1, or engine to auto";
            Check::bad("memfd", format!("can't be executed: {error}"), remedy)
        }
        Err(error) => {
            let seen = format!("can't be executed: {error}; only the engine ldconfig needs it");
            Check::good("memfd", seen)
        }
    }
}

/// Of the mount namespace there must be one more, of the others there should.
fn namespaces() -> Check {
    let limit = |kind: &str| -> Result<u64> {
        let path = format!("/proc/sys/user/max_{kind}_namespaces");
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        text.trim().parse().with_context(|| format!("read {path}"))
    };
    let none = |kind: &&str| limit(kind).is_ok_and(|limit| limit == 0);
    let refused: Vec<_> = ["mnt", "pid", "ipc", "uts", "net"].into_iter().filter(none).collect();
    let named = || format!("user.max_{}_namespaces is 0", refused.join("_namespaces, user.max_"));
    if let Err(error) = limit("mnt") {
        return Check::unknown(
            "namespaces",
            format!("{error:#}"),
            "look at user.max_mnt_namespaces",
        );
    }
    match refused.first() {
        None => {
            // Hooks are root and need none; pods with hostUsers: false do.
            let users = limit("user").unwrap_or_default();
            Check::good("namespaces", format!("mount, pid, ipc, uts and network; {users} of users"))
        }
        Some(&"mnt") => {
            Check::bad("namespaces", named(), "raise it: every hook needs a mount namespace")
        }
        Some(_) => Check::warning("namespaces", named(), "raise it; the other layers hold"),
    }
}

/// Who may keep this process from the socket, or the runtime from the hook.
fn security_module() -> Check {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let own = read("/proc/self/attr/current");
    let own = own.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    if own.contains(":container_t:") {
        let seen = format!("SELinux has this process as {own}, which may not use the NRI socket");
        return Check::bad("security module", seen, "set seLinuxOptions.type to spc_t for the pod");
    }
    match (
        read("/sys/fs/selinux/enforce").trim(),
        read("/sys/module/apparmor/parameters/enabled").trim(),
    ) {
        ("1", _) => {
            Check::good("security module", format!("SELinux, enforcing; this process is {own}"))
        }
        ("0", _) => Check::good("security module", "SELinux, permissive"),
        (_, "Y") => Check::good("security module", format!("AppArmor; this process is {own}")),
        _ => Check::good("security module", "neither SELinux nor AppArmor seen"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn what_is_refused_is_not_what_is_missing() {
        let state = |probe, strict| layer("x", probe, "1.0", strict).state;
        assert_eq!(state(Ok(String::new()), true), State::Good);
        assert_eq!(state(Err(Errno::NOSYS), false), State::Warning);
        assert_eq!(state(Err(Errno::NOSYS), true), State::Bad);
        assert_eq!(state(Err(Errno::PERM), true), State::Unknown);
    }

    #[test]
    fn probes_leave_this_process_as_it_was() {
        let status = || {
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            let ours = |line: &&str| line.starts_with("NoNewPrivs") || line.starts_with("Seccomp:");
            let lines: Vec<_> = status.lines().filter(ours).map(str::to_owned).collect();
            (lines, fs::read_to_string("/proc/self/mountinfo").unwrap())
        };
        let before = status();
        let checks = checks(&Settings::default());
        assert_eq!(status(), before);
        assert!(checks.iter().any(|check| check.name == "openat2"));
    }
}
