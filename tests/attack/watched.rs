//! A program under ptrace(2): how it ends, and what it and its children execute.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, openat, readlinkat};
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Stops until it is traced, and is the program then.
const STOPPED: &str = "kill -STOP $$; exec \"$0\" \"$@\"";

const SEALS: SealFlag = SealFlag::F_SEAL_SEAL
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_WRITE);

/// Events of ptrace(2).
const EXEC: i32 = Event::PTRACE_EVENT_EXEC as i32;
const BIRTHS: [i32; 3] = [
    Event::PTRACE_EVENT_FORK as i32,
    Event::PTRACE_EVENT_VFORK as i32,
    Event::PTRACE_EVENT_CLONE as i32,
];

/// What a program did.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    /// Not there when it had to be killed.
    pub(crate) code: Option<i32>,
    pub(crate) took: Duration,
    /// Programs that were executed after `hook` was.
    pub(crate) executed: Vec<Executed>,
}

/// A program that was executed, as it was before its first instruction.
#[derive(Debug)]
pub(crate) struct Executed {
    /// What `/proc/PID/exe` leads to.
    pub(crate) name: String,
    /// Whether it is a memfd with all seals.
    pub(crate) sealed: bool,
    /// In bytes.
    pub(crate) environment: usize,
    /// Those of its namespaces that are not the hook's.
    pub(crate) namespaces: BTreeSet<&'static str>,
}

/// The machine's procfs: a node has one of its own, with other numbers.
#[derive(Debug)]
pub(crate) struct Proc(File);

impl Proc {
    /// To be called before a node is entered.
    pub(crate) fn of_this_machine() -> Result<Self> {
        File::open("/proc").map(Self).context("open /proc")
    }

    fn open(&self, pid: Pid, name: &str) -> Result<File> {
        let path = format!("{pid}/{name}");
        let opened = openat(&self.0, path.as_str(), OFlag::O_RDONLY, Mode::empty());
        opened.map(File::from).with_context(|| format!("open /proc/{path}"))
    }

    fn link(&self, pid: Pid, name: &str) -> Result<String> {
        let path = format!("{pid}/{name}");
        let target = readlinkat(&self.0, path.as_str());
        let target = target.with_context(|| format!("read /proc/{path}"))?;
        Ok(target.to_string_lossy().into_owned())
    }

    fn namespaces(&self, pid: Pid) -> Result<Vec<(&'static str, String)>> {
        let names = ["mnt", "pid", "ipc", "uts", "net"].into_iter();
        names.map(|name| Ok((name, self.link(pid, &format!("ns/{name}"))?))).collect()
    }

    fn executed(&self, pid: Pid, hook: &[(&'static str, String)]) -> Result<Executed> {
        let program = self.open(pid, "exe")?;
        let seals = fcntl(program.as_fd(), FcntlArg::F_GET_SEALS).unwrap_or_default();
        let mut environment = Vec::new();
        self.open(pid, "environ")?.read_to_end(&mut environment)?;
        let other = self.namespaces(pid)?.into_iter().zip(hook);
        let other = other.filter(|(its, hooks)| its != *hooks).map(|((name, _), _)| name);
        Ok(Executed {
            name: self.link(pid, "exe")?,
            sealed: SealFlag::from_bits_truncate(seals).contains(SEALS),
            environment: environment.len(),
            namespaces: other.collect(),
        })
    }

    /// Runs `command`, which executes `hook` at some time, and kills it after `limit`.
    ///
    /// Only the thread that traces hears of what it traces.
    pub(crate) fn watch(
        &self,
        command: &mut Command,
        hook: &Path,
        limit: Duration,
    ) -> Result<Watched> {
        let hook = identity(&File::open(hook)?)?;
        let main = stopped(command)?;
        let mut watch = Watch {
            main,
            traced: BTreeSet::new(),
            known: BTreeSet::new(),
            hook: None,
            seen: Watched::default(),
        };
        watch.is_there(main);
        let options = Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_EXITKILL;
        ptrace::seize(main, options).context("trace")?;
        let start = Instant::now();
        while !watch.traced.is_empty() {
            let over = start.elapsed();
            if over > limit {
                for pid in &watch.traced {
                    // It may have ended meanwhile.
                    let _ = kill(*pid, Signal::SIGKILL);
                }
            }
            ensure!(over < 2 * limit, "{:?} do not die", watch.traced);
            if !watch.next(self, hook, over)? {
                thread::sleep(Duration::from_micros(300));
            }
        }
        Ok(watch.seen)
    }
}

#[derive(Debug)]
struct Watch {
    main: Pid,
    traced: BTreeSet<Pid>,
    /// Those and the ones that have ended: a child's end may be heard of before its birth.
    known: BTreeSet<Pid>,
    /// The namespaces of the hook, once it is executed.
    hook: Option<Vec<(&'static str, String)>>,
    seen: Watched,
}

impl Watch {
    /// Hears of the next event, if there is one.
    fn next(&mut self, proc: &Proc, hook: (u64, u64), now: Duration) -> Result<bool> {
        // Other threads have children of their own.
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD | WaitPidFlag::WNOHANG;
        let status = waitpid(None, Some(flags)).context("wait for what is traced")?;
        match status {
            WaitStatus::StillAlive => return Ok(false),
            WaitStatus::PtraceEvent(pid, _, EXEC) => {
                self.executes(pid, proc, hook)?;
                go_on(pid, None)?;
            }
            WaitStatus::PtraceEvent(pid, _, event) => {
                self.is_there(pid);
                if BIRTHS.contains(&event) {
                    self.is_there(Pid::from_raw(ptrace::getevent(pid)?.try_into()?));
                }
                go_on(pid, None)?;
            }
            WaitStatus::Stopped(pid, signal) => go_on(pid, Some(signal))?,
            WaitStatus::Exited(pid, code) => self.ended(pid, Some(code), now),
            WaitStatus::Signaled(pid, ..) => self.ended(pid, None, now),
            other => return Err(anyhow::anyhow!("{other:?}")),
        }
        Ok(true)
    }

    fn executes(&mut self, pid: Pid, proc: &Proc, hook: (u64, u64)) -> Result<()> {
        match &self.hook {
            Some(namespaces) => self.seen.executed.push(proc.executed(pid, namespaces)?),
            None if identity(&proc.open(pid, "exe")?)? == hook => {
                self.hook = Some(proc.namespaces(pid)?);
            }
            None => {}
        }
        Ok(())
    }

    fn is_there(&mut self, pid: Pid) {
        if self.known.insert(pid) {
            self.traced.insert(pid);
        }
    }

    fn ended(&mut self, pid: Pid, code: Option<i32>, now: Duration) {
        self.known.insert(pid);
        self.traced.remove(&pid);
        if pid == self.main {
            (self.seen.code, self.seen.took) = (code, now);
        }
    }
}

/// A command whose arguments are a program and its arguments, to be watched.
///
/// In a session of its own: the kernel hangs up a process group that has a stopped member when it loses the last one whose
/// parent is outside of it (setpgid(2), "orphaned process group"), and that would be ours.
pub(crate) fn command() -> Command {
    let mut shell = Command::new("setsid");
    shell.args(["sh", "-c", STOPPED]);
    shell
}

/// Starts the command so far that it can be traced.
fn stopped(command: &mut Command) -> Result<Pid> {
    let pid = Pid::from_raw(command.spawn().context("start")?.id().try_into()?);
    let status = waitpid(pid, Some(WaitPidFlag::WUNTRACED))?;
    ensure!(status == WaitStatus::Stopped(pid, Signal::SIGSTOP), "it does not stop: {status:?}");
    Ok(pid)
}

/// Lets a process run on, if it has not been killed meanwhile.
fn go_on(pid: Pid, signal: Option<Signal>) -> Result<()> {
    match ptrace::cont(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("let {pid} run")),
    }
}

/// Device and inode.
fn identity(file: &File) -> Result<(u64, u64)> {
    let meta = file.metadata()?;
    Ok((meta.dev(), meta.ino()))
}

#[test]
fn what_is_executed_is_seen() -> Result<()> {
    let mut command = command();
    command.args(["/bin/sh", "-c", "env -i /bin/true && exec unshare --uts /bin/true"]);
    let hook = Path::new("/bin/sh");
    let proc = Proc::of_this_machine()?;
    let seen = proc.watch(command.env_clear().env("A", "B"), hook, Duration::from_secs(10))?;
    ensure!(seen.code == Some(0), "{seen:?}");
    let own = |it: &Executed| it.namespaces.len();
    let seen: Vec<_> = seen
        .executed
        .iter()
        .map(|it| (&*it.name, it.sealed, it.environment > 0, own(it)))
        .collect();
    let expected = [
        ("/usr/bin/env", false, true, 0),
        ("/usr/bin/true", false, false, 0),
        ("/usr/bin/unshare", false, true, 0),
        ("/usr/bin/true", false, true, 1),
    ];
    ensure!(seen == expected, "{seen:?}");
    Ok(())
}
