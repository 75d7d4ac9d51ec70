//! [`Child`]: a forked process that is waited for until a deadline, and never left behind.

use std::fs::File;
use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use rustix::process::{PidfdFlags, pidfd_open};

/// How long a killed process may take to end. One in a frozen cgroup (v1) does not end before it is thawed.
const PATIENCE: Duration = Duration::from_secs(1);

/// A child of this process.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    /// Becomes readable when it ends; not before Linux 5.3.
    ended: Option<OwnedFd>,
    /// Closed when this process dies, which the child may want to know before the kernel minds it.
    _lives: PipeWriter,
}

impl Child {
    /// Forks a child that does `work` and exits with the code that it returns. The kernel kills it if this process dies.
    ///
    /// But for an instant: a child that is stopped before its first system call, and whose parent is killed then, has asked
    /// for nothing yet, and ends when it is continued. Nothing tells the kernel earlier: a fork inherits no
    /// `PR_SET_PDEATHSIG` (prctl(2)).
    pub(crate) fn spawn(work: impl FnOnce() -> i32) -> nix::Result<Self> {
        let (parent_lives, lives) = io::pipe().map_err(errno)?;
        // SAFETY: this process has one thread (no arm of `main` that comes here starts another), so the child has all of
        // the program's state, consistent, and no lock in it is held by a thread that is not there.
        #[allow(unsafe_code)]
        let forked = unsafe { fork() }?;
        match forked {
            ForkResult::Child => {
                drop(lives);
                // The end of file means that the parent died before the kernel was told to mind it.
                let orphaned = set_pdeathsig(Signal::SIGKILL).is_err()
                    || !matches!(readable(&parent_lives, Instant::now()), Ok(false));
                // A panic must not unwind into what the parent goes on with; its message is on stderr.
                end(if orphaned { 1 } else { catch_unwind(AssertUnwindSafe(work)).unwrap_or(1) })
            }
            ForkResult::Parent { child } => {
                let raw = rustix::process::Pid::from_raw(child.as_raw());
                let ended = raw.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
                Ok(Self { pid: child, ended, _lives: lives })
            }
        }
    }

    /// Waits until the child has ended; `None` if it has not at the deadline.
    pub(crate) fn wait(&self, deadline: Instant) -> nix::Result<Option<WaitStatus>> {
        loop {
            match waitpid(self.pid, Some(WaitPidFlag::WNOHANG))? {
                WaitStatus::StillAlive if Instant::now() >= deadline => return Ok(None),
                WaitStatus::StillAlive => {}
                status => return Ok(Some(status)),
            }
            match &self.ended {
                Some(ended) => _ = readable(ended, deadline)?,
                None => sleep(Duration::from_millis(1)),
            }
        }
    }

    /// Kills the child and, if it is pid 1 of a namespace, whatever else lives there.
    pub(crate) fn kill(self) -> nix::Result<Killed> {
        match kill(self.pid, Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => Ok(Killed(self)),
            Err(error) => Err(error),
        }
    }
}

/// A child that was killed. It has a second to end, until this is dropped.
#[derive(Debug)]
pub struct Killed(Child);

impl Killed {
    /// How it ended; `None` if it does not.
    pub(crate) fn status(&self) -> nix::Result<Option<WaitStatus>> {
        self.0.wait(Instant::now() + PATIENCE)
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // ECHILD if its status was asked for.
        let _ = self.status();
    }
}

/// Opens a file to read it. If it is a FIFO nobody needs to write into it yet.
pub(crate) fn open_without_waiting(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)
}

/// Is there something to read, or an end of file, before `deadline`?
pub(crate) fn readable(file: &impl AsFd, deadline: Instant) -> nix::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.as_millis() + u128::from(!left.is_zero()));
        match poll(
            &mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)],
            timeout.unwrap_or(PollTimeout::MAX),
        ) {
            Ok(0) if Instant::now() >= deadline => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error),
        }
    }
}

/// How much memory this process has had at most (proc_pid_status(5), `VmHWM`). getrusage(2) would count what was there
/// before it executed this program, too.
#[derive(Debug)]
pub(crate) struct Memory(Option<File>);

impl Memory {
    /// Opens the file while there is a procfs to open it in.
    pub(crate) fn watch() -> Self {
        Self(File::open("/proc/self/status").ok())
    }

    /// The most until now, in KiB.
    pub(crate) fn peak(&self) -> Option<u64> {
        let mut text = [0; 4096];
        let length = self.0.as_ref()?.read_at(&mut text, 0).ok()?;
        let text = str::from_utf8(&text[..length]).ok()?;
        let size = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        size.trim().trim_end_matches(" kB").parse().ok()
    }
}

#[expect(clippy::exit, clippy::disallowed_methods, reason = "a child has nothing to go back to")]
fn end(code: i32) -> ! {
    std::process::exit(code)
}

fn errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}
