//! The second process of a hook: pid 1 of new namespaces, watched from outside.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{PipeReader, Read, pipe};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fchdir, fork};

use crate::oci::Rootfs;

/// Bytes kept of what the stage says; ldconfig has a warning for each odd file of an image.
const STDERR_LIMIT: usize = 16 << 10;

/// Characters kept of its last line.
const REASON_LIMIT: usize = 400;

/// Runs `inside` in a process of its own, with `rootfs` as working directory, in namespaces of its own, for at most
/// `limit`. It ends by becoming another program, or with an error, which is returned here.
///
/// It is forked, not executed anew: that costs a millisecond less (in a virtual machine most of it for CPUID, which every
/// start of a C library asks for), and needs no procfs to find this program in.
pub fn run(
    rootfs: &Rootfs,
    limit: Duration,
    inside: impl FnOnce() -> Result<Infallible>,
) -> Result<()> {
    let name = rootfs.path().display();
    fchdir(rootfs).with_context(|| format!("change into root {name}"))?;
    let null =
        File::options().read(true).write(true).open("/dev/null").context("open /dev/null")?;
    let (reader, writer) = pipe().context("make pipe")?;
    isolate().context("unshare namespaces")?;
    // SAFETY: this process has one thread (no arm of `main` that comes here starts another), so the child has all of
    // the program's state, consistent, and no lock in it is held by a thread that is not there.
    #[allow(unsafe_code)]
    let forked = unsafe { fork() };
    match forked.context("fork")? {
        ForkResult::Child => {
            let done = dup2_stdin(&null)
                .and_then(|()| dup2_stdout(&null))
                .and_then(|()| dup2_stderr(&writer));
            drop(writer);
            let Err(error) = done.context("redirect standard streams").and_then(|()| inside());
            end(&error)
        }
        ForkResult::Parent { child } => {
            drop(writer);
            watch(child, reader, Instant::now() + limit).with_context(|| format!("update {name}"))
        }
    }
}

/// Ends the child. It must not return into what its parent goes on with.
#[expect(clippy::exit, clippy::disallowed_methods, reason = "there is nothing to go back to")]
fn end(error: &anyhow::Error) -> ! {
    eprintln!("{error:#}");
    std::process::exit(1)
}

/// Leaves the host's namespaces, but for the mount namespace, which [`super::enter`] leaves itself.
///
/// Sandboxes refuse some of them, so it gives up what protects least first. The pid namespace holds for the next child.
fn isolate() -> nix::Result<()> {
    let wanted = [
        CloneFlags::CLONE_NEWPID,
        CloneFlags::CLONE_NEWIPC,
        CloneFlags::CLONE_NEWUTS,
        CloneFlags::CLONE_NEWNET,
    ];
    for some in (1..=wanted.len()).rev() {
        match unshare(wanted[..some].iter().copied().collect()) {
            Err(Errno::EPERM | Errno::EINVAL | Errno::ENOSPC) => {}
            done => return done,
        }
    }
    Ok(())
}

/// Waits for the end of the child, at most until `deadline`, and tells how it ended.
fn watch(child: Pid, stderr: PipeReader, deadline: Instant) -> Result<()> {
    let said = listen(stderr, deadline).and_then(|said| wait_ended(child, deadline).map(|()| said));
    // Its descendants, if it has any, end with it: it is pid 1 of their namespace. It is no error if it has ended.
    let _ = kill(child, Signal::SIGKILL);
    let status = waitpid(child, None).context("wait for jail")?;
    let said = said?;
    ensure!(status == WaitStatus::Exited(child, 0), "{}", reason(&said, &format!("{status:?}")));
    Ok(())
}

/// Collects what the child writes to its standard error, until it closes it.
fn listen(mut stderr: PipeReader, deadline: Instant) -> Result<Vec<u8>> {
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        wait_readable(&stderr, deadline)?;
        let count = stderr.read(&mut buffer).context("read standard error of jail")?;
        if count == 0 {
            return Ok(said);
        }
        said.extend_from_slice(&buffer[..count]);
        // The last lines have the reason.
        let excess = said.len().saturating_sub(STDERR_LIMIT);
        said.drain(..excess);
    }
}

fn wait_readable(file: &impl AsFd, deadline: Instant) -> Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "killed, for its time was up");
        let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error).context("poll jail"),
        }
    }
}

/// The end of its standard error is the end of the child, but for one that closed it. Leaves it to be waited for.
fn wait_ended(child: Pid, deadline: Instant) -> Result<()> {
    use nix::sys::wait::{Id, waitid};
    let ended = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    while waitid(Id::Pid(child), ended).context("wait for jail")? == WaitStatus::StillAlive {
        ensure!(Instant::now() < deadline, "killed, for its time was up");
        std::thread::sleep(Duration::from_micros(50));
    }
    Ok(())
}

/// The last line that was said, without what could hurt a terminal or a log, else `otherwise`.
fn reason(said: &[u8], otherwise: &str) -> String {
    let said = String::from_utf8_lossy(said);
    let Some(line) = said.lines().rfind(|line| !line.trim().is_empty()) else {
        return otherwise.to_owned();
    };
    let mut reason = String::new();
    for character in line.chars().take(REASON_LIMIT) {
        match character.is_control() {
            true => _ = write!(reason, "{}", character.escape_default()),
            false => reason.push(character),
        }
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_last_line_and_harmless() {
        assert_eq!(reason(b"warning\nenter jail: EPERM\n\n", "x"), "enter jail: EPERM");
        assert_eq!(reason(b"\x1b[31mred\n", "x"), "\\u{1b}[31mred");
        assert_eq!(reason(b" \n", "exit status: 1"), "exit status: 1");
        assert_eq!(reason(&[b'a'; 5000], "x").len(), REASON_LIMIT);
    }
}
