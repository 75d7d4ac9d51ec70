//! In which namespaces, and with which rights, the hook starts.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

/// User ids of the host that a container's are mapped to.
pub(crate) const MAPPED: u32 = 100_000;

/// How a runtime may have started the hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Situation {
    /// As the host's root; the container's root is a plain directory.
    Host,
    /// As the host's root; the container's root is an overlay.
    Overlay,
    /// As root of a user namespace, like a pod with `hostUsers: false`.
    UserNamespace,
    /// In a user namespace that maps nobody, so nothing can be written.
    Unmapped,
    /// In a user namespace that may have no network namespace.
    NoNetwork,
    /// In a user namespace that may have no new pid, ipc, uts or network namespace.
    NoNamespaces,
    /// In a user namespace that may have no mount namespace.
    NoMountNamespace,
    /// As the host's root without CAP_SYS_ADMIN.
    NoAdmin,
}

impl Situation {
    pub(crate) const ALL: [Self; 8] = [
        Self::Host,
        Self::Overlay,
        Self::UserNamespace,
        Self::Unmapped,
        Self::NoNetwork,
        Self::NoNamespaces,
        Self::NoMountNamespace,
        Self::NoAdmin,
    ];
    const NESTED: [Self; 5] = [
        Self::UserNamespace,
        Self::Unmapped,
        Self::NoNetwork,
        Self::NoNamespaces,
        Self::NoMountNamespace,
    ];

    /// Does the container's root belong to mapped users?
    pub(crate) fn is_mapped(self) -> bool {
        Self::NESTED.contains(&self) && self != Self::Unmapped
    }

    /// The namespaces of its own that whatever the hook executes has, by their names in /proc/PID/ns.
    pub(crate) fn namespaces(self) -> &'static [&'static str] {
        match self {
            Self::NoNetwork => &["mnt", "pid", "ipc", "uts"],
            Self::NoNamespaces => &["mnt"],
            _ => &["mnt", "pid", "ipc", "uts", "net"],
        }
    }

    /// Which namespaces are refused: names of /proc/sys/user/max_*_namespaces.
    fn refused(self) -> &'static [&'static str] {
        match self {
            Self::NoNetwork => &["net"],
            Self::NoNamespaces => &["net", "ipc", "uts", "pid"],
            Self::NoMountNamespace => &["mnt"],
            _ => &[],
        }
    }
}

impl fmt::Display for Situation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "root",
            Self::Overlay => "overlay",
            Self::UserNamespace => "userns",
            Self::Unmapped => "userns, unmapped",
            Self::NoNetwork => "userns, no net",
            Self::NoNamespaces => "userns, none else",
            Self::NoMountNamespace => "userns, no mnt",
            Self::NoAdmin => "no CAP_SYS_ADMIN",
        })
    }
}

/// Processes that keep a user namespace and a mount namespace of it each.
#[derive(Debug)]
pub(crate) struct Nests(Vec<Nest>);

#[derive(Debug)]
struct Nest {
    situation: Situation,
    pid: String,
    child: Child,
}

impl Nests {
    /// Makes them, in the mount namespace of the caller.
    pub(crate) fn make() -> Result<Self> {
        Situation::NESTED.into_iter().map(Nest::make).collect::<Result<_>>().map(Self)
    }

    /// The command that runs a program in this situation; the caller's mounts appear there, too.
    pub(crate) fn command(&self, situation: Situation, program: &str) -> Command {
        match self.0.iter().find(|nest| nest.situation == situation) {
            Some(nest) => nest.command(program),
            None if situation == Situation::NoAdmin => {
                let mut command = Command::new("setpriv");
                let sets = ["--bounding-set", "-sys_admin", "--inh-caps=-sys_admin"];
                command.args(sets).arg("--").arg(program);
                command
            }
            None => Command::new(program),
        }
    }

    /// The mount tables of all of them.
    pub(crate) fn mounts(&self) -> Result<Vec<String>> {
        let table = |nest: &Nest| fs::read_to_string(format!("/proc/{}/mountinfo", nest.pid));
        self.0.iter().map(|nest| Ok(table(nest)?)).collect()
    }
}

impl Nest {
    fn make(situation: Situation) -> Result<Self> {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--mount", "--propagation", "slave"]);
        unshare.args(["sh", "-c", "echo $$; exec sleep infinity"]);
        let mut child = unshare.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut pid = String::new();
        BufReader::new(child.stdout.take().context("stdout is piped")?).read_line(&mut pid)?;
        let nest = Self { situation, pid: pid.trim().to_owned(), child };
        nest.settle().with_context(|| format!("make {situation}"))?;
        Ok(nest)
    }

    fn settle(&self) -> Result<()> {
        if !self.situation.is_mapped() {
            return Ok(());
        }
        for map in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{}/{map}", self.pid), format!("0 {MAPPED} 65536"))?;
        }
        for kind in self.situation.refused() {
            let limit = format!("echo 0 >/proc/sys/user/max_{kind}_namespaces");
            let status = self.command("sh").args(["-c", &limit]).status()?;
            ensure!(status.success(), "{limit}: {status}");
        }
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid, "--user", "--mount"]);
        match self.situation.is_mapped() {
            true => command.args(["--setuid", "0", "--setgid", "0"]),
            false => command.arg("--preserve-credentials"),
        };
        command.arg("--").arg(program);
        command
    }
}

impl Drop for Nest {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
